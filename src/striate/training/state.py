"""The live state of a training: all that a resumed one needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from striate.models.registry import Network
from striate.training.augmentation import draw_flipped
from striate.training.average import WeightAverage
from striate.training.history import kept_epoch
from striate.training.mixing import Mixing
from striate.training.optimizers import build_optimizers
from striate.training.task import Task


class State:
    """What changes from step to step.

    All tensors are changed in place, so that a step that was captured as a CUDA graph finds them.

    Args:
        model: on the device of the task.
        task: what is trained on.
        steps_per_epoch: how many losses an epoch has.

    Attributes:
        model: the network.
        optimizers: one for each group of its parameters.
        generator: of the order of the batches and of the augmentation.
        weights: the network's parameters and statistics, by name; they change as it learns.
        average: of the weights over the steps, scored and kept in their place; None for none.
        best: a copy of the weights of the epoch that is kept.
        order: of the images in this epoch, int64 (N,).
        flipped: which images are flipped in this epoch, bool (N,); None for none.
        mixing: how this epoch's batches are mixed; None for not at all.
        losses: of the steps of this epoch, float32 (steps,).
        last_loss: of the last step, float32 ().
        correct: how many images this epoch has classified correctly so far, int64 ().
        save_requested: above 0 if any process asked at the last step to save the state.
        steps_done: in this epoch.
        rows: one dict for each epoch that is over.
    """

    def __init__(self, model: Network, task: Task, steps_per_epoch: int) -> None:
        device, precision, params = task.device, task.precision, task.params
        count = len(task.train_set.labels)
        self.model = model.to(memory_format=precision.memory_format)
        self.optimizers = build_optimizers(
            model, params.training, fused=task.is_fast and device.type != "mps",
            dtype=precision.dtype,
        )  # fmt: skip
        if task.is_fast and device.type == "cuda":
            # Also where no step is captured, so that both round alike.
            for optimizer in self.optimizers:
                optimizer.move_rate(device)
        self.generator = torch.Generator(device).manual_seed(params.seed)
        self.weights: dict[str, Tensor] = model.state_dict()
        decay = params.training.ema
        self.average = WeightAverage(self.model, decay) if decay else None
        self.best = {name: value.clone() for name, value in self.weights.items()}
        self.order = torch.empty(count, dtype=torch.int64, device=device)
        self.flipped = draw_flipped(count, self.generator) if params.augment.flip else None
        mixes = params.augment.mixup or params.augment.cutmix
        self.mixing = Mixing(params.augment, steps_per_epoch, device) if mixes else None
        self.losses = torch.zeros(steps_per_epoch, device=device)
        self.last_loss = torch.zeros((), device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.save_requested = torch.zeros((), device=device)
        self.steps_done = 0
        self.rows: list[dict[str, Any]] = []

    def begin_epoch(self) -> None:
        """Shuffle, flip and pair the images, unless the epoch was resumed after some steps."""
        if self.steps_done:
            return
        self.correct.zero_()
        torch.randperm(
            len(self.order), generator=self.generator, device=self.order.device, out=self.order
        )
        if self.flipped is not None and self.rows:
            self.flipped.logical_not_()
        if self.mixing is not None:
            self.mixing.draw(self.generator)

    def begin_step(self) -> None:
        """Put what differs from step to step where the next one reads it, also a captured one."""
        if self.mixing is not None:
            self.mixing.begin_step(self.steps_done)
        if self.average is not None:
            self.average.begin_step(len(self.rows) * len(self.losses) + self.steps_done)

    @property
    def scored_model(self) -> Network:
        """The network that is scored and kept."""
        return self.model if self.average is None else self.average.model

    def drawn(self) -> list[Tensor]:
        """What was drawn for an epoch: the order of the images, their flips, the mixing."""
        found = [self.order]
        if self.flipped is not None:
            found.append(self.flipped)
        if self.mixing is not None:
            found.append(self.mixing.drawn)
        return found

    def end_epoch(self, row: dict[str, Any], keep: str) -> None:
        """Add the row of an epoch, and copy its weights if they are the ones to keep.

        Args:
            row: as `fit` yields it.
            keep: `training.keep`.
        """
        self.rows.append(row)
        self.steps_done = 0
        if kept_epoch(self.rows, keep) == row["epoch"]:
            averages = {} if self.average is None else self.average.values
            for name, value in self.best.items():
                value.copy_(averages.get(name, self.weights[name]))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that a resumed training needs, by name."""
        found = {f"model.{name}": value for name, value in self.weights.items()}
        found |= {f"best.{name}": value for name, value in self.best.items()}
        for index, optimizer in enumerate(self.optimizers):
            found |= {f"optimizer.{index}.{k}": value for k, value in enumerate(optimizer.state())}
        found |= {"order": self.order, "losses": self.losses, "correct": self.correct}
        if self.flipped is not None:
            found["flipped"] = self.flipped
        if self.mixing is not None:
            found["mixing"] = self.mixing.drawn
        if self.average is not None:
            found |= {f"average.{name}": value for name, value in self.average.values.items()}
        return found

    def random_states(self) -> list[Tensor]:
        """Of this process's generators, from which dropout draws: the CPU's and the device's."""
        states = [torch.get_rng_state()]
        if self.order.device.type != "cpu":
            states.append(torch.get_device_module(self.order.device).get_rng_state())
        return states

    def snapshot(self, random_states: list[list[Tensor]]) -> dict[str, Any]:
        """A copy on the CPU, to save.

        Args:
            random_states: of each process, by rank.
        """
        return {
            "tensors": {name: value.to("cpu", copy=True) for name, value in self.tensors().items()},
            "generator": self.generator.get_state(),
            "random_states": random_states,
            "steps_done": self.steps_done,
            "rows": self.rows,
        }

    def restore(self, snapshot: dict[str, Any], rank: int, world_size: int) -> None:
        """Go back to where `snapshot` was called.

        Args:
            snapshot: what it returned, in this or in an earlier process.
            rank: of this process.
            world_size: how many processes there are now. Where there were more or fewer of them,
                dropout draws other numbers.
        """
        for name, value in self.tensors().items():
            value.copy_(snapshot["tensors"][name])
        self.generator.set_state(snapshot["generator"])
        self.steps_done, self.rows = snapshot["steps_done"], snapshot["rows"]
        if len(snapshot["random_states"]) == world_size:
            cpu, *device = snapshot["random_states"][rank]
            torch.set_rng_state(cpu)
            for state in device:
                torch.get_device_module(self.order.device).set_rng_state(state)
