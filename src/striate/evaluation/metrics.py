"""The metrics of metrics/test.json.

A new metric is one function here, decorated with `metric`. The stage evaluate, the report, the
model card, `striate summary`, `compare` and `gate` find it in `METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        shifted: the accuracy of each corruption at each severity; nothing if none was scored.
    """

    logits: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    confusion: np.ndarray
    shifted: Mapping[str, Sequence[float]] = {}


class Metric(NamedTuple):
    """One number that sums a set of predictions up.

    Attributes:
        key: its name in metrics/test.json.
        label: its name in tables and in the report.
        format_spec: how it is shown, such as `.2%`.
        better: which direction is better; None where neither is.
        note: what it is, in a few words; may be empty.
        compute: returns a number.
        where: whether it means something for these test images; None where it always does.
    """

    key: str
    label: str
    format_spec: str
    better: Direction | None
    note: str
    compute: Callable[[Predictions], Any]
    where: Callable[[Predictions], bool] | None = None

    def shown(self, values: Mapping[str, float]) -> str:
        """Its value in metrics/test.json; – where that file lacks it."""
        return format(values[self.key], self.format_spec) if self.key in values else MISSING


METRICS: dict[str, Metric] = {}  # by key, in the order of metrics/test.json


def metric(
    label: str,
    format_spec: str,
    better: Direction | None = None,
    note: str = "",
    where: Callable[[Predictions], bool] | None = None,
) -> Callable[[Callable[[Predictions], Any]], Callable[[Predictions], Any]]:
    """Register a function as a metric; its name is the key.

    Raises:
        ValueError: `better` is no direction.
    """
    if better not in (None, *get_args(Direction)):
        raise ValueError(f"better is {better!r}; it must be higher, lower or None")

    def register(compute: Callable[[Predictions], Any]) -> Callable[[Predictions], Any]:
        key = compute.__name__
        METRICS[key] = Metric(key, label, format_spec, better, note, compute, where)
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


IMBALANCE = 2  # times the images of the rarest class that the commonest may have
TOP, MANY = 5, 10  # classes


def is_imbalanced(predictions: Predictions) -> bool:
    """Whether the commonest class has more than twice the test images of the rarest.

    Otherwise balanced accuracy is hardly another number than accuracy: digits has 33 to 37 images
    of each class, MNIST 892 to 1,135.
    """
    support = predictions.confusion.sum(1)
    return bool(support.max() > IMBALANCE * support.min())


@metric("balanced accuracy", ".2%", "higher", "mean recall of the classes", is_imbalanced)
def balanced_accuracy(predictions: Predictions) -> float:
    """The mean of the classes' recalls: the accuracy if all classes were equally frequent.

    K. H. Brodersen et al., "The Balanced Accuracy and Its Posterior Distribution", ICPR 2010. A
    class without test images does not count.
    """
    return float(scores.mean_recall(predictions.confusion))


def has_many_classes(predictions: Predictions) -> bool:
    """Whether there are more than 10 classes; of 10, chance alone is right in half of the cases."""
    return len(predictions.confusion) > MANY


@metric("top-5 accuracy", ".2%", "higher", "class among the likeliest five", has_many_classes)
def top5_accuracy(predictions: Predictions) -> float:
    """The fraction of images whose class has one of the five largest logits.

    Of equal logits the first one counts as the larger, as in the accuracy.
    """
    likeliest = np.argsort(-predictions.logits, axis=1, kind="stable")[:, :TOP]
    return int((likeliest == predictions.labels[:, None]).sum()) / len(predictions.labels)


def is_shifted(predictions: Predictions) -> bool:
    """Whether corrupted images were scored, as `evaluate.shifted` says."""
    return bool(predictions.shifted)


@metric("shifted accuracy", ".2%", "higher", "mean over all corruptions and severities", is_shifted)
def shifted_accuracy(predictions: Predictions) -> float:
    """The mean accuracy over all corruptions and severities of `striate.evaluation.shifts`."""
    return float(np.mean([*predictions.shifted.values()]))


@metric("worst corruption", ".2%", "higher", "the corruption with the lowest accuracy", is_shifted)
def shifted_worst(predictions: Predictions) -> float:
    """The accuracy under the corruption that harms most, as a mean over its severities."""
    return float(np.mean([*predictions.shifted.values()], axis=1).min())


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


def others(values: Mapping[str, float]) -> list[Metric]:
    """All metrics but the accuracy and the counts behind it.

    Args:
        values: what metrics/test.json holds. A metric that means something for some data sets only
            is left out where that file lacks it.
    """
    return [
        entry
        for key, entry in METRICS.items()
        if key not in _STATED_TOGETHER and (entry.where is None or key in values)
    ]


def by_corruption(shifted: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """What metrics/shifted.json holds: the mean accuracy over the severities of each corruption."""
    return {name: float(np.mean(values)) for name, values in shifted.items()}


def predictions_of(
    logits: Tensor, labels: Tensor, shifted: Mapping[str, Sequence[float]] | None = None
) -> Predictions:
    """Gather what metrics are computed from.

    Args:
        logits: on the CPU, float32 (N, classes).
        labels: on the CPU, int64 (N,).
        shifted: the accuracy of each corruption at each severity.
    """
    return Predictions(
        logits.numpy(),
        labels.numpy(),
        # PyTorch's exponentials can be made equal on all processors (striate.models.portable).
        logits.double().softmax(1).numpy(),
        scores.confusion_matrix(logits.numpy(), labels.numpy()),
        shifted or {},
    )


def measure(predictions: Predictions) -> dict[str, float]:
    """Compute every metric that means something here: key → value, as metrics/test.json holds it.

    Raises:
        UserError: a value is not a finite number.
    """
    values = {
        key: entry.compute(predictions)
        for key, entry in METRICS.items()
        if entry.where is None or entry.where(predictions)
    }
    for key, value in values.items():
        if not np.isfinite(value):
            raise UserError(f"metric {key} is {value}; a metric must be a finite number")
    # JSON knows no scalar of NumPy.
    return {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in values.items()
    }
