"""predict() → logits; what a training or an evaluation computes from them and the labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from striate.evaluation.scores import (
    FALSE_ALARMS,
    LEAST_IMAGES,
    confusion_matrix,
    expected_calibration_error,
    per_class_scores,
)

if TYPE_CHECKING:
    from striate.training.lazy_images import Stored


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Tensor | Stored,
    normalize: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    tta: str = "none",
    description: str | None = None,
) -> Tensor:
    """Run a network over images, in evaluation mode.

    Args:
        model: on the device of `images`; it is left in evaluation mode.
        images: uint8 (N, C, H, W).
        normalize: uint8 images → inputs of the network.
        batch_size: images in a step.
        tta: test-time augmentation, a value of `evaluate.tta`; see `views`.
        description: what a progress bar says; None shows none.

    Returns:
        Logits on the CPU, float32 (N, classes).
    """
    model.eval()
    parts = []
    with tqdm(
        total=len(images),
        desc=description,
        unit=" images",
        disable=True if description is None else None,
        leave=False,
    ) as bar:
        for batch in images.split(batch_size):
            inputs = normalize(batch)
            logits = sum(weight * model(view) for view, weight in views(inputs, tta))
            parts.append(logits.float().cpu())
            bar.update(len(batch))
    return torch.cat(parts)


def views(inputs: Tensor, tta: str) -> Iterator[tuple[Tensor, float]]:
    """Variants of a batch whose logits are averaged, with their weights, which add up to 1.

    Half of the weight belongs to the image as it is and half to two shifts of it, by one pixel up
    and left and by one pixel down and right with a reflected border (K. Jordan, arXiv:2404.00498);
    each of these shares its weight with its mirror image.

    Args:
        inputs: normalised, (N, C, H, W).
        tta: `none`, `flip`, `translate` or `flip_translate`.
    """
    shifted = [(inputs, 1.0)]
    if "translate" in tta:
        height, width = inputs.shape[2:]
        padded = F.pad(inputs, [1] * 4, mode="reflect")
        corners = (padded[:, :, :height, :width], padded[:, :, 2:, 2:])
        shifted = [(inputs, 0.5)] + [(corner, 0.25) for corner in corners]
    for view, weight in shifted:
        if "flip" in tta:
            yield view, weight / 2
            yield view.flip(3), weight / 2
        else:
            yield view, weight


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats, summed in double precision and divided once."""
    return float(F.cross_entropy(logits.double(), labels, reduction="sum")) / len(labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of images whose largest logit is that of their class."""
    return int((logits.argmax(1) == labels).sum()) / len(labels)


def confidence(logits: Tensor, labels: Tensor) -> dict[str, float] | None:
    """How far a network's probabilities are to be believed, from images it has not learnt from.

    Returns:
        None where these are fewer than `LEAST_IMAGES`. `temperature`: what logits are to be divided
        by. `energy`: what `FALSE_ALARMS` of these images lie above; a picture above it is unlike
        them.
    """
    if len(labels) < LEAST_IMAGES:
        return None
    threshold = torch.quantile(energy(logits), 1 - FALSE_ALARMS)
    return {"temperature": temperature(logits, labels), "energy": float(threshold)}


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The divisor of the logits at which their mean cross-entropy is least, from 0.01 to 100.

    C. Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 4.2. The
    loss is convex in the inverse, so that its slope is bisected.
    """
    logits = logits.double()
    right = logits.gather(1, labels[:, None]).mean()
    low, high = 0.01, 100.0
    for _ in range(50):
        factor = math.sqrt(low * high)
        slope = ((factor * logits).softmax(1) * logits).sum(1).mean() - right
        low, high = (low, factor) if slope > 0 else (factor, high)
    return 1 / math.sqrt(low * high)


def energy(logits: Tensor) -> Tensor:
    """The energy of each image, (N,): the higher, the less it is like those that were learnt.

    W. Liu et al., "Energy-based Out-of-distribution Detection", arXiv:2010.03759, at temperature 1.
    """
    return -logits.double().logsumexp(1)


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The headline numbers of a set of predictions."""
    confusion = confusion_matrix(logits.numpy(), labels.numpy())
    # Of PyTorch, whose exponentials are the same on all processors where that is wanted.
    probabilities = logits.double().softmax(1).numpy()
    return {
        "accuracy": accuracy(logits, labels),
        "loss": mean_loss(logits, labels),
        "macro_f1": float(np.mean([row["f1"] for row in per_class_scores(confusion)])),
        "ece": expected_calibration_error(probabilities, labels.numpy()),
        "errors": int(confusion.sum() - np.trace(confusion)),
        "n": len(labels),
    }
