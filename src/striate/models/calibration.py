"""Calibration: the temperature of the probabilities, and the energy score of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from striate.models.model_json import FALSE_ALARMS, LEAST_IMAGES


def confidence(logits: Tensor, labels: Tensor) -> dict[str, float] | None:
    """Fit the temperature and the out-of-distribution threshold on held-out images.

    Args:
        logits: float (N, classes).
        labels: int64 (N,).

    Returns:
        `temperature`: the divisor of the logits. `energy`: the threshold above which an image is
        flagged, at a false-positive rate of `FALSE_ALARMS`. None for fewer than `LEAST_IMAGES`.
    """
    if len(labels) < LEAST_IMAGES:
        return None
    threshold = torch.quantile(energy(logits), 1 - FALSE_ALARMS)
    return {"temperature": temperature(logits, labels), "energy": float(threshold)}


def temperature(logits: Tensor, labels: Tensor) -> float:
    """Find the divisor of the logits, from 0.01 to 100, that minimises the mean cross-entropy.

    C. Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 4.2. The
    loss is convex in the inverse, so bisecting its slope finds the minimum.
    """
    logits = logits.double()
    mean_true_logit = logits.gather(1, labels[:, None]).mean()
    low, high = 0.01, 100.0
    for _ in range(50):
        factor = math.sqrt(low * high)
        slope = ((factor * logits).softmax(1) * logits).sum(1).mean() - mean_true_logit
        low, high = (low, factor) if slope > 0 else (factor, high)
    return 1 / math.sqrt(low * high)


def energy(logits: Tensor) -> Tensor:
    """The energy score of each image, (N,): the higher, the less it resembles the training set.

    W. Liu et al., "Energy-based Out-of-distribution Detection", arXiv:2010.03759, at temperature 1.
    `striate.evaluation.scores.energy` is the same in NumPy, for code that runs without PyTorch.
    """
    return -logits.double().logsumexp(1)
