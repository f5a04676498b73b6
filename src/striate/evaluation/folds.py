"""Classify images by networks of which each was trained without one part of the training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from striate.data import arrays
from striate.data.splits import fold_split
from striate.evaluation import predictions
from striate.evaluation.doubts import Unseen
from striate.evaluation.scores import softmax
from striate.models import checkpoint, prediction


def classify(
    data: Path, networks: Mapping[str, Path], seed: int, *, batch_size: int, tta: str
) -> Unseen:
    """Classify each training image by the network that did not see it.

    Args:
        data: the folder `data`, with the training images.
        networks: the folder `models` by `data.fold`, one for each part.
        seed: that draws the parts.
        batch_size: images in a step.
        tta: test-time augmentation, a value of `evaluate.tta`.

    Raises:
        UserError: a file is missing or broken.
    """
    mapped, labels = arrays.map_split(data, "train")
    images, manifest = np.array(mapped), arrays.load_manifest(data)
    probabilities = np.empty((len(labels), len(manifest["classes"])))
    for fold, folder in networks.items():
        network = checkpoint.load(folder, torch.device("cpu"))
        held_out = fold_split(labels, fold, seed)[1]
        logits = prediction.predict(
            network.model, torch.from_numpy(images[held_out]), network.normalization,
            batch_size=batch_size, tta=tta, description=f"part {fold}",
        )  # fmt: skip
        probabilities[held_out] = logits.double().softmax(1).numpy()
    files = arrays.read_files(data, "train")
    return Unseen(images, labels, probabilities, manifest["classes"], manifest["peak"], files)


def read_test(data: Path, folders: Sequence[Path]) -> Unseen:
    """The test images with the mean of what the networks said when they were evaluated.

    Args:
        data: the folder `data`, with the test images.
        folders: the folder `predictions` of each network.

    Raises:
        UserError: a file is missing or broken.
    """
    mapped, labels = arrays.map_split(data, "test")
    manifest = arrays.load_manifest(data)
    shape = (len(labels), len(manifest["classes"]))
    each = [softmax(predictions.read_logits(folder, shape)) for folder in folders]
    files = arrays.read_files(data, "test")
    return Unseen(
        np.array(mapped), labels, np.mean(each, axis=0), manifest["classes"], manifest["peak"],
        files,
    )  # fmt: skip
