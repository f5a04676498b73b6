"""The registry of data sets: what `data.name` can be, but for `folder`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from striate.errors import UserError

if TYPE_CHECKING:
    from striate.data.arrays import LabeledImages


class DataError(UserError):
    """A data set cannot be fetched or read, or is not what it is registered as."""


@dataclass(frozen=True)
class File:
    """A published file.

    Attributes:
        path: relative to a mirror, and to the folder that the data set is read from.
        size: in bytes.
        sha256: in hexadecimal.
        urls: public addresses, in the order in which they are tried.
    """

    path: str
    size: int
    sha256: str
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A published data set.

    Attributes:
        name: the value of `data.name`.
        classes: their names, in the order of the labels.
        shape: channels, height and width of an image.
        counts: how many training and test images there are.
        peak: the largest pixel value.
        mean: of each channel over the training images, divided by `peak`.
        std: the standard deviation, likewise.
        read: takes the folder of the verified files; returns the training and the test set.
        page: URL of the data set's description.
        licence: as the publisher states it.
        file_sets: the ways in which it is published, each complete; the first one found is read.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    counts: tuple[int, int]
    peak: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Callable[[Path], tuple[LabeledImages, LabeledImages]]
    page: str
    licence: str
    file_sets: tuple[tuple[File, ...], ...] = ((),)


DATASETS: dict[str, Dataset] = {}


def register(dataset: Dataset) -> None:
    """Add a data set under its name.

    Raises:
        ValueError: another one has this name.
    """
    if dataset.name in DATASETS:
        raise ValueError(f"two data sets are called {dataset.name}")
    DATASETS[dataset.name] = dataset


def names() -> tuple[str, ...]:
    """The names of all registered data sets, sorted."""
    return tuple(sorted(DATASETS))
