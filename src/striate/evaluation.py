"""predict() → logits; every score is computed from logits and labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

if TYPE_CHECKING:
    from striate.stored import Stored

ECE_BINS = 15
FALSE_ALARMS = 0.05  # of images like those that were learnt are said to be unlike them
LEAST_IMAGES = 100  # from which calibration and that share are estimated
Z = 1.959964  # standard deviations within which 95 % of a normal distribution lie


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


def confusion_matrix(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Counts, int64 (classes, classes): rows are the true classes, columns the predicted."""
    classes = logits.shape[1]
    cells = labels * classes + logits.argmax(1)
    return torch.bincount(cells, minlength=classes**2).view(classes, classes).numpy()


def per_class_scores(confusion: np.ndarray) -> list[dict[str, float]]:
    """`precision`, `recall`, `f1` (0 where undefined) and `support` of each class."""
    hits = np.diag(confusion)
    predicted, support = confusion.sum(0), confusion.sum(1)
    columns = {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(predicted + support, 1),
    }
    return [
        {name: float(column[k]) for name, column in columns.items()} | {"support": int(support[k])}
        for k in range(len(confusion))
    ]


def expected_calibration_error(logits: Tensor, labels: Tensor) -> float:
    """How far confidence is from accuracy, from 0 to 1, over 15 bins of equal width.

    C. Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599, equation 3.
    """
    confidence, right, bins = _by_confidence(logits, labels)
    gaps = torch.zeros(ECE_BINS, dtype=torch.float64)
    gaps.index_add_(0, bins, right.double() - confidence)
    return float(gaps.abs().sum()) / len(labels)


def calibration(logits: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """A row for each of the 15 bins of confidence that holds images, from unsure to sure.

    Each has the `count` of its images, their mean `confidence` (the largest softmax probability),
    and their `accuracy`: what `expected_calibration_error` is computed from.
    """
    confidence, right, bins = _by_confidence(logits, labels)
    rows = []
    for number in bins.unique().tolist():
        inside = bins == number
        count = int(inside.sum())
        rows.append(
            {
                "count": count,
                "confidence": float(confidence[inside].sum()) / count,
                "accuracy": int(right[inside].sum()) / count,
            }
        )
    return rows


def _by_confidence(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest probability of each image, whether it is right, and its bin of equal width."""
    confidence, predicted = logits.double().softmax(1).max(1)
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1
    return confidence, predicted == labels, bins


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


def surest_mistakes(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images whose predicted class is wrong, surest first.

    Args:
        logits: (N, K).
        labels: (N,).

    Returns:
        Their indices, and the probability of each one's predicted class.
    """
    guesses = logits.argmax(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    # The largest logit's probability: its own exponential is exp(0).
    rivals = logits[wrong].astype(np.float64)
    rivals -= rivals.max(axis=1, keepdims=True, initial=-np.inf)
    probability = 1 / np.exp(rivals).sum(axis=1)
    order = np.argsort(-probability, kind="stable")
    return wrong[order], probability[order]


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion, from 0 to 1.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
    (1927). It stays within 0 and 1, also where all images or none are hits.
    """
    if total == 0:
        return 0.0, 1.0
    share, weight = hits / total, Z**2 / total
    centre = share + weight / 2
    reach = Z * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    low, high = (centre - reach) / (1 + weight), (centre + reach) / (1 + weight)
    return max(low, 0.0), min(high, 1.0)


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The headline numbers of a set of predictions."""
    confusion = confusion_matrix(logits, labels)
    return {
        "accuracy": accuracy(logits, labels),
        "loss": mean_loss(logits, labels),
        "macro_f1": float(np.mean([row["f1"] for row in per_class_scores(confusion)])),
        "ece": expected_calibration_error(logits, labels),
        "errors": int(confusion.sum() - np.trace(confusion)),
        "n": len(labels),
    }
