"""Numbers as people read them."""

from striate.data.json_csv import MISSING
from striate.evaluation.scores import wilson
from striate.reporting.uncertainty import Mean


def plural(count: float, noun: str) -> str:
    """A count with its noun: `1 image`, `2 images`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction in percent."""
    return f"{fraction:.{digits}%}"


def epochs(count: float) -> str:
    """A number of epochs with its noun."""
    return plural(count, "epoch")


def interval(hits: int, total: int) -> str:
    """Wilson's 95 % interval of a proportion, in percent."""
    low, high = wilson(hits, total)
    return f"{100 * low:.2f} to {high:.2%}"


def mean_sd(mean: Mean, spec: str = ".2%") -> str:
    """A mean over seeds with its standard deviation: `97.11% ± 0.53%`; one seed's score alone.

    Args:
        mean: of the scores.
        spec: how a score is formatted, such as that of a metric.
    """
    value = format(mean.mean, spec)
    return value if mean.sd is None else f"{value} ± {mean.sd:{spec}}"


def mean_interval(mean: Mean, spec: str = ".2%") -> str:
    """The 95 % interval of a mean over seeds: `96.45 to 97.77%`; – where there is none.

    One in percent ends at 0 and 100: Student's t does not know these limits.
    """
    low, high = mean.low, mean.high
    if low is None or high is None:
        return MISSING
    if spec.endswith("%"):
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{low:{spec}}".removesuffix("%") + f" to {high:{spec}}"


def points(value: float) -> str:
    """A difference of two fractions in percentage points, with its sign."""
    return f"{100 * value:+.2f}".replace("-", "−")


def points_range(low: float, high: float) -> str:
    """An interval of such a difference."""
    return f"{points(low)} to {points(high)}"
