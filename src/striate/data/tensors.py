"""Stored splits as tensors on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from striate.data.arrays import map_split
from striate.data.splits import check_val_size, stratified_split

if TYPE_CHECKING:
    from striate.training.lazy_images import Stored


Pixels = TypeVar("Pixels", Tensor, "Stored")


class Split(NamedTuple, Generic[Pixels]):
    """Images as published, uint8 (N, C, H, W), and their classes, int64 (N,), on one device.

    Images that are `Stored` come to that device when they are needed.
    """

    images: Pixels
    labels: Tensor


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
