"""Scores of a set of predictions."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from striate.evaluation.scores import confusion_matrix, expected_calibration_error, per_class_scores
from striate.models.prediction import accuracy, mean_loss

if TYPE_CHECKING:
    pass


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
