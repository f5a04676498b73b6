"""Galleries of the page: images one by one, with a caption each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from striate.evaluation.scores import surest_mistakes
from striate.reporting.html import Tile, tile
from striate.reporting.results import MISTAKES


def samples(
    images: NDArray[np.floating], labels: NDArray[np.integer], classes: Sequence[str]
) -> list[Tile]:
    """Training images with the names of their classes."""
    return [tile(image, classes[label]) for image, label in zip(images, labels, strict=True)]


def predictions(
    images: NDArray[np.floating],
    labels: NDArray[np.integer],
    logits: NDArray[np.floating],
    classes: Sequence[str],
) -> list[Tile]:
    """Test images with the predicted class and, where it differs, the true one."""
    tiles = []
    for image, label, guess in zip(images, labels, logits.argmax(axis=1), strict=True):
        wrong = bool(guess != label)
        caption = f"{classes[guess]}, not {classes[label]}" if wrong else classes[guess]
        tiles.append(tile(image, caption, wrong))
    return tiles


def mistakes(
    images: NDArray[np.floating],
    labels: NDArray[np.integer],
    logits: NDArray[np.floating],
    classes: Sequence[str],
) -> list[Tile]:
    """The most confident mistakes among all test images, the most confident first."""
    wrong, confidence = surest_mistakes(logits, labels)
    guesses = logits.argmax(axis=1)
    return [
        tile(
            images[index],
            f"{classes[guesses[index]]} {share:.1%}, is {classes[labels[index]]}",
            wrong=True,
        )
        for index, share in zip(wrong[:MISTAKES], confidence, strict=False)
    ]
