"""Batches of images, augmented at random on the device and normalised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.models import devices

if TYPE_CHECKING:
    from striate.config.params import Augment


@dataclass(frozen=True)
class BatchRandom:
    """Random numbers for a slice of a batch.

    They are drawn for the whole batch, so an image is changed alike however a batch is divided.

    Attributes:
        generator: on the device of the images.
        batch_size: images in the whole batch.
        part: the slice that is taken here, or the indices of its images in the batch.
    """

    generator: torch.Generator
    batch_size: int
    part: slice | Tensor

    def uniform(self, rows: int) -> Tensor:
        """Numbers from 0 to below 1, float (rows, B)."""
        size = (rows, self.batch_size)
        drawn = torch.rand(size, generator=self.generator, device=self.generator.device)
        return drawn[:, self.part]

    def integers(self, low: int, high: int, rows: int) -> Tensor:
        """Whole numbers from `low` to below `high`, int64 (rows, B, 1)."""
        size, device = (rows, self.batch_size, 1), self.generator.device
        return torch.randint(low, high, size, generator=self.generator, device=device)[:, self.part]


def augment(
    images: Tensor,
    indices: Tensor,
    flipped: Tensor | None,
    normalize: Callable[[Tensor], Tensor],
    settings: Augment,
    random: BatchRandom,
    *,
    shrunk: bool = False,
) -> Tensor:
    """Take images, normalised, each one changed at random, all of them at once.

    Args:
        images: uint8 (N, C, H, W), fastest where channels are innermost.
        indices: of the images to take, int64 (B,).
        flipped: which of those are flipped left to right, bool (B,); None for none.
        normalize: uint8 images → inputs of the network.
        settings: the section `augment` of params.yaml.
        random: draws the numbers for these images.
        shrunk: whether to shrink to the side that the settings name, after anything else.

    Returns:
        float (B, C, H, W): shifted, flipped, turned and scaled, then cut out.
    """
    if flipped is None and not settings.translate:
        inputs = normalize(images[indices])
    else:
        inputs = normalize(_shifted(images, indices, flipped, settings.translate, random))
    if settings.rotate or settings.zoom:
        inputs = _turned(inputs, settings.rotate, settings.zoom, random)
    if settings.cutout:
        inputs = _cutout(inputs, settings.cutout, random)
    if shrunk and len(inputs):
        size = (settings.shrink, settings.shrink)
        inputs = F.interpolate(inputs, size, mode="bilinear", align_corners=False)
    return inputs.contiguous() if devices.needs_contiguous(inputs.device) else inputs


def draw_flipped(count: int, generator: torch.Generator) -> Tensor:
    """Which images are flipped in the first epoch, bool (N,): about half of them."""
    return torch.rand(count, generator=generator, device=generator.device) < 0.5


def _turned(inputs: Tensor, degrees: float, zoom: float, random: BatchRandom) -> Tensor:
    """Rotate and scale about the centre, with bilinear interpolation; the border is reflected."""
    uniform = random.uniform(2) * 2 - 1
    if not len(inputs):
        return inputs  # PyTorch has no grid for an empty batch
    angles, scales = torch.deg2rad(uniform[0] * degrees), 1 + uniform[1] * zoom
    cos, sin, zero = angles.cos() * scales, angles.sin() * scales, torch.zeros_like(angles)
    turns = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(turns, list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid, padding_mode="reflection", align_corners=False)


def _shifted(
    images: Tensor, indices: Tensor, flipped: Tensor | None, pixels: int, random: BatchRandom
) -> Tensor:
    """Take images, shifted with a reflected border and flipped, by one gather."""
    height, width = images.shape[2:]
    corner = random.integers(-pixels, pixels + 1, 2)
    rows = _reflected(corner[0] + torch.arange(height, device=images.device), height)  # (B, H)
    columns = _reflected(corner[1] + torch.arange(width, device=images.device), width)  # (B, W)
    if flipped is not None:
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    channels_last = images.permute(0, 2, 3, 1)
    taken = channels_last[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2)


def _reflected(indices: Tensor, length: int) -> Tensor:
    """Indices up to `length` - 1 outside an axis, mirrored into it; the edge is not doubled."""
    return (length - 1) - ((length - 1) - indices.abs()).abs()


def _cutout(inputs: Tensor, side: int, random: BatchRandom) -> Tensor:
    """Zero a square whose position is uniform over all that lie inside the image.

    After T. DeVries and G. Taylor, arXiv:1708.04552, whose squares may cross the border.
    """
    inside = []
    for length in inputs.shape[2:]:
        (start,) = random.integers(0, length - side + 1, 1)
        index = torch.arange(length, device=inputs.device)
        inside.append((index >= start) & (index < start + side))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return inputs.masked_fill(hole, 0.0)
