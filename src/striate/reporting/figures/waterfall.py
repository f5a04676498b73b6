"""What is lost when a setting is taken back, for all settings of a recipe."""

from collections.abc import Collection, Sequence
from statistics import median
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch

from striate.reporting.figures.fonts import FONT, drawable
from striate.reporting.figures.style import (
    FAINT,
    INK,
    TEXT_SIZE,
    TRAIN,
    VALIDATION,
    chart,
    style_axes,
    text_style,
)
from striate.reporting.numbers import points

CHANCE = "#b4bcc4"
# Times the median size of a loss or gain, and of an end of an interval: what is beyond the larger
# of both, to either side, is cut, or all others would be invisible.
FURTHEST = 8.0
SHORTEST = 0.1  # axis, in points
MAX_LABEL = 46  # letters


class Bar(NamedTuple):
    """A row of `waterfall`.

    Attributes:
        label: what is taken back.
        loss: of accuracy, as a fraction, negative for a gain; None where it is not known.
        interval: of the loss, low and high.
        differs: whether seeds alone would hardly lose or gain as much.
        unknown: why the loss is not known, if it is not.
    """

    label: str
    loss: float | None
    interval: tuple[float, float] | None
    differs: bool = False
    unknown: str = ""


def waterfall(bars: Sequence[Bar], accuracy: str, recipe: str) -> Figure:
    """Draw the loss of each setting as a bar, in the order given, with its interval.

    Args:
        bars: one or more; the first is on top.
        accuracy: its name.
        recipe: what the settings are taken back from, with its accuracy.

    Returns:
        One axes, in percentage points. Bars that are far longer than most are cut, to either side,
        with an arrow; each has its number beside it.
    """
    figure = chart(8.4, 1.2 + 0.29 * len(bars))
    axes = figure.subplots()
    left, right = _limits(bars)
    levels = range(len(bars))[::-1]
    for level, bar in zip(levels, bars, strict=True):
        _draw_bar(axes, level, bar, left, right)
    style_axes(axes, grid=False)
    axes.grid(axis="x", linewidth=0.6, color=FAINT)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(levels, [_cut(drawable(bar.label)) for bar in bars])
    axes.set_ylim(-0.7, len(bars) - 0.3)
    margin = 0.04 * (right - left) if left < 0 else 0.0
    axes.set_xlim(left - margin, right + 0.16 * (right - left))
    axes.set_xlabel(
        f"points of {accuracy} lost when it is taken back alone\nfrom {drawable(recipe)}",
        parse_math=False,
        **text_style(),
    )
    _explain(figure, {_color(bar) for bar in bars if bar.loss is not None})
    return figure


def _limits(bars: Sequence[Bar]) -> tuple[float, float]:
    """The longest gain, negative or 0, and the longest loss to draw, in points."""
    losses = [100 * bar.loss for bar in bars if bar.loss is not None]
    ends = [100 * end for bar in bars for end in bar.interval or ()]
    if not losses:
        return 0.0, 1.0
    # The intervals of few seeds are far longer than most losses, and should show.
    usual = FURTHEST * max(median(map(abs, losses)), median(map(abs, ends or losses)))
    right = min(max([0.0, *losses, *ends]), usual)
    left = max(min([0.0, *losses, *ends]), -usual)
    return left, max(right, left + SHORTEST)


def _draw_bar(axes: Axes, level: int, bar: Bar, left: float, right: float) -> None:
    """Draw one loss, its interval, and its number at the right."""
    text: dict[str, Any] = {"va": "center", **text_style(7)}
    at = right + 0.025 * (right - left)
    if bar.loss is None:
        start = 0 if right > -left else left  # where there is more room
        axes.annotate(bar.unknown, (start, level), xytext=(5, 0), textcoords="offset points",
                      **text | {"color": VALIDATION})  # fmt: skip
        return
    loss = 100 * bar.loss
    shown = max(min(loss, right), left)
    axes.barh(level, shown, height=0.62, color=_color(bar))
    if shown != loss:
        arrow = ">" if loss > 0 else "<"
        axes.plot(shown, level, marker=arrow, color=_color(bar), markersize=8, clip_on=False)
    elif bar.interval:
        low, high = (max(min(100 * end, right), left) for end in bar.interval)
        axes.hlines(level, low, high, color=INK, linewidth=1.1)
        for end, at_end in zip(bar.interval, (low, high), strict=True):
            if 100 * end == at_end:
                axes.vlines(at_end, level - 0.14, level + 0.14, color=INK, linewidth=1.1)
    number = points(round(bar.loss, 4) + 0.0).removeprefix("+")  # and no −0.00
    axes.annotate(number, (at, level), annotation_clip=False, **text)


def _color(bar: Bar) -> str:
    if not (bar.loss and bar.differs):
        return CHANCE
    return TRAIN if bar.loss > 0 else VALIDATION


def _explain(figure: Figure, used: Collection[str]) -> None:
    font = FontProperties(family=FONT, size=TEXT_SIZE)
    kinds = {
        "the setting gains accuracy": TRAIN,
        "the choice of seeds may explain it": CHANCE,
        "the setting costs accuracy": VALIDATION,
    }
    handles = [Patch(color=color, label=name) for name, color in kinds.items() if color in used]
    look: dict[str, Any] = {"labelcolor": INK, "frameon": False, "ncols": len(kinds)}
    figure.legend(handles=handles, loc="outside upper right", prop=font, **look)


def _cut(label: str) -> str:
    return label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"
