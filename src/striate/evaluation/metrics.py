"""The metrics of metrics/test.json.

A new metric is one function here, decorated with `metric`. The stage evaluate, the report, the
model card, `striate summary`, `compare` and `gate` find it in `METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from striate.data.json_csv import MISSING
from striate.errors import UserError
from striate.evaluation import scores

if TYPE_CHECKING:
    from torch import Tensor

Direction = Literal["higher", "lower"]


class Predictions(NamedTuple):
    """What a metric is computed from.

    Attributes:
        logits: float32 (N, classes).
        labels: int64 (N,).
        probabilities: the softmax of the logits, float64 (N, classes).
        confusion: counts, int64 (classes, classes): rows are the true classes.
    """

    logits: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    confusion: np.ndarray


class Metric(NamedTuple):
    """One number that sums a set of predictions up.

    Attributes:
        key: its name in metrics/test.json.
        label: its name in tables and in the report.
        format_spec: how it is shown, such as `.2%`.
        better: which direction is better; None where neither is.
        note: what it is, in a few words; may be empty.
        compute: returns a number.
    """

    key: str
    label: str
    format_spec: str
    better: Direction | None
    note: str
    compute: Callable[[Predictions], Any]

    def shown(self, values: dict[str, float]) -> str:
        """Its value in metrics/test.json; – where that file is older than the metric."""
        return format(values[self.key], self.format_spec) if self.key in values else MISSING


METRICS: dict[str, Metric] = {}  # by key, in the order of metrics/test.json


def metric(
    label: str, format_spec: str, better: Direction | None = None, note: str = ""
) -> Callable[[Callable[[Predictions], Any]], Callable[[Predictions], Any]]:
    """Register a function as a metric; its name is the key.

    Raises:
        ValueError: `better` is no direction.
    """
    if better not in (None, *get_args(Direction)):
        raise ValueError(f"better is {better!r}; it must be higher, lower or None")

    def register(compute: Callable[[Predictions], Any]) -> Callable[[Predictions], Any]:
        key = compute.__name__
        METRICS[key] = Metric(key, label, format_spec, better, note, compute)
        return compute

    return register


@metric("test accuracy", ".2%", "higher")
def accuracy(predictions: Predictions) -> float:
    """The fraction of images whose largest logit is that of their class."""
    return int(predictions.confusion.trace()) / len(predictions.labels)


@metric("test loss", ".4f", "lower", "cross-entropy in nats")
def loss(predictions: Predictions) -> float:
    """The mean cross-entropy, as training computes it."""
    import torch

    from striate.models.prediction import mean_loss

    return mean_loss(torch.from_numpy(predictions.logits), torch.from_numpy(predictions.labels))


@metric("macro F1", ".4f", "higher", "mean over the classes")
def macro_f1(predictions: Predictions) -> float:
    """The mean of the classes' F1 scores."""
    return float(np.mean([row["f1"] for row in scores.per_class_scores(predictions.confusion)]))


@metric("calibration error", ".2%", "lower", "confidence against accuracy")
def ece(predictions: Predictions) -> float:
    """The expected calibration error."""
    return scores.expected_calibration_error(predictions.probabilities, predictions.labels)


@metric("test errors", ",", "lower")
def errors(predictions: Predictions) -> int:
    """The number of images whose predicted class is wrong."""
    return len(predictions.labels) - int(predictions.confusion.trace())


@metric("test images", ",")
def n(predictions: Predictions) -> int:
    """The number of images."""
    return len(predictions.labels)


# Of these, the report, the card and `striate summary` make one statement: 97.50% (9 of 360 wrong).
_STATED_TOGETHER = ("accuracy", "errors", "n")


def others() -> list[Metric]:
    """All metrics but the accuracy and the counts behind it."""
    return [entry for key, entry in METRICS.items() if key not in _STATED_TOGETHER]


def predictions_of(logits: Tensor, labels: Tensor) -> Predictions:
    """Gather what metrics are computed from.

    Args:
        logits: on the CPU, float32 (N, classes).
        labels: on the CPU, int64 (N,).
    """
    return Predictions(
        logits.numpy(),
        labels.numpy(),
        # PyTorch's exponentials can be made equal on all processors (striate.models.portable).
        logits.double().softmax(1).numpy(),
        scores.confusion_matrix(logits.numpy(), labels.numpy()),
    )


def measure(predictions: Predictions) -> dict[str, float]:
    """Compute every metric: key → value, as metrics/test.json holds it.

    Raises:
        UserError: a value is not a finite number.
    """
    values = {key: entry.compute(predictions) for key, entry in METRICS.items()}
    for key, value in values.items():
        if not np.isfinite(value):
            raise UserError(f"metric {key} is {value}; a metric must be a finite number")
    # JSON knows no scalar of NumPy.
    return {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in values.items()
    }
