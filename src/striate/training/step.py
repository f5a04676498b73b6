"""One step of a training, and its capture as a CUDA graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.training.augmentation import BatchRandom, augment
from striate.training.distributed import Group
from striate.training.norms import running_statistics
from striate.training.state import State
from striate.training.task import Task

if TYPE_CHECKING:
    from striate.training.resume import Checkpointer

WARM_UP = 3  # steps before a CUDA graph is captured


class TakesStep(Protocol):
    """Learns from one batch."""

    def __call__(self, indices: Tensor, pixels: Tensor | None = None, *, shrunk: bool) -> None:
        """Change the state by one step.

        Args:
            indices: of the images of the whole batch, int64 (B,).
            pixels: the images of this rank's slice, uint8; None if all images are on the device.
            shrunk: whether to shrink the images.
        """


def build_step(
    task: Task, state: State, group: Group, checkpointer: Checkpointer | None
) -> TakesStep:
    """The step of a training, captured as a CUDA graph where that is possible."""
    step = Step(task, state, group, checkpointer)
    settings = task.params.training
    if not (
        settings.capture == "auto"
        and task.device.type == "cuda"
        and group.size == 1
        and isinstance(task.train_set.images, Tensor)
    ):
        return step
    for optimizer in state.optimizers:
        optimizer.move_rate(task.device)
    return CapturedStep(step, settings.batch_size, state.generator)


class Step:
    """Forward, loss, backward, all-reduce, update.

    Args:
        task: what is trained on.
        state: changed in place.
        group: the processes that divide each batch.
        checkpointer: of this process; it may ask the others to save the state.
    """

    def __init__(
        self, task: Task, state: State, group: Group, checkpointer: Checkpointer | None
    ) -> None:
        self.task, self.state, self.group = task, state, group
        self.checkpointer = checkpointer
        self.parameters = [value for value in state.model.parameters() if value.requires_grad]
        if isinstance(task.train_set.images, Tensor):
            self.images = self._arranged(task.train_set.images)

    def __call__(self, indices: Tensor, pixels: Tensor | None = None, *, shrunk: bool) -> None:
        """Change the state by one step; see `TakesStep`."""
        part = self.group.rank_slice(len(indices))
        labels = self.task.train_set.labels[indices[part]]
        logits = self._forward(self._inputs(indices, part, pixels, shrunk))
        loss = F.cross_entropy(
            logits.float(), labels, label_smoothing=self.task.params.training.label_smoothing,
            reduction="mean" if self.group.size == 1 else "sum",
        )  # fmt: skip
        if self.group.size > 1:
            loss = loss / len(indices)
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        self.state.last_loss.copy_(loss.detach())
        correct = (logits.argmax(1) == labels).sum()
        self.state.correct.add_(correct if self.group.size == 1 else self._all_reduce(correct))
        for optimizer in self.state.optimizers:
            optimizer.step()

    def _inputs(self, indices: Tensor, part: slice, pixels: Tensor | None, shrunk: bool) -> Tensor:
        """The augmented images of this rank's slice of a batch."""
        task, own = self.task, indices[part]
        flipped = None if self.state.flipped is None else self.state.flipped[own]
        random = BatchRandom(self.state.generator, len(indices), part)
        if pixels is None:
            images = self.images
        else:
            images = self._arranged(pixels)
            own = torch.arange(len(own), device=task.device)
        return augment(
            images, own, flipped, task.normalize, task.params.augment, random, shrunk=shrunk
        )

    def _arranged(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self.task.precision.memory_format)

    def _forward(self, inputs: Tensor) -> Tensor:
        # Each weight is used once a step, so a cache of converted weights would gain nothing.
        with torch.autocast(
            inputs.device.type, torch.bfloat16, self.task.precision.dtype == torch.bfloat16,
            cache_enabled=False,
        ):  # fmt: skip
            logits: Tensor = self.state.model(inputs)
            return logits

    def _all_reduce(self, correct: Tensor) -> Tensor:
        """Sum over all processes what each has of this step, in one call.

        Gradients and loss are parts of the mean over the batch; running statistics are averaged.

        Args:
            correct: how many images this process classified correctly.

        Returns:
            How many images all of them classified correctly.
        """
        grads = [value.grad for value in self.parameters if value.grad is not None]
        statistics = running_statistics(self.state.model)
        for value in statistics:
            value.div_(self.group.size)
        hits = correct.float()
        requested = self.state.save_requested
        requested.fill_(self.checkpointer is not None and self.checkpointer.is_due())
        self.group.all_reduce([*grads, *statistics, self.state.last_loss, hits, requested])
        return hits.long()


class CapturedStep:
    """A step that is captured once as a CUDA graph and then replayed as a whole.

    Otherwise the time to launch a hundred kernels limits small batches. The first calls are
    ordinary steps, in which libraries choose their algorithms and allocate their buffers; a batch
    of another size is never captured.

    Args:
        step: reads no tensor that is made anew for each call, except the indices.
        batch_size: of the batches that are replayed.
        generator: of the random numbers that the step draws.
    """

    def __init__(self, step: TakesStep, batch_size: int, generator: torch.Generator) -> None:
        self.step = step
        self.indices = torch.empty(batch_size, dtype=torch.int64, device=generator.device)
        # A graph for each size of image.
        self.graphs = {shrunk: torch.cuda.CUDAGraph() for shrunk in (True, False)}
        self.calls = dict.fromkeys(self.graphs, 0)
        for graph in self.graphs.values():
            graph.register_generator_state(generator)

    def __call__(self, indices: Tensor, pixels: Tensor | None = None, *, shrunk: bool) -> None:
        """Change the state by one step; see `TakesStep`."""
        if len(indices) != len(self.indices):
            self.step(indices, pixels, shrunk=shrunk)
            return
        self.calls[shrunk] += 1
        if self.calls[shrunk] <= WARM_UP:
            self._warm_up(indices, shrunk)
            return
        self.indices.copy_(indices)
        if self.calls[shrunk] == WARM_UP + 1:
            with torch.cuda.graph(self.graphs[shrunk]):
                self.step(self.indices, shrunk=shrunk)
        self.graphs[shrunk].replay()

    def _warm_up(self, indices: Tensor, shrunk: bool) -> None:
        """Take an ordinary step on a side stream, as capturing requires."""
        device = indices.device
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            self.step(indices, shrunk=shrunk)
        torch.cuda.current_stream(device).wait_stream(side)
