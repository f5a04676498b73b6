"""Stored splits → tensors on the device → batches; normalisation and augmentation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from striate.errors import UserError
from striate.splits import stratified_split

if TYPE_CHECKING:
    from striate.params import Augment


class Split(NamedTuple):
    """Images as published, uint8 (N, C, H, W), and their classes, int64 (N,), on one device."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Normalization:
    """How a pixel becomes an input of the network: `(pixel / peak - mean) / std`."""

    peak: int
    mean: list[float] | None  # of each channel; None leaves pixels between 0 and 1
    std: list[float] | None

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) → float32 of the same shape."""
        # One division, as in torchvision's ToTensor, so that the results agree to the last bit.
        inputs = images.float().div_(self.peak)
        if self.mean is None or self.std is None:
            return inputs
        mean, std = (
            torch.tensor(value, device=images.device)[:, None, None]
            for value in (self.mean, self.std)
        )
        return inputs.sub_(mean).div_(std)


def normalization(manifest: dict[str, Any], mode: str) -> Normalization:
    """The normalisation `unit` or `standard` of the data set that a manifest describes."""
    if mode == "unit":
        return Normalization(manifest["peak"], None, None)
    return Normalization(manifest["peak"], manifest["mean"], manifest["std"])


def displayed(images: Tensor, normalization: Normalization) -> np.ndarray:
    """uint8 (N, C, H, W) → float32 from 0 to 1, for pictures."""
    values: np.ndarray = images.cpu().numpy().astype(np.float32) / normalization.peak
    return values


def load_manifest(folder: Path) -> dict[str, Any]:
    """What `striate.datasets.prepare` wrote beside the arrays."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}/manifest.json is not there; `dvc repro` makes it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/manifest.json cannot be read: {error}") from None
    return manifest


def load_split(folder: Path, device: torch.device) -> Split:
    """Read `images.npy` and `labels.npy` onto a device.

    Raises:
        UserError: a file is missing or broken.
    """
    try:
        images, labels = (
            torch.from_numpy(np.load(folder / f"{name}.npy", allow_pickle=False))
            for name in ("images", "labels")
        )
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder} cannot be read: {error}") from None
    return Split(images.to(device), labels.to(device))


def hold_out(split: Split, size: float, seed: int) -> tuple[Split, Split | None]:
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
    try:
        parts = stratified_split(split.labels.cpu().numpy(), size, seed)
    except ValueError as error:
        raise UserError(f"data.val_size is {size:g}: {error} for training") from None
    train, val = (
        Split(split.images[where], split.labels[where])
        for where in (torch.from_numpy(part).to(split.labels.device) for part in parts)
    )
    return train, val if len(val.labels) else None


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: this machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, present in available.items() if present)
    if not available[name]:
        raise UserError(
            f"training.device is {name}, which this machine does not have; "
            f"it must be one of auto, {', '.join(d for d in available if available[d])}"
        )
    return torch.device(name)


def shuffled_batches(split: Split, size: int, generator: torch.Generator) -> Iterator[Split]:
    """Every image exactly once, in an order drawn on the device; the last batch may be short."""
    order = torch.randperm(len(split.labels), generator=generator, device=split.labels.device)
    for chosen in order.split(size):
        yield Split(split.images[chosen], split.labels[chosen])


def augment(inputs: Tensor, settings: Augment, generator: torch.Generator) -> Tensor:
    """Change each image of a batch at random, all of them at once.

    Args:
        inputs: float (N, C, H, W), normalised.
        settings: the section `augment` of params.yaml.
        generator: on the device of `inputs`.

    Returns:
        A tensor of the same shape: flipped, turned, shifted, then cut out.
    """
    if settings.flip:
        inputs = _flip(inputs, generator)
    if settings.rotate:
        inputs = _rotate(inputs, settings.rotate, generator)
    if settings.translate:
        inputs = _translate(inputs, settings.translate, generator)
    if settings.cutout:
        inputs = _cutout(inputs, settings.cutout, generator)
    return inputs


def check_augment(settings: Augment, shape: Sequence[int]) -> None:
    """Refuse lengths that do not fit images of this shape: channels, height, width.

    Raises:
        UserError: names the key and the largest possible value.
    """
    _, height, width = shape
    smaller = min(height, width)
    for key, largest in (("translate", smaller - 1), ("cutout", smaller)):
        value = getattr(settings, key)
        if value > largest:
            raise UserError(
                f"augment.{key} is {value}, too large for images of {height}×{width} pixels; "
                f"the largest possible value is {largest}"
            )


def _flip(inputs: Tensor, generator: torch.Generator) -> Tensor:
    coins = torch.rand(len(inputs), 1, 1, 1, generator=generator, device=inputs.device) < 0.5
    return torch.where(coins, inputs.flip(3), inputs)


def _rotate(inputs: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Turn about the centre, with bilinear interpolation; what comes in is reflected."""
    uniform = torch.rand(len(inputs), generator=generator, device=inputs.device)
    angles = torch.deg2rad((uniform * 2 - 1) * degrees)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    turns = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(turns, list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid, padding_mode="reflection", align_corners=False)


def _translate(inputs: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    count, _, height, width = inputs.shape
    padded = F.pad(inputs, [pixels] * 4, mode="reflect")
    corner = torch.randint(2 * pixels + 1, (2, count, 1), generator=generator, device=inputs.device)
    rows = corner[0] + torch.arange(height, device=inputs.device)  # (N, H)
    columns = corner[1] + torch.arange(width, device=inputs.device)  # (N, W)
    image = torch.arange(count, device=inputs.device)[:, None, None]
    # Channels come last here, because the three index tensors surround a slice.
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(inputs: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Zero a square whose place is uniform over all that lie inside the image.

    After T. DeVries and G. Taylor, arXiv:1708.04552, whose squares may stick out of the image.
    """
    count, _, *size = inputs.shape
    inside = []
    for length in size:
        start = torch.randint(
            length - side + 1, (count, 1), generator=generator, device=inputs.device
        )
        place = torch.arange(length, device=inputs.device)
        inside.append((place >= start) & (place < start + side))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return inputs.masked_fill(hole, 0.0)
