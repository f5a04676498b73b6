"""Accuracy against confidence."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from striate.reporting.figures.registry import figure
from striate.reporting.figures.style import (
    FAINT,
    TRAIN,
    add_legend,
    chart,
    set_title,
    style_axes,
    text_style,
)
from striate.reporting.results import Results


@figure("calibration", section="calibration", alt="Accuracy against confidence")
def draw(results: Results) -> Figure:
    """The calibration of an experiment's network."""
    return calibration(results.calibration)


def calibration(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw accuracy against confidence, and below it the number of images a bin of confidence.

    Args:
        rows: what `scores.calibration` gives: `count`, `confidence` and `accuracy`
            (fractions) of each bin.

    Returns:
        Two axes: the accuracy of each bin, then the counts.
    """
    figure = chart(5, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    confidence, accuracy = (
        [100 * row[name] for row in rows] for name in ("confidence", "accuracy")
    )
    counts = [row["count"] for row in rows]
    upper.plot([0, 100], [0, 100], color=FAINT, linestyle="--", label="perfect calibration")
    upper.plot(confidence, accuracy, color=TRAIN, marker="o", markersize=4, label="this network")
    upper.set_ylim(-2, 102)
    upper.set_ylabel("accuracy (%)", **text_style())
    add_legend(upper, "best")
    lower.bar(confidence, counts, width=2.5, color=TRAIN)
    lower.set_yscale("log")
    lower.yaxis.set_major_formatter("{x:,g}")
    lower.yaxis.set_minor_locator(NullLocator())
    lower.set_ylim(0.5, 2 * max(counts))
    lower.set_ylabel("images", **text_style())
    lower.set_xlabel("confidence (%): the probability of the predicted class", **text_style())
    lower.set_xlim(-2, 102)
    style_axes(upper)
    style_axes(lower)
    set_title(upper, "calibration")
    return figure
