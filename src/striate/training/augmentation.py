"""Stored splits → tensors on the device → augmented, normalised batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.training.distributed import Share

if TYPE_CHECKING:
    from striate.config.params import Augment


def augment(
    images: Tensor,
    places: Tensor,
    flipped: Tensor | None,
    normalize: Callable[[Tensor], Tensor],
    settings: Augment,
    generator: torch.Generator,
    *,
    share: Share | None = None,
    shrunk: bool = False,
) -> Tensor:
    """Take a batch of images, normalised, each one changed at random, all of them at once.

    Args:
        images: uint8 (N, C, H, W), fastest where channels are innermost.
        places: of those that are taken, int64 (B,).
        flipped: which of those taken are flipped left to right, bool (B,); None for none.
        normalize: uint8 images → inputs of the network.
        settings: the section `augment` of params.yaml.
        generator: on the device of `images`.
        share: which part of a batch `places` are; None for all of it. Random numbers are drawn
            for the whole batch, so that an image is changed alike however a batch is divided.
        shrunk: whether to shrink to the side that the settings name, after anything else.

    Returns:
        float (B, C, H, W): shifted, flipped, turned and scaled, then cut out.
    """
    share = share or Share(len(places), slice(None))
    if flipped is None and not settings.translate:
        inputs = normalize(images[places])
    else:
        inputs = normalize(_shifted(images, places, flipped, settings.translate, share, generator))
    if settings.rotate or settings.zoom:
        inputs = _turned(inputs, settings.rotate, settings.zoom, share, generator)
    if settings.cutout:
        inputs = _cutout(inputs, settings.cutout, share, generator)
    if shrunk and len(inputs):
        size = (settings.shrink, settings.shrink)
        inputs = F.interpolate(inputs, size, mode="bilinear", align_corners=False)
    return inputs


def draw_mirrored(count: int, generator: torch.Generator) -> Tensor:
    """Which images are flipped in the first epoch, bool (N,): about half of them."""
    return torch.rand(count, generator=generator, device=generator.device) < 0.5


def _turned(
    inputs: Tensor, degrees: float, zoom: float, share: Share, generator: torch.Generator
) -> Tensor:
    """Turn and scale about the centre, with bilinear interpolation; what comes in is reflected."""
    drawn = torch.rand(2, share.batch, generator=generator, device=inputs.device)
    if not len(inputs):
        return inputs  # PyTorch has no grid for none
    uniform = drawn[:, share.part] * 2 - 1
    angles, scales = torch.deg2rad(uniform[0] * degrees), 1 + uniform[1] * zoom
    cos, sin, zero = angles.cos() * scales, angles.sin() * scales, torch.zeros_like(angles)
    turns = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(turns, list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid, padding_mode="reflection", align_corners=False)


def _shifted(
    images: Tensor,
    places: Tensor,
    flipped: Tensor | None,
    pixels: int,
    share: Share,
    generator: torch.Generator,
) -> Tensor:
    """The images at these places, shifted with a reflected border and flipped, by one gather."""
    height, width = images.shape[2:]
    device = images.device
    drawn = torch.randint(
        -pixels, pixels + 1, (2, share.batch, 1), generator=generator, device=device
    )
    corner = drawn[:, share.part]
    rows = _reflected(corner[0] + torch.arange(height, device=device), height)  # (B, H)
    columns = _reflected(corner[1] + torch.arange(width, device=device), width)  # (B, W)
    if flipped is not None:
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    pixels_first = images.permute(0, 2, 3, 1)
    taken = pixels_first[places[:, None, None], rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2)


def _reflected(places: Tensor, length: int) -> Tensor:
    """Places up to `length` - 1 outside an axis, mirrored back into it; the edge is not doubled."""
    return (length - 1) - ((length - 1) - places.abs()).abs()


def _cutout(inputs: Tensor, side: int, share: Share, generator: torch.Generator) -> Tensor:
    """Zero a square whose place is uniform over all that lie inside the image.

    After T. DeVries and G. Taylor, arXiv:1708.04552, whose squares may stick out of the image.
    """
    inside = []
    for length in inputs.shape[2:]:
        drawn = torch.randint(
            length - side + 1, (share.batch, 1), generator=generator, device=inputs.device
        )
        start = drawn[share.part]
        place = torch.arange(length, device=inputs.device)
        inside.append((place >= start) & (place < start + side))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return inputs.masked_fill(hole, 0.0)
