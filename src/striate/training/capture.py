"""A step of a training, captured as a CUDA graph."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

WARM_UP = 3  # steps before a CUDA graph is captured


class TakesStep(Protocol):
    """Learns from one batch."""

    def __call__(self, indices: Tensor, pixels: Tensor | None = None, *, shrunk: bool) -> None:
        """Change the state by one step.

        Args:
            indices: of the images of the whole batch, int64 (B,).
            pixels: the images of this rank's slice, uint8, behind the one before it where images
                are mixed; None if all images are on the device.
            shrunk: whether to shrink the images.
        """


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
