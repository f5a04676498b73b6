"""Accuracy against its cost, over many experiments or groups of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullLocator

from striate.reporting.figures.fonts import FONT, drawable
from striate.reporting.figures.grid import Array
from striate.reporting.figures.style import (
    FAINT,
    INK,
    PAGE,
    TEXT_SIZE,
    TRAIN,
    chart,
    style_axes,
    text_style,
)

BEATEN = "#9aa4ae"
MAX_NAMED = 12  # points of the front whose labels stand below the panel
MAX_LABEL = 80  # letters of such a label


class Panel(NamedTuple):
    """A panel of `trade_off`.

    Attributes:
        costs: of each point, above 0.
        accuracies: of each point, fractions.
        labels: of each point.
        front: the indices of the Pareto front, cheapest first.
        apart: the indices of points whose costs cannot be compared with the others'.
        intervals: of each point's accuracy, low and high; None where it has none. Empty if no
            point has one.
    """

    costs: Sequence[float]
    accuracies: Sequence[float]
    labels: Sequence[str]
    front: Sequence[int]
    apart: Sequence[int] = ()
    intervals: Sequence[tuple[float, float] | None] = ()


def trade_off(panels: Mapping[str, Panel], accuracy: str) -> Figure:
    """Draw accuracy against cost with its Pareto front, one panel a kind of cost.

    Args:
        panels: the cost's name → its points.
        accuracy: the accuracy's name.

    Returns:
        One axes a panel. Points of the front are numbered where there is room; the first
        MAX_NAMED of them are named below. A vertical bar is a point's interval.
    """
    named = max(min(len(panel.front), MAX_NAMED + 1) for panel in panels.values())
    figure = chart(5.5 * len(panels), 4.7 + 0.15 * named)
    subplots = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    handles: dict[str, Artist] = {}
    for axes, (name, panel) in zip(subplots, panels.items(), strict=True):
        handles |= _draw_panel(axes, name, panel)
    subplots[0].set_ylabel(f"{accuracy} (%)", **text_style())
    font = FontProperties(family=FONT, size=TEXT_SIZE)
    look: dict[str, Any] = {
        "prop": font,
        "labelcolor": INK,
        "frameon": False,
        "ncols": len(handles),
    }
    # Above the panels, where no point can be.
    figure.legend(handles.values(), handles.keys(), loc="outside upper right", **look)
    return figure


def _draw_panel(axes: Axes, name: str, panel: Panel) -> dict[str, Artist]:
    """Draw a panel's points; returns what the legend explains."""
    handles: dict[str, Artist] = {}
    percent = 100 * np.asarray(panel.accuracies, dtype=float)
    costs = np.asarray(panel.costs, dtype=float)
    comparable = np.ones(len(costs), dtype=bool)
    comparable[list(panel.apart)] = False
    # Half transparent: of two points that cover each other, both show.
    grey: dict[str, Any] = {"s": 22, "color": BEATEN, "alpha": 0.7, "linewidths": 0}
    handles["beaten by another"] = axes.scatter(costs[comparable], percent[comparable], **grey)
    if not comparable.all():
        handles["timed elsewhere"] = axes.scatter(
            costs[~comparable], percent[~comparable], s=22, facecolors="none", edgecolors=BEATEN
        )
    front = (costs[list(panel.front)], percent[list(panel.front)])
    axes.plot(*front, drawstyle="steps-post", color=FAINT, linewidth=1.2, zorder=0)
    handles["Pareto front"] = axes.scatter(*front, s=34, color=TRAIN)
    style_axes(axes)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(name, **text_style())
    axes.set_ylim(_limits(axes, panel))
    handles |= _draw_intervals(axes, panel)
    _number_front(axes, front)
    _name_front(axes, [panel.labels[index] for index in panel.front])
    return handles


def _limits(axes: Axes, panel: Panel) -> tuple[float, float]:
    """The limits of the accuracy, in percent.

    Intervals may reach as far beyond the points as these lie apart: one of two seeds is so long
    that the points could not be told apart if all of it showed.
    """
    bottom, top = axes.get_ylim()
    known = [interval for interval in panel.intervals if interval]
    if known:
        least, most = min(panel.accuracies), max(panel.accuracies)
        reach = most - least or 1.0
        low = max(min([least, *(low for low, _ in known)]), least - reach)
        high = min(max([most, *(high for _, high in known)]), most + reach)
        margin = 0.05 * (high - low)
        bottom, top = min(bottom, 100 * (low - margin)), max(top, 100 * (high + margin))
    return bottom, min(top, 100 + 0.04 * (100 - bottom))


def _draw_intervals(axes: Axes, panel: Panel) -> dict[str, Artist]:
    """Draw the interval of each point that has one; returns what the legend explains."""
    known = [(n, interval) for n, interval in enumerate(panel.intervals) if interval]
    if not known:
        return {}
    drawn = axes.vlines(
        [panel.costs[n] for n, _ in known],
        [100 * low for _, (low, _) in known],
        [100 * high for _, (_, high) in known],
        colors=[TRAIN if n in panel.front else BEATEN for n, _ in known],
        linewidth=1.1,
        alpha=0.6,
        zorder=0.5,
    )
    return {"95% interval of the mean over seeds": drawn}


def _number_front(axes: Axes, points: tuple[Array, Array]) -> None:
    """Write its number, from 1, beside each point of a front."""
    numbers: dict[tuple[float, float], list[int]] = {}
    for number, point in enumerate(zip(*points, strict=True), start=1):
        numbers.setdefault(point, []).append(number)
    # In fractions of the axes: a number that would cover the last one is left out. They rise from
    # left to right, so that those in between are clear.
    low, high = (np.log10(limit) for limit in axes.get_xlim())
    bottom, top = axes.get_ylim()
    last = (-1.0, -1.0)
    for (cost, percent), equal in numbers.items():
        x, y = (np.log10(cost) - low) / (high - low), (percent - bottom) / (top - bottom)
        if x - last[0] < 0.05 and y - last[1] < 0.05:
            continue
        text = ", ".join(map(str, equal)) if len(equal) < 4 else f"{equal[0]}–{equal[-1]}"
        last = (x + 0.02 * max(0, len(text) - 2), y)
        outline = [withStroke(linewidth=2, foreground=PAGE)]
        axes.annotate(
            text,
            (cost, percent),
            xytext=(5, -10),
            textcoords="offset points",
            path_effects=outline,
            **text_style(),
        )


def _name_front(axes: Axes, labels: Sequence[str]) -> None:
    """Write the labels of a front below the axes, by number."""
    lines = [
        f"{number}  {_cut(drawable(label))}"
        for number, label in enumerate(labels[:MAX_NAMED], start=1)
    ]
    if len(labels) > MAX_NAMED:
        lines.append(f"and {len(labels) - MAX_NAMED:,} more, which the table names")
    text = "\n".join(lines)
    axes.annotate(
        text,
        (0, 0),
        xycoords="axes fraction",
        xytext=(0, -38),
        textcoords="offset points",
        va="top",
        parse_math=False,
        linespacing=1.5,
        **text_style(7, text=text),
    )


def _cut(label: str) -> str:
    return label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"
