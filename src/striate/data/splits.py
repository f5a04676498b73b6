"""Stratified splits of images into two sets, determined by a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from striate.errors import UserError

if TYPE_CHECKING:
    from striate.config.params import Training


def held_out_count(total: int, size: float) -> int:
    """Number of `total` images in the held-out set; `size` as in `stratified_split`.

    Raises:
        ValueError: no other image would be left.
    """
    count = round(size * total) if size < 1 else int(size)
    if count >= total:
        raise ValueError(f"{count} of {total} images leave none")
    return count


def stratified_split(labels: np.ndarray, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split indices so that each class has the same proportion in both sets.

    Args:
        labels: integer classes, (N,).
        size: of the held-out set: a fraction below 1, or a number of images.
        seed: of NumPy's legacy generator, whose stream is guaranteed never to change.

    Returns:
        The indices that remain, and those held out, both ascending.

    Raises:
        ValueError: no index would remain.
    """
    total = len(labels)
    count = held_out_count(total, size)
    random = np.random.RandomState(seed)
    classes, class_sizes = np.unique(labels, return_counts=True)
    # Largest remainder method: the quotas add up to `count`, and differ from exact ones by below 1.
    exact = class_sizes * count / total
    quotas = np.floor(exact).astype(int)
    quotas[np.argsort(quotas - exact, kind="stable")[: count - quotas.sum()]] += 1
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    held_out = np.sort(np.concatenate(chosen)).astype(int)
    return np.setdiff1d(np.arange(total), held_out), held_out


def validation_count(val_size: float, count: int) -> int:
    """Size of the validation set that `data.val_size` takes from `count` training images.

    Raises:
        UserError: no training image would be left.
    """
    try:
        return held_out_count(count, val_size)
    except ValueError as error:
        raise UserError(f"data.val_size is {val_size:g}: {error} for training") from None


def check_selection(training: Training, val_count: int) -> None:
    """Refuse to select an epoch, or to stop early, without a validation set.

    Args:
        training: the section of params.yaml.
        val_count: number of validation images.

    Raises:
        UserError: the message names the key.
    """
    for key, value, off in (("keep", training.keep, "last"), ("patience", training.patience, 0)):
        if value != off and not val_count:
            raise UserError(
                f"training.{key} is {value}, which needs a validation set, and data.val_size"
                f" leaves it empty; training.{key} must be {off}, or data.val_size larger"
            )
