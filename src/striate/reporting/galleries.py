"""Galleries of the page: images one by one, with a caption each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from striate.evaluation.scores import softmax
from striate.reporting.html import Tile, embedded_image, heat, tile
from striate.reporting.results import Results


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


def mistakes(results: Results) -> list[Tile]:
    """The most confident mistakes, what spoke for them, and the training images like them."""
    tiles = []
    for place, index in enumerate(results.mistakes.indices):
        image, classes = results.images[index], results.classes
        probabilities = softmax(results.logits[index : index + 1])[0]
        guess = int(probabilities.argmax())
        caption = (
            f"{classes[guess]} {probabilities[guess]:.1%}, is {classes[results.labels[index]]}"
        )
        similar = [
            tile(other, classes[label])
            for other, label in zip(
                results.similar_images[place], results.similar_labels[place], strict=True
            )
        ]
        evidence = embedded_image(heat(image, results.mistakes.evidence[place]))
        tiles.append(tile(image, caption, True)._replace(evidence=evidence, similar=similar))
    return tiles
