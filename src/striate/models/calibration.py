"""How far a network's probabilities can be trusted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from striate.models.model_json import FALSE_ALARMS, LEAST_IMAGES

if TYPE_CHECKING:
    pass


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
    `striate.evaluation.scores.energy` is the same in NumPy, for code that runs without PyTorch.
    """
    return -logits.double().logsumexp(1)
