"""Scores, intervals and mistakes from logits and labels.

In NumPy, because the report, the model card and `striate compare` use them without PyTorch.
"""

from __future__ import annotations

import math

import numpy as np

ECE_BINS = 15
Z = 1.959964  # standard deviations within which 95 % of a normal distribution lie


def softmax(logits: np.ndarray) -> np.ndarray:
    """The probability of each class, float64 (N, classes)."""
    logits = logits.astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def energy(logits: np.ndarray) -> np.ndarray:
    """The energy of each image, float64 (N,).

    The same as `striate.models.calibration.energy`, which sets the threshold in training and
    judges pictures in PyTorch; the model card needs it without PyTorch. A test compares them.
    """
    return np.asarray(-np.logaddexp.reduce(logits, axis=1, dtype=np.float64))


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The cross-entropy of each image in nats, float64 (N,)."""
    return np.asarray(-energy(logits) - logits[np.arange(len(labels)), labels])


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts, int64 (classes, classes): rows are the true classes, columns the predicted."""
    classes = logits.shape[1]
    cells = labels * classes + logits.argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


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


def mean_recall(confusion: np.ndarray) -> np.ndarray:
    """The mean recall of the classes that have images, of each matrix (…, classes, classes)."""
    hits, support = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1)
    recalls = hits / np.maximum(support, 1)
    return np.asarray(recalls.sum(-1) / (support > 0).sum(-1))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The expected calibration error, from 0 to 1, over 15 bins of equal width.

    C. Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599, equation 3.

    Args:
        probabilities: float64 (N, classes).
        labels: (N,).
    """
    confidence, correct, bins = _by_confidence(probabilities, labels)
    gaps = np.bincount(bins, weights=correct - confidence)
    return float(np.abs(gaps).sum()) / len(labels)


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """The reliability diagram: a row for each bin that holds images, by ascending confidence.

    A row has the `count` of images, their mean `confidence` (the largest softmax probability), and
    their `accuracy`. The bins are those of `expected_calibration_error`.
    """
    confidence, correct, bins = _by_confidence(probabilities, labels)
    rows = []
    for number in np.unique(bins):
        inside = bins == number
        rows.append(
            {
                "count": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(correct[inside].mean()),
            }
        )
    return rows


def _by_confidence(
    probabilities: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each image: the largest probability, whether the prediction is correct, and the bin."""
    confidence = probabilities.max(axis=1)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int), 1, ECE_BINS) - 1
    return confidence, probabilities.argmax(axis=1) == labels, bins


def surest_mistakes(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The misclassified images, the most confident first.

    Args:
        logits: (N, K).
        labels: (N,).

    Returns:
        Their indices, and the probability of each predicted class.
    """
    guesses = logits.argmax(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    # The softmax of the largest logit, whose shifted exponential is exp(0) = 1.
    shifted = logits[wrong].astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True, initial=-np.inf)
    probability = 1 / np.exp(shifted).sum(axis=1)
    order = np.argsort(-probability, kind="stable")
    return wrong[order], probability[order]


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion, as fractions from 0 to 1.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
    (1927). scipy.stats has it, too, but takes a second to import.
    """
    if total == 0:
        return 0.0, 1.0
    proportion, weight = hits / total, Z**2 / total
    centre = proportion + weight / 2
    reach = Z * math.sqrt(proportion * (1 - proportion) / total + weight / (4 * total))
    low, high = (centre - reach) / (1 + weight), (centre + reach) / (1 + weight)
    return max(low, 0.0), min(high, 1.0)
