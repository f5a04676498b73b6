"""Stored splits → tensors on the device → augmented, normalised batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from striate.data.arrays import map_split
from striate.data.splits import stratified_split
from striate.models.sizing import check_val_size

if TYPE_CHECKING:
    from striate.config.params import Augment
    from striate.training.lazy_images import Stored

Pixels = TypeVar("Pixels", Tensor, "Stored")


class Split(NamedTuple, Generic[Pixels]):
    """Images as published, uint8 (N, C, H, W), and their classes, int64 (N,), on one device.

    Images that are `Stored` come to that device when they are needed.
    """

    images: Pixels
    labels: Tensor


class Share(NamedTuple):
    """Which images of a batch are taken here, where several processes divide it."""

    batch: int  # images in the whole of it
    part: slice  # those of this process


@dataclass(frozen=True)
class Normalization:
    """How a pixel becomes an input of the network: `(pixel / peak - mean) / std`."""

    peak: int
    mean: list[float] | None  # of each channel; None leaves pixels between 0 and 1
    std: list[float] | None

    def __call__(self, images: Tensor) -> Tensor:
        """Pixels (N, C, H, W), uint8 or float → float32 of the same shape and memory format."""
        # One division, as in torchvision's ToTensor, so that the results agree to the last bit; of
        # a copy, because floats, which a served model is given, would be changed for the caller.
        inputs = images.to(torch.float32, copy=True).div_(self.peak)
        if self.mean is None or self.std is None:
            return inputs
        # Where channels are innermost, whole rows are much faster than three numbers at a time.
        by_row = inputs.is_contiguous(memory_format=torch.channels_last)
        width = inputs.shape[3] if by_row else 0
        # What is made while torch.export looks on belongs to that export, and must not be kept.
        made = _by_channel.__wrapped__ if torch.compiler.is_compiling() else _by_channel
        mean, std = made(tuple(self.mean), tuple(self.std), width, images.device)
        view = inputs.permute(0, 2, 3, 1).flatten(2) if by_row else inputs
        view.sub_(mean).div_(std)
        return inputs


@cache
def _by_channel(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Both as (C, 1, 1), or repeated over a row, (width × C)."""
    pair = (torch.tensor(value, device=device) for value in (mean, std))
    first, second = (t.repeat(width) if width else t[:, None, None] for t in pair)
    return first, second


def normalization(manifest: dict[str, Any], mode: str) -> Normalization:
    """The normalisation `unit` or `standard` of the data set that a manifest describes."""
    if mode == "unit":
        return Normalization(manifest["peak"], None, None)
    return Normalization(manifest["peak"], manifest["mean"], manifest["std"])


def load_split(folder: Path, part: str, device: torch.device) -> Split[Tensor]:
    """Read the images and labels of a part, verified, onto a device.

    Args:
        folder: with `manifest.json` and, in a folder for each part, the arrays.
        part: `train` or `test`.
        device: where to.

    Raises:
        UserError: a file is missing or is not the one that the manifest describes.
    """
    pixels, labels = map_split(folder, part)
    images = torch.from_numpy(np.array(pixels, order="C"))
    return Split(images.to(device), torch.from_numpy(labels).to(device))


def hold_out(
    split: Split[Pixels], size: float, seed: int
) -> tuple[Split[Pixels], Split[Pixels] | None]:
    """Keep a stratified part of the images for validation.

    Args:
        split: all training images.
        size: `data.val_size`: a fraction below 1 or a count of images; 0 keeps none.
        seed: the draw.

    Returns:
        The images to learn from, and those kept, or None where there are none.

    Raises:
        UserError: nothing would be left to learn from.
    """
    if size == 0:
        return split, None
    check_val_size(size, len(split.labels))
    parts = stratified_split(split.labels.cpu().numpy(), size, seed)
    train, val = (
        Split(split.images[where], split.labels[where])
        for where in (torch.from_numpy(part).to(split.labels.device) for part in parts)
    )
    return train, val if len(val.labels) else None


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
