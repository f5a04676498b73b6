"""Networks in the order of their years: accuracy, size and time."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import LogLocator, NullLocator

from striate.reporting.figures.fonts import FONT, drawable
from striate.reporting.figures.style import (
    FAINT,
    INK,
    PALETTE,
    TEXT_SIZE,
    TRAIN,
    chart,
    style_axes,
    text_style,
)
from striate.reporting.uncertainty import Mean

BAR = "#8fb8d8"  # lighter than TRAIN
WIDTHS = (2.0, 1.0, 1.0)  # of the panels, in parts
BELOW = 0.24  # how far the seeds of a row stand below its mean, in rows


class Point(NamedTuple):
    """A row of `ladder`.

    Attributes:
        label: year and name.
        scores: accuracy of each seed, fractions.
        mean: of these.
        parameters: of the network.
        seconds: of training; None where unknown.
        elsewhere: whether they were measured on another machine than most; a star says so.
    """

    label: str
    scores: Sequence[float]
    mean: Mean
    parameters: int
    seconds: float | None
    elsewhere: bool = False


def ladder(points: Sequence[Point], accuracy: str) -> Figure:
    """Draw networks as rows, the first one at the bottom, as on a ladder.

    Args:
        points: one or more, oldest first.
        accuracy: its name.

    Returns:
        Three axes: accuracy with its seeds and intervals, parameters, seconds of training. Without
        any seconds, two.
    """
    timed = any(point.seconds is not None for point in points)
    count = 3 if timed else 2
    figure = chart(8.4, 1.1 + 0.33 * len(points))
    panels = figure.subplots(1, count, sharey=True, width_ratios=WIDTHS[:count])
    handles = _draw_accuracies(panels[0], points, accuracy)
    _draw_bars(
        panels[1], "parameters (log scale)", [float(point.parameters) for point in points], set()
    )
    if timed:
        starred = {level for level, point in enumerate(points) if point.elsewhere}
        name = "seconds (log scale" + ", * elsewhere" * bool(starred) + ")"
        _draw_bars(panels[2], name, [point.seconds for point in points], starred)
    panels[0].set_yticks(range(len(points)), [drawable(point.label) for point in points])
    panels[0].set_ylim(-0.6, len(points) - 0.4)
    font = FontProperties(family=FONT, size=TEXT_SIZE)
    look: dict[str, Any] = {"labelcolor": INK, "frameon": False, "ncols": len(handles)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", prop=font, **look)
    return figure


def _style(axes: Axes, name: str) -> None:
    style_axes(axes, grid=False)
    axes.grid(axis="x", linewidth=0.6, color=FAINT)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(name, **text_style())


def _draw_accuracies(axes: Axes, points: Sequence[Point], accuracy: str) -> dict[str, Any]:
    """Draw each seed as a dot and the mean as a line; returns what the legend explains."""
    handles: dict[str, Any] = {}
    for level, point in enumerate(points):
        percent = [100 * score for score in point.scores]
        levels = [level - BELOW] * len(percent)
        handles["a seed"] = axes.scatter(
            percent, levels, s=16, color=BAR, alpha=0.8, linewidths=0, zorder=2
        )
        mean = point.mean
        half = 100 * (mean.high - mean.mean) if mean.high is not None else 0.0
        bar = axes.errorbar(
            100 * mean.mean, level, xerr=half, fmt="o", markersize=4.5, capsize=2.5,
            linewidth=1.2, color=TRAIN,
        )  # fmt: skip
        handles["mean, 95% interval"] = bar
    means = [100 * point.mean.mean for point in points]
    axes.plot(means, range(len(points)), color=FAINT, linewidth=1.2, zorder=0.5)
    _limit(axes, points)
    _style(axes, f"{accuracy} (%)")
    return handles


def _limit(axes: Axes, points: Sequence[Point]) -> None:
    """Show all seeds and means, and intervals unless those of few seeds need half of the panel."""
    shown = [100 * one for point in points for one in (*point.scores, point.mean.mean)]
    means = [point.mean for point in points]
    ends = [
        100 * min(max(end, 0), 1)
        for mean in means
        for end in (mean.low, mean.high)
        if end is not None
    ]
    low, high = min(shown), max(shown)
    room = (high - low) / 2
    low, high = max(min(shown + ends), low - room), min(max(shown + ends), high + room)
    margin = 0.06 * (high - low) or 0.5
    axes.set_xlim(low - margin, min(high + margin, 100 + margin / 4))


def _draw_bars(
    axes: Axes, name: str, values: Sequence[float | None], starred: Collection[int]
) -> None:
    """Draw values on a logarithmic scale as stems, each with its number, some with a star."""
    known = {level: value for level, value in enumerate(values) if value}
    axes.set_xscale("log")
    low, high = min(known.values()), max(known.values())
    left, span = low / 1.6, max(high / low, 3.0)
    axes.hlines([*known], left, [*known.values()], color=BAR, linewidth=1.6)
    axes.scatter([*known.values()], [*known], s=20, color=TRAIN, zorder=2)
    for level, value in known.items():
        axes.annotate(
            _short(value) + " *" * (level in starred), (value, level), xytext=(5, 0),
            textcoords="offset points", va="center", **text_style(7, PALETTE[-1]),
        )  # fmt: skip
    axes.set_xlim(left, left * 1.6 * span**1.45)  # with room for the numbers
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if span > 8 else (1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.xaxis.set_minor_locator(NullLocator())
    _style(axes, name)


def _short(value: float) -> str:
    """A number in few letters: 14.6k, 1.2M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"
