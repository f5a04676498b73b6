"""Classify training images by the network that was trained without them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from striate.data import arrays
from striate.data.splits import fold_split
from striate.models import checkpoint, devices, prediction

AT_ONCE = 10_000  # images in memory


def classify(
    data: Path, networks: Mapping[str, Path], seed: int, *, batch_size: int, tta: str
) -> np.ndarray:
    """The probabilities of each training image, by the network that did not see it.

    Args:
        data: the folder `data`, with the training images.
        networks: the folder `models` by `data.fold`, one for each part.
        seed: that draws the parts.
        batch_size: images in a step.
        tta: test-time augmentation, a value of `evaluate.tta`.

    Returns:
        float64 (N, classes).

    Raises:
        UserError: a file is missing or broken.
    """
    images, labels = arrays.map_split(data, "train")
    device = devices.pick_device("auto")
    found = np.full((len(labels), len(arrays.load_manifest(data)["classes"])), np.nan)
    for fold, folder in networks.items():
        network = checkpoint.load(folder, device)
        held_out = fold_split(labels, fold, seed)[1]
        for part in np.split(held_out, range(AT_ONCE, len(held_out), AT_ONCE)):
            logits = prediction.predict(
                network.model, torch.from_numpy(images[part]).to(device), network.normalization,
                batch_size=batch_size, tta=tta, description=f"part {fold}",
            )  # fmt: skip
            found[part] = logits.double().softmax(1).numpy()
    return found
