"""The accuracies of several seeds, and their mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from striate.reporting import seeds, uncertainty
from striate.reporting.figures.fonts import FONT, drawable, families
from striate.reporting.figures.registry import figure
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
from striate.reporting.results import Results
from striate.reporting.seeds import Row
from striate.reporting.uncertainty import Mean

STACK = 0.4  # the height of dots of equal accuracies, in rows
STEP = 0.13  # from one of them to the next, at most


@figure("seeds", section="seeds", alt="Validation and test accuracy of each seed, and their means")
def draw(results: Results) -> Figure | Mapping[str, Figure]:
    """The accuracies of an experiment's seeds, if there are several."""
    if not results.means:
        return {}
    return accuracies(results.seeds, results.means, results.params[seeds.SEED])


def accuracies(rows: Sequence[Row], means: Mapping[str, Mean], own: int) -> Figure:
    """Draw the accuracies of each seed as dots, and below them the mean with its interval.

    Args:
        rows: of two seeds or more.
        means: what `seeds.means` gives for them.
        own: the seed to mark.

    Returns:
        One axes, a row for each accuracy, in percent. Equal accuracies are stacked.
    """
    figure = chart(4.9, 1 + 0.8 * len(means))
    axes = figure.subplots()
    levels = range(len(means))[::-1]  # the first row is on top
    handles: dict[str, Any] = {}
    for level, (name, mean) in zip(levels, means.items(), strict=True):
        column = seeds.column(*seeds.ACCURACIES[name])
        scores = {row[seeds.SEED]: row[column] for row in rows}
        handles = _draw_row(axes, level, scores, mean, own)
    _style_rows(axes, levels, list(means), "accuracy (%)")
    _add_legend(figure, handles)
    return figure


def setting_scores(settings: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the test accuracy of each seed of several settings, and the means with intervals.

    Args:
        settings: the name → accuracies, one or more, in the order of `curves.overlaid_curves`.

    Returns:
        One axes, a row for each setting in its colour there, in percent.
    """
    figure = chart(6.4, 0.9 + 0.6 * len(settings))
    axes = figure.subplots()
    levels = range(len(settings))[::-1]
    handles: dict[str, Any] = {}
    for number, (level, scores) in enumerate(zip(levels, settings.values(), strict=True)):
        by_seed = {float(n): score for n, score in enumerate(scores)}
        color = PALETTE[number % len(PALETTE)]
        handles |= _draw_row(axes, level, by_seed, uncertainty.summarize(scores), None, color)
    handles["a seed"] = axes.scatter([], [], s=26, color=PALETTE[-1])  # of any setting
    names = [drawable(name) for name in settings]
    _style_rows(axes, levels, names, "test accuracy (%)")
    for text in axes.get_yticklabels():
        text.set(parse_math=False, fontfamily=families(text.get_text()))
    _add_legend(figure, handles)
    return figure


def _style_rows(axes: Axes, levels: Sequence[int], names: Sequence[str], label: str) -> None:
    style_axes(axes, grid=False)
    axes.grid(axis="x", linewidth=0.6, color=FAINT)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(levels, names)
    axes.set_ylim(-0.45, len(names) - 0.75 + STACK)
    axes.set_xlim(right=min(axes.get_xlim()[1], 100.5))
    axes.set_xlabel(label, **text_style())


def _add_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    look: dict[str, Any] = {"labelcolor": INK, "frameon": False, "ncols": len(handles)}
    font = FontProperties(family=FONT, size=TEXT_SIZE)
    figure.legend(handles.values(), handles.keys(), loc="outside upper right", prop=font, **look)


def _draw_row(
    axes: Axes,
    level: float,
    scores: Mapping[float, float],
    mean: Mean,
    own: int | None,
    color: str = TRAIN,
) -> dict[str, Any]:
    """Draw the scores of one accuracy by seed; returns what the legend explains."""
    values = list(scores.values())
    step = min(STEP, STACK / max(map(values.count, values)))
    heights = [level + step * values[:n].count(value) for n, value in enumerate(values)]
    percent = [100 * value for value in values]
    dots = axes.scatter(percent, heights, s=26, color=color, alpha=0.7, linewidths=0)
    handles: dict[str, Any] = {"a seed": dots}
    if own is not None:
        marked = [n for n, seed in enumerate(scores) if seed == own]
        handles[f"this network, seed {own}"] = axes.scatter(
            [percent[n] for n in marked],
            [heights[n] for n in marked],
            s=60, facecolors="none", edgecolors=INK, linewidths=1.2,
        )  # fmt: skip
    if mean.high is not None:
        half = 100 * (mean.high - mean.mean)
        look: dict[str, Any] = {"fmt": "|", "markersize": 9, "capsize": 3, "linewidth": 1.3}
        bar = axes.errorbar(100 * mean.mean, level - 0.22, xerr=half, color=INK, **look)
        handles["mean, 95% interval"] = bar
    return handles
