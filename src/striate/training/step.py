"""One step of a training, and its capture as a CUDA graph."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from striate.training.augmentation import BatchRandom, augment
from striate.training.distributed import Group, gradients
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
    # In the reference arithmetic the learning rate is a number, which a graph would hold for ever.
    on_one_gpu = task.device.type == "cuda" and group.size == 1
    if settings.capture == "never" or not on_one_gpu or not task.is_fast:
        return step
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
        # Not measured on a GPU yet; without it autocast converts, to the same bits.
        self.lowered = None
        if task.precision.dtype != torch.float32:
            self.lowered = LoweredWeights(state.model, task.precision.dtype)
        if isinstance(task.train_set.images, Tensor):
            self.images = self._arranged(task.train_set.images)

    def __call__(self, indices: Tensor, pixels: Tensor | None = None, *, shrunk: bool) -> None:
        """Change the state by one step; see `TakesStep`."""
        part = self.group.rank_slice(len(indices))
        labels = self.task.train_set.labels[indices[part]]
        logits = self._forward(self._inputs(indices, part, pixels, shrunk))
        weights = self.task.class_weights
        reduction = "none" if weights is not None else "mean" if self.group.size == 1 else "sum"
        loss = F.cross_entropy(
            logits.float(), labels, label_smoothing=self.task.params.training.label_smoothing,
            reduction=reduction,
        )  # fmt: skip
        if weights is not None:
            loss = (loss * weights[labels]).sum()
        if reduction != "mean":
            loss = loss / len(indices)
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        if self.lowered:
            self.lowered.widen_grads()
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


class LoweredWeights:
    """The weights of convolutions and linear layers in the precision of the products.

    Autocast would convert each of them by a call of its own, and each gradient by another; here one
    call converts all weights of a step, and one all gradients, to the same bits. Layers of other
    classes, and weights that several layers share, are left to autocast.

    Args:
        model: whose float32 weights the optimizer updates. Its forward pass gets the weights of
            plain `Conv2d` and `Linear` layers in `dtype`.
        dtype: of the products.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        owners = Counter(
            id(weight) for module in model.modules() for weight in module.parameters(recurse=False)
        )
        self.sources = {
            f"{part}.{name}": weight
            for part, module in model.named_modules()
            if type(module) in (nn.Conv2d, nn.Linear)
            for name, weight in module.named_parameters(recurse=False)
            if owners[id(weight)] == 1
        }
        self.lowered = {
            name: torch.empty_like(weight, dtype=dtype).requires_grad_(weight.requires_grad)
            for name, weight in self.sources.items()
        }
        self.learning = [name for name, weight in self.sources.items() if weight.requires_grad]

    @torch.no_grad()
    def refresh(self) -> dict[str, Tensor]:
        """Convert the weights of this step; returns them by name, without gradients."""
        torch._foreach_copy_([*self.lowered.values()], [*self.sources.values()])
        for weight in self.lowered.values():
            weight.grad = None
        return self.lowered

    @torch.no_grad()
    def widen_grads(self) -> None:
        """Convert the gradients back, onto the weights that the optimizer updates."""
        pairs = [
            (self.sources[name], grad)
            for name in self.learning
            if (grad := self.lowered[name].grad) is not None
        ]
        if not pairs:  # a rank without images
            return
        raised = [torch.empty_like(weight) for weight, _ in pairs]
        torch._foreach_copy_(raised, [grad for _, grad in pairs])
        for (weight, _), grad in zip(pairs, raised, strict=True):
            weight.grad = grad


class CapturedStep:
    """A step that is captured once as a CUDA graph and then replayed as a whole.

    Otherwise the time to launch a hundred kernels limits small batches. The first calls are
    ordinary steps, in which libraries choose their algorithms and allocate their buffers; a batch
    of another size is never captured.

    Args:
        step: reads no tensor that is made anew for each call, except the indices and the pixels.
        batch_size: of the batches that are replayed.
        generator: of the random numbers that the step draws.
    """

    def __init__(self, step: TakesStep, batch_size: int, generator: torch.Generator) -> None:
        self.step = step
        self.indices = torch.empty(batch_size, dtype=torch.int64, device=generator.device)
        self.pixels: Tensor | None = None
        # What backward passes of the warm-up leave behind belongs to the stream that captures.
        self.stream = torch.cuda.Stream(generator.device)
        # A graph for each size of image, of which one is over before the other begins: they share
        # their memory.
        self.graphs = {shrunk: torch.cuda.CUDAGraph() for shrunk in (True, False)}
        self.pool = torch.cuda.graph_pool_handle()
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
            self._warm_up(indices, pixels, shrunk)
            return
        self.indices.copy_(indices)
        if pixels is not None:
            self.pixels = torch.empty_like(pixels) if self.pixels is None else self.pixels
            self.pixels.copy_(pixels)
        graph = self.graphs[shrunk]
        if self.calls[shrunk] == WARM_UP + 1:
            # Threads that read images ahead may take pinned memory meanwhile, which the mode
            # `global` forbids.
            with torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            ):
                self.step(self.indices, self.pixels, shrunk=shrunk)
        graph.replay()

    def _warm_up(self, indices: Tensor, pixels: Tensor | None, shrunk: bool) -> None:
        """Take an ordinary step on a side stream, as capturing requires."""
        here = torch.cuda.current_stream(indices.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            self.step(indices, pixels, shrunk=shrunk)
        here.wait_stream(self.stream)
