"""The confusion matrix."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from striate.reporting.figures.fonts import families, short_names
from striate.reporting.figures.grid import Array
from striate.reporting.figures.registry import figure
from striate.reporting.figures.style import (
    DPI,
    INK,
    PAGE,
    chart,
    set_title,
    style_axes,
    text_style,
    text_width,
)
from striate.reporting.numbers import plural
from striate.reporting.results import Results

MAX_TICKS = 20  # also the classes of the largest matrix with a count in each cell


@figure(
    "confusion",
    section="confusion",
    alt="Confusion matrix: true classes by row, predicted classes by column",
)
def draw(results: Results) -> Figure:
    """The confusion matrix of an experiment."""
    return confusion_matrix(results.confusion, results.classes)


def confusion_matrix(counts: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix; its diagonal and its mistakes have a colour scale each.

    Colour is the share of the row's class. The mistakes' scale ends at the most frequent mistake,
    or at 5 %, and rises as the square root, so that rare mistakes show beside a strong diagonal.
    Counts are written in the cells of up to 20 classes; zeros stay blank.

    Args:
        counts: (K, K) integers; rows are true classes, columns predicted ones.
        class_names: K names.

    Returns:
        The matrix's axes, then two colour bars'.

    Raises:
        ValueError: `counts` is not a square of integers of at least 0, or K differs.
    """
    table = _check_counts(counts, len(class_names))
    size = len(table)
    share = 100 * table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(size, dtype=bool)
    worst = float(share[~diagonal].max(initial=5))
    scales = [
        ("correct", ~diagonal, "Blues", Normalize(0, 100)),
        ("wrong", diagonal | (table == 0), "Reds", PowerNorm(0.5, 0, worst)),
    ]
    ticks = range(0, size, math.ceil(size / MAX_TICKS))
    short = short_names(class_names)
    names = [short[tick] for tick in ticks]
    side = max(4.5, 0.5 * size) if size <= MAX_TICKS else 8
    room = max(0.0, max(map(text_width, names)) / DPI - 0.5)
    figure = chart(side + 3 + room, side + 1 + 0.7 * room)
    axes = figure.subplots()
    style_axes(axes, grid=False)
    axes.spines[:].set_visible(True)
    for name, hidden, cmap, norm in scales:
        masked = np.ma.masked_array(share, hidden)
        image = axes.imshow(masked, cmap=cmap, norm=norm, interpolation="nearest")
        bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=24, pad=0.03)
        bar.outline.set_visible(False)
        bar.set_label(f"{name}, % of the true class", **text_style())
        style_axes(bar.ax, grid=False)
        if size <= MAX_TICKS:
            _write_counts(axes, np.where(hidden, 0, table), dark=norm(share) > 0.55)
    _name_classes(axes, ticks, names)
    correct, total = int(table.trace()), int(table.sum())
    accuracy = f" ({correct / total:.2%})" if total else ""
    set_title(axes, f"{correct} of {plural(total, 'image')} correct{accuracy}")
    return figure


def _check_counts(counts: ArrayLike, size: int) -> Array:
    table = np.asarray(counts)
    if table.shape != (size, size) or size == 0:
        raise ValueError(f"counts must be ({size}, {size}), as the class names, not {table.shape}")
    if not np.issubdtype(table.dtype, np.integer) or table.min() < 0:
        raise ValueError("counts must be integers of at least 0")
    return table


def _write_counts(axes: Axes, table: Array, dark: Array) -> None:
    """Write the counts above 0 into their cells, in white on `dark` ones."""
    for row, column in np.argwhere(table > 0):
        style = text_style(color=PAGE if dark[row, column] else INK)
        axes.text(column, row, str(table[row, column]), ha="center", va="center", **style)


def _name_classes(axes: Axes, ticks: Sequence[int], names: Sequence[str]) -> None:
    style: dict[str, Any] = {"parse_math": False, "fontfamily": families("".join(names))}
    axes.set_yticks(ticks, names, **style)
    axes.set_xticks(ticks, names, **style)
    if max(map(len, names)) > 3:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("predicted", **text_style())
    axes.set_ylabel("true", **text_style())
