"""Images that stay in host memory or in their file until a batch of them is needed."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from striate.data.arrays import map_split
from striate.data.tensors import Split

READERS = 2  # threads
AHEAD = 4  # batches that are read while the network computes
CHUNK_BYTES = 1 << 24  # read at a time where all images are read


@dataclass(frozen=True, eq=False)
class Stored:
    """Some images of an array, which are read onto a device batch by batch.

    It is indexed and split like a tensor (M, C, H, W).

    Attributes:
        pixels: uint8 (N, C, H, W), in host memory or memory-mapped.
        indices: of the images, int64 (M,).
        device: onto which they are read.
    """

    pixels: np.ndarray
    indices: np.ndarray
    device: torch.device

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, which: slice | Tensor) -> Stored:
        chosen = which if isinstance(which, slice) else which.cpu().numpy()
        return replace(self, indices=self.indices[chosen])

    def split(self, size: int) -> Iterator[Tensor]:
        """All images in their order, in batches of `size`, like a tensor's own `split`."""
        return self.batches(torch.arange(len(self)).split(size))

    def batches(self, wanted: Iterable[Tensor]) -> Generator[Tensor]:
        """Batches on the device, which threads read ahead.

        An error of a thread is raised here. The threads end with this generator.

        Args:
            wanted: the indices of each batch, among these images, int64 (B,).

        Yields:
            uint8 (B, C, H, W).
        """
        coming: deque[Future[Tensor]] = deque()
        pool = ThreadPoolExecutor(READERS)
        try:
            for which in wanted:
                coming.append(pool.submit(self[which]._read_batch))
                if len(coming) > AHEAD:
                    yield self._to_device(coming.popleft().result())
            while coming:
                yield self._to_device(coming.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)

    def read(self, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        """Read all of them onto the device, without a second copy on the way."""
        shape = (len(self), *self.pixels.shape[1:])
        # Where both formats are one, as with a single channel, strides are left as they come.
        if torch.empty(shape, device="meta").is_contiguous(memory_format=memory_format):
            memory_format = torch.contiguous_format
        whole = torch.empty(
            shape, dtype=torch.uint8, device=self.device, memory_format=memory_format
        )
        size = max(1, CHUNK_BYTES // self.pixels[0].nbytes)
        for part, batch in zip(whole.split(size), self.split(size), strict=True):
            part.copy_(batch)
        return whole

    def in_memory(self) -> Stored:
        """Copy the images into host memory."""
        pixels = replace(self, device=torch.device("cpu")).read().numpy()
        return replace(self, pixels=pixels, indices=np.arange(len(pixels)))

    def _read_batch(self) -> Tensor:
        """Read all of them into host memory, pinned for a GPU to fetch them by itself."""
        taken = torch.empty(
            (len(self), *self.pixels.shape[1:]),
            dtype=torch.uint8,
            pin_memory=self.device.type == "cuda",
        )
        if isinstance(self.pixels.base, mmap.mmap):
            self._announce(self.pixels.base)
        # In the mode `raise`, NumPy would copy everything once more.
        np.take(self.pixels, self.indices, axis=0, out=taken.numpy(), mode="clip")
        return taken

    def _announce(self, file: mmap.mmap) -> None:
        """Ask the system for all these images at once, instead of one after another."""
        size = self.pixels[0].nbytes
        start = len(file) - self.pixels.nbytes  # the map ends where the array does
        for first in (start + self.indices * size).tolist():
            within = first % mmap.PAGESIZE
            file.madvise(mmap.MADV_WILLNEED, first - within, within + size)

    def _to_device(self, taken: Tensor) -> Tensor:
        return taken.to(self.device, non_blocking=taken.is_pinned())


def load(folder: Path, part: str, device: torch.device) -> Split[Stored]:
    """Memory-map the images of a part, verified; read its labels onto a device.

    Args:
        folder: with `manifest.json` and, in a folder for each part, the arrays.
        part: `train` or `test`.
        device: of the labels, and onto which images are read.

    Raises:
        UserError: a file is missing or is not the one that the manifest describes.
    """
    pixels, labels = map_split(folder, part)
    if isinstance(pixels.base, mmap.mmap):
        # Images are read in random order; read-ahead beyond each would evict others from memory.
        pixels.base.madvise(mmap.MADV_RANDOM)
    labels_there = torch.from_numpy(labels).to(device)
    return Split(Stored(pixels, np.arange(len(pixels)), device), labels_there)


def reside(
    split: Split[Stored],
    residency: str,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Split[Tensor] | Split[Stored]:
    """Put images where they stay during a training.

    Args:
        split: as `load` returned it.
        residency: `device`, `host` or `disk`.
        memory_format: of images on the device.
    """
    if residency == "device":
        return Split(split.images.read(memory_format), split.labels)
    if residency == "host":
        return Split(split.images.in_memory(), split.labels)
    return split
