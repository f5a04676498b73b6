"""Stratified splits of images into two sets, determined by a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from striate.errors import UserError

if TYPE_CHECKING:
    from striate.config.params import Data, Training


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
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, class_quotas(class_sizes, count), strict=True)
    ]
    held_out = np.sort(np.concatenate(chosen)).astype(int)
    return np.setdiff1d(np.arange(total), held_out), held_out


def fold_split(labels: np.ndarray, fold: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split off one of several parts that share no index and together hold all.

    The sizes of the parts, and of each class in them, differ by 1 at most.

    Args:
        labels: integer classes, (N,).
        fold: `2/5` for the second of five.
        seed: as in `stratified_split`.

    Returns:
        The indices that remain, and those held out, both ascending.
    """
    random = np.random.RandomState(seed)
    order = [random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    part, parts = parse_fold(fold)
    held_out = np.sort(np.concatenate(order)[part - 1 :: parts])
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def parse_fold(fold: str) -> tuple[int, int]:
    """`2/5` → (2, 5); the value of `data.fold` is checked."""
    part, _, parts = fold.partition("/")
    return int(part), int(parts)


def fold_quotas(class_sizes: np.ndarray, fold: str) -> np.ndarray:
    """How many images of each class `fold_split` holds out, (classes,)."""
    part, parts = parse_fold(fold)
    ends = np.cumsum([0, *class_sizes])
    return np.diff([len(range(part - 1, end, parts)) for end in ends])


def class_quotas(class_sizes: np.ndarray, count: int) -> np.ndarray:
    """How many images of each class are among `count` that keep its proportion.

    Largest remainder method: the quotas add up to `count`, and differ from exact ones by below 1.

    Args:
        class_sizes: images of each class, (classes,).
        count: images in all.
    """
    exact = class_sizes * count / class_sizes.sum()
    quotas: np.ndarray = np.floor(exact).astype(int)
    quotas[np.argsort(quotas - exact, kind="stable")[: count - quotas.sum()]] += 1
    return quotas


def draw_per_class(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw `count` indices of each class, ascending; those of a smaller count are among them.

    Args:
        labels: integer classes, (N,).
        count: of each class.
        seed: of NumPy's legacy generator, as in `stratified_split`.

    Raises:
        ValueError: a class has fewer.
    """
    # A stream of its own: that of the seed alone has drawn the validation images.
    random = np.random.RandomState([seed, 1])
    orders = [random.permutation(np.flatnonzero(labels == one)) for one in np.unique(labels)]
    if any(len(order) < count for order in orders):
        raise ValueError(f"a class has fewer than {count} images")
    return np.sort(np.concatenate([order[:count] for order in orders]))


def validation_count(val_size: float, fold: str, count: int, given: int = 0) -> int:
    """How many of `count` training images `data.val_size` or `data.fold` holds out.

    Args:
        val_size: `data.val_size`.
        fold: `data.fold`.
        count: stored training images.
        given: images of a validation set that the data set has itself: `val_size` then takes none.

    Raises:
        UserError: no training image would be left.
    """
    if fold != "none":
        if parse_fold(fold)[1] > count:
            raise UserError(f"data.fold is {fold}, but of {count:,} images there are no such parts")
        return int(fold_quotas(np.array([count]), fold)[0])
    if given:
        return 0
    try:
        return held_out_count(count, val_size)
    except ValueError as error:
        raise UserError(f"data.val_size is {val_size:g}: {error} for training") from None


def given_count(manifest: dict[str, Any]) -> int:
    """Images of a validation set that the data set has itself."""
    return int(manifest.get("val", {"count": 0})["count"])


def check_per_class(data: Data, manifest: dict[str, Any]) -> None:
    """Refuse to train on more images of each class than the validation set leaves.

    Args:
        data: the section of params.yaml.
        manifest: of the data; the keys classes and train are read.

    Raises:
        UserError: names the largest possible value, and the class that has no more.
    """
    sizes = np.array(manifest["train"]["per_class"])
    held_out = validation_count(data.val_size, data.fold, sizes.sum(), given_count(manifest))
    drawn = class_quotas(sizes, held_out) if data.fold == "none" else fold_quotas(sizes, data.fold)
    left = sizes - drawn
    if data.per_class > left.min():
        name = manifest["classes"][int(left.argmin())]
        raise UserError(
            f"data.per_class is {data.per_class}; the largest possible value is {left.min()}: class"
            f" {name} has no more images beside the validation set"
        )


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
