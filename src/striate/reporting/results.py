"""What figures, page and model card are made from."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from striate.data.splits import given_count, validation_count
from striate.evaluation import scores
from striate.evaluation.predictions import Mistakes
from striate.models import configs
from striate.reporting import seeds
from striate.reporting.numbers import plural
from striate.reporting.seeds import Row
from striate.reporting.uncertainty import Mean

SAMPLES, PREDICTIONS = 36, 100  # images in each gallery, at most


@dataclass(frozen=True)
class Results:
    """The results of one experiment, as the stages left them.

    Attributes:
        params: of params.yaml, by dotted key.
        arguments: of `dvc exp run`, that set these params.
        hashes: by name, of what the network is made from and consists of; the tags of its run.
        manifest: of the data.
        source: who publishes the data: name, page, licence; None for images of one's own.
        description: of the checkpoint, model.json.
        train: metrics/train.json.
        test: metrics/test.json.
        seeds: the scores of several seeds of these params, a row each; none where only these
            results are known.
        history: columns of metrics/history.csv, by name.
        train_images: float32 (M, C, H, W) in 0..1, a selection of the training images.
        train_labels: int64 (M,).
        images: float32 (N, C, H, W) in 0..1, all test images.
        labels: int64 (N,).
        logits: float32 (N, classes).
        filters: weights of each convolution, or of the first of each layer, or of a linear layer of
            all pixels, by name, float32 (out, in, height, width).
        feature_maps: of the first test image, behind each layer by name, float32 (channels,
            height, width).
        attention: of the first test images, in each layer by name, how much all patches attend to
            each, float32 (images, rows, columns); none of a network without attention.
        mistakes: the most confident ones.
        similar_images: the most similar training images of each mistake, float32 (M, k, C, H, W) in
            0..1.
        similar_labels: int64 (M, k).
        shifted: the accuracy under each corruption at each severity; nothing if none was scored.
        shifted_examples: one test image so, float32 (corruptions, severities, C, H, W) in 0..1.
    """

    params: dict[str, Any]
    arguments: list[str]
    hashes: dict[str, str]
    manifest: dict[str, Any]
    source: dict[str, Any] | None
    description: dict[str, Any]
    train: dict[str, float]
    test: dict[str, float]
    seeds: list[Row]
    history: dict[str, list[float]]
    train_images: NDArray[np.floating]
    train_labels: NDArray[np.integer]
    images: NDArray[np.floating]
    labels: NDArray[np.integer]
    logits: NDArray[np.floating]
    filters: dict[str, np.ndarray]
    feature_maps: dict[str, np.ndarray]
    attention: dict[str, np.ndarray]
    mistakes: Mistakes
    similar_images: NDArray[np.floating]
    similar_labels: NDArray[np.integer]
    shifted: dict[str, list[float]]
    shifted_examples: NDArray[np.floating]

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        classes: list[str] = self.manifest["classes"]
        return classes

    @property
    def config(self) -> type[configs.NetworkConfig]:
        """What is known of the network; the base of all where it has no config here."""
        return configs.find(self.params["model.arch"]) or configs.NetworkConfig

    @property
    def layers(self) -> str:
        """How many layers the network has, as its params or else its feature maps say.

        It is nothing for a network of timm, whose name alone says that.
        """
        if self.config is configs.TimmConfig:
            return ""
        stated = configs.stated_size(self.params)
        return plural(int(stated.get("layers", len(self.feature_maps))), "layer")

    @property
    def validation_count(self) -> int:
        """How many images the validation set has."""
        return self._held_out or given_count(self.manifest)

    @property
    def train_count(self) -> int:
        """How many images the training set has, without the validation set."""
        drawn: int = self.params["data.per_class"] * len(self.classes)
        return drawn or self.manifest["train"]["count"] - self._held_out

    @property
    def _held_out(self) -> int:
        """How many of the stored training images are in the validation set."""
        size, fold = self.params["data.val_size"], self.params["data.fold"]
        return validation_count(
            size, fold, self.manifest["train"]["count"], given_count(self.manifest)
        )

    @cached_property
    def means(self) -> dict[str, Mean]:
        """What `seeds.means` gives: nothing without several seeds."""
        return seeds.means(self.seeds)

    @cached_property
    def selection(self) -> NDArray[np.integer]:
        """Indices of the test images that show predictions."""
        return spread(self.labels, PREDICTIONS)

    @cached_property
    def confusion(self) -> np.ndarray:
        """What `scores.confusion_matrix` gives."""
        return scores.confusion_matrix(self.logits, self.labels)

    @cached_property
    def calibration(self) -> list[dict[str, float]]:
        """What `scores.calibration` gives."""
        return scores.calibration(scores.softmax(self.logits), self.labels)


def spread(labels: NDArray[np.integer], count: int) -> NDArray[np.integer]:
    """Choose images of all classes in turn: the first of each, then the second, and so on.

    Of more than `count` classes, `count` are shown, evenly spaced.

    Args:
        labels: (N,) of all images.
        count: the most images.

    Returns:
        Their indices, (M,) with M of at most `count`.
    """
    order = np.argsort(labels, kind="stable")
    _, firsts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    if len(firsts) > count:
        chosen = firsts[np.linspace(0, len(firsts) - 1, count).round().astype(int)]
    else:
        turns = np.arange(len(labels)) - np.repeat(firsts, sizes)
        chosen = np.argsort(turns, kind="stable")[:count]
    return np.asarray(order[chosen])
