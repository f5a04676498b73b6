"""Which images go where: a stratified split, drawn by seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from striate.errors import UserError

if TYPE_CHECKING:
    from striate.config.params import Training


def count_of_second(total: int, size: float) -> int:
    """How many of `total` images the second part of a split has; `size` as in `stratified_split`.

    Raises:
        ValueError: the first part would be empty.
    """
    wanted = round(size * total) if size < 1 else int(size)
    if wanted >= total:
        raise ValueError(f"{wanted} of {total} images leave none over")
    return wanted


def stratified_split(labels: np.ndarray, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide indices so that every class keeps its share in both parts.

    Args:
        labels: integer classes, shape (N,).
        size: the second part: a fraction below 1, or a count of images.
        seed: the draw. The legacy generator is used because NumPy promises its stream for ever.

    Returns:
        The indices of the first and of the second part, each in ascending order.

    Raises:
        ValueError: the first part would be empty.
    """
    total = len(labels)
    wanted = count_of_second(total, size)
    random = np.random.RandomState(seed)
    classes, counts = np.unique(labels, return_counts=True)
    # Largest remainder: the shares add up to `wanted` and differ from exact ones by less than 1.
    exact = counts * wanted / total
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: wanted - shares.sum()]] += 1
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:share]
        for label, share in zip(classes, shares, strict=True)
    ]
    second = np.sort(np.concatenate(chosen)).astype(int)
    return np.setdiff1d(np.arange(total), second), second


def check_val_size(size: float, count: int) -> int:
    """Refuse to hold out every image; returns how many are held out.

    Raises:
        UserError: names the key and both numbers.
    """
    try:
        return count_of_second(count, size)
    except ValueError as error:
        raise UserError(f"data.val_size is {size:g}: {error} for training") from None


def check_validation(settings: Training, held: int) -> None:
    """Refuse to choose by validation images where there are none.

    Args:
        settings: the section `training` of params.yaml.
        held: how many images are held out.

    Raises:
        UserError: names the key.
    """
    for key, value, off in (("keep", settings.keep, "last"), ("patience", settings.patience, 0)):
        if value != off and not held:
            raise UserError(
                f"training.{key} is {value}, which goes by validation images, and data.val_size"
                f" leaves none; it must be {off}, or data.val_size larger"
            )
