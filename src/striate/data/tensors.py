"""The training, validation and test set as tensors on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from striate.data.arrays import map_split
from striate.data.splits import draw_per_class, fold_split, stratified_split, validation_count

if TYPE_CHECKING:
    from striate.training.lazy_images import Stored


Pixels = TypeVar("Pixels", Tensor, "Stored")


class Split(NamedTuple, Generic[Pixels]):
    """Images as published, uint8 (N, C, H, W), and labels, int64 (N,), on one device.

    Images that are `Stored` are copied to that device batch by batch.
    """

    images: Pixels
    labels: Tensor


def load_split(folder: Path, split: str, device: torch.device) -> Split[Tensor]:
    """Read and verify a split, and copy it to a device.

    Args:
        folder: that `striate.data.arrays.write` wrote to.
        split: `train` or `test`.
        device: to copy to.

    Raises:
        UserError: a file is missing or is not the one that the manifest describes.
    """
    mapped, labels = map_split(folder, split)
    images = torch.from_numpy(np.array(mapped, order="C"))
    return Split(images.to(device), torch.from_numpy(labels).to(device))


def train_val_split(
    split: Split[Pixels],
    val_size: float,
    seed: int,
    per_class: int = 0,
    fold: str = "none",
    given: Split[Pixels] | None = None,
) -> tuple[Split[Pixels], Split[Pixels] | None]:
    """Split the stored training images into a training and a stratified validation set.

    Args:
        split: all stored training images.
        val_size: `data.val_size`: a fraction below 1 or a number of images.
        seed: as in `stratified_split`.
        per_class: `data.per_class`: images of each class to train on, drawn once the validation
            set is held out; 0 for all that are left.
        fold: `data.fold`: which part is held out instead of `val_size`.
        given: the validation set that the data set has itself, which counts unless a fold is named.

    Returns:
        The training set, and the validation set or None if it would be empty.

    Raises:
        UserError: the training set would be empty.
        ValueError: a class has fewer than `per_class` images left, which
            `striate.data.splits.check_per_class` tells before.
    """
    train, val = split, given
    if fold != "none" or (val_size and given is None):
        labels = split.labels.cpu().numpy()
        validation_count(val_size, fold, len(labels))
        if fold == "none":
            both = stratified_split(labels, val_size, seed)
        else:
            both = fold_split(labels, fold, seed)
        train, val = (_chosen(split, part) for part in both)
    if per_class:
        train = _chosen(train, draw_per_class(train.labels.cpu().numpy(), per_class, seed))
    return train, val if val is not None and len(val.labels) else None


def _chosen(split: Split[Pixels], indices: np.ndarray) -> Split[Pixels]:
    chosen = torch.from_numpy(indices).to(split.labels.device)
    return Split(split.images[chosen], split.labels[chosen])
