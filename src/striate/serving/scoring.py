"""Score networks on labelled images that no stage has read, such as a teacher's hidden test set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from striate.datasets.image_reading import ImageReadError
from striate.datasets.layouts import TEST, Layout
from striate.errors import UserError
from striate.models.checkpoint import Checkpoint
from striate.serving import inference


class Labelled(NamedTuple):
    """Image files and the names of their classes."""

    files: list[Path]
    classes: list[str]


class Score(NamedTuple):
    """How many images a network classified right, and of how many."""

    hits: int
    total: int


def labelled(layout: Layout) -> Labelled:
    """The test images of a folder that has a part `test`, else all of its images."""
    parts = [TEST] if TEST in layout.files else list(layout.files)
    labels = [layout.classes[label] for part in parts for label in layout.labels[part]]
    return Labelled([file for part in parts for file in layout.files[part]], labels)


def score(images: Labelled, trained: Checkpoint, device: torch.device) -> Score:
    """Classify images as `striate predict` does, and count those that are right.

    Args:
        images: any number; only a few batches are in memory at a time.
        trained: the network, on `device`.
        device: that computes.

    Raises:
        UserError: the network does not know a class.
        ImageReadError: an image cannot be read, by whatever network.
    """
    _check_classes(images.classes, trained.classes)
    hits = 0
    found = inference.classify(images.files, trained, device)
    for file, name in zip(found, images.classes, strict=True):
        if isinstance(file, ImageReadError):
            raise file
        ranked = file.prediction.probabilities
        hits += trained.classes[ranked.index(max(ranked))] == name
    return Score(hits, len(images.files))


def _check_classes(wanted: Sequence[str], known: Sequence[str]) -> None:
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise UserError(
            f"it was not trained on the class {unknown[0]!r}; it knows {', '.join(known[:10])}"
            + ", …" * (len(known) > 10)
        )
