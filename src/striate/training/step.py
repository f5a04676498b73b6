"""One step of a training."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from striate.models.sizing import count_parts
from striate.training.augmentation import BatchRandom, augment
from striate.training.capture import CapturedStep, TakesStep
from striate.training.distributed import Group, gradients
from striate.training.lowered import LoweredWeights
from striate.training.mixing import Targets, rows_of
from striate.training.norms import running_statistics
from striate.training.state import State
from striate.training.task import Task

if TYPE_CHECKING:
    from striate.training.resume import Checkpointer


def build_step(
    task: Task, state: State, group: Group, checkpointer: Checkpointer | None
) -> TakesStep:
    """The step of a training, captured as a CUDA graph where that is possible."""
    step = Step(task, state, group, checkpointer)
    settings = task.params.training
    # In the reference arithmetic the learning rate is a number, which a graph would hold for ever.
    on_one_gpu = task.device.type == "cuda" and group.size == 1
    if settings.capture == "never" or not on_one_gpu or not task.is_fast:
        return step
    return CapturedStep(step, settings.batch_size, state.generator)


class Step:
    """Forward, loss and backward for each part of a batch, all-reduce, update.

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
        # Not measured on a GPU yet; without it autocast converts, to the same bits.
        self.lowered = None
        if task.precision.dtype != torch.float32:
            self.lowered = LoweredWeights(state.model, task.precision.dtype)
        if isinstance(task.train_set.images, Tensor):
            self.images = self._arranged(task.train_set.images)

    def __call__(self, indices: Tensor, pixels: Tensor | None = None, *, shrunk: bool) -> None:
        """Change the state by one step; see `TakesStep`."""
        inputs, targets = self._batch(indices, pixels, shrunk)
        for parameter in self.parameters:
            parameter.grad = None
        loss, correct = self._add_gradients(inputs, targets, len(indices))
        self.state.last_loss.copy_(loss)
        self.state.correct.add_(correct if self.group.size == 1 else self._all_reduce(correct))
        self._update()

    def _batch(
        self, indices: Tensor, pixels: Tensor | None, shrunk: bool
    ) -> tuple[Tensor, Targets]:
        """The augmented images of this rank's slice of a batch, and their labels."""
        task, mixing = self.task, self.state.mixing
        rows = rows_of(self.group, indices, mixing)
        own = indices[rows]
        labels = task.train_set.labels[own]
        flipped = None if self.state.flipped is None else self.state.flipped[own]
        random = BatchRandom(self.state.generator, len(indices), rows)
        if pixels is None:
            images = self.images
        else:
            images = self._arranged(pixels)
            own = torch.arange(len(own), device=task.device)
        inputs = augment(
            images, own, flipped, task.normalize, task.params.augment, random, shrunk=shrunk
        )
        return (inputs, Targets(labels)) if mixing is None else mixing.mix(inputs, labels)

    def _add_gradients(self, inputs: Tensor, targets: Targets, size: int) -> tuple[Tensor, Tensor]:
        """Add up the gradients of all parts of this rank's slice, by a pass for each part.

        Args:
            inputs: of this slice.
            targets: of this slice.
            size: of the whole batch.

        Returns:
            The slice's share of the mean loss over the batch, and how many of its images were
            classified correctly.
        """
        settings = self.task.params.training
        parts = count_parts(size, self.group.size, settings.accumulate)
        is_whole = parts == self.group.size == 1
        losses, hits = [], []
        for images, wanted in zip(inputs.tensor_split(parts), targets.split(parts), strict=True):
            logits = self._forward(images)
            reduction = "mean" if is_whole else "sum"
            loss = wanted.loss(
                logits.float(), settings.label_smoothing, self.task.class_weights, reduction
            )
            if not is_whole:
                loss = loss / size
            loss.backward()
            if self.lowered:
                self.lowered.widen_grads()
            losses.append(loss.detach())
            hits.append(wanted.correct(logits))
        return reduce(torch.add, losses), reduce(torch.add, hits)

    def _update(self) -> None:
        """Change the weights by their gradients, which are those of the whole batch."""
        clip = self.task.params.training.clip
        if clip:
            nn.utils.clip_grad_norm_(self.parameters, clip)
        for optimizer in self.state.optimizers:
            optimizer.step()
        if self.state.average:
            self.state.average.update()

    def _arranged(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self.task.precision.memory_format)

    def _forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor
        if self.lowered is None:
            logits = self.state.model(inputs)
            return logits
        weights = self.lowered.refresh()
        # It keeps no converted weights: those of the convolutions come converted.
        with torch.autocast(inputs.device.type, self.task.precision.dtype, cache_enabled=False):
            logits = functional_call(self.state.model, weights, (inputs,))
            return logits

    def _all_reduce(self, correct: Tensor) -> Tensor:
        """Sum over all processes what each has of this step, in one call.

        Gradients and loss are parts of the mean over the batch; running statistics are averaged.

        Args:
            correct: how many images this process classified correctly.

        Returns:
            How many images all of them classified correctly.
        """
        grads = gradients(self.parameters)
        statistics = running_statistics(self.state.model)
        for value in statistics:
            value.div_(self.group.size)
        hits = correct.float()
        requested = self.state.save_requested
        requested.fill_(self.checkpointer is not None and self.checkpointer.is_due())
        self.group.all_reduce([*grads, *statistics, self.state.last_loss, hits, requested])
        return hits.long()
