"""Loss and accuracy against the epoch: of one training, or of several."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from striate.reporting.figures.fonts import drawable, families
from striate.reporting.figures.registry import figure
from striate.reporting.figures.style import (
    PALETTE,
    TRAIN,
    VALIDATION,
    add_legend,
    chart,
    set_title,
    style_axes,
    text_style,
)
from striate.reporting.results import Results

# Quantity in the history's columns, unit, factor to that unit, corner of the legend.
PANELS = (("loss", "", 1, "upper right"), ("accuracy", " (%)", 100, "lower right"))


@figure(
    "curves",
    section="curves",
    alt="Loss and accuracy against the epoch",
    narrow=lambda results: learning_curves(results.history, stacked=True),
)
def draw(results: Results) -> Figure:
    """The learning curves of an experiment."""
    return learning_curves(results.history)


def learning_curves(history: Mapping[str, Sequence[float]], stacked: bool = False) -> Figure:
    """Draw loss and accuracy against the epoch, training and validation in the same panel.

    Args:
        history: columns of equal length: "epoch", and any of "train_loss", "val_loss",
            "train_accuracy" and "val_accuracy". Accuracies are fractions in 0..1, drawn in
            percent. Other columns are left out.
        stacked: one panel below the other, for narrow screens.

    Returns:
        Two axes: loss, then accuracy.

    Raises:
        ValueError: there is no epoch or the columns' lengths differ.
    """
    epochs = np.asarray(history.get("epoch", ()), dtype=float)
    if epochs.ndim != 1 or len(epochs) == 0:
        raise ValueError("history must have an 'epoch' column with at least one epoch")
    figure = chart(*((4.6, 6.6) if stacked else (10, 4)))
    panels = figure.subplots(*((2, 1) if stacked else (1, 2)))
    for axes, (quantity, unit, scale, corner) in zip(panels, PANELS, strict=True):
        for prefix, name, color in [
            ("train", "training", TRAIN),
            ("val", "validation", VALIDATION),
        ]:
            column = f"{prefix}_{quantity}"
            if column not in history:
                continue
            values = np.asarray(history[column], dtype=float) * scale
            if values.shape != epochs.shape:
                raise ValueError(
                    f"history's {column!r} has {values.size} values for {epochs.size} epochs"
                )
            marker = "o" if len(epochs) <= 40 else ""
            axes.plot(epochs, values, color=color, label=name, marker=marker, markersize=4)
        _style_panel(axes, f"{quantity}{unit}", "epoch", steps=[1, 2, 5, 10])
        room = max(0.5, 0.02 * np.ptp(epochs))
        axes.set_xlim(epochs.min() - room, epochs.max() + room)
        if axes.lines:
            add_legend(axes, corner)
        else:
            middle = {"ha": "center", "transform": axes.transAxes}
            axes.text(0.5, 0.5, "not recorded", **middle, **text_style())
    return figure


def overlaid_curves(
    histories: Mapping[str, Mapping[str, Sequence[float]]], stacked: bool = False
) -> Figure:
    """Draw loss and accuracy of several trainings in the same panels, a colour each.

    Args:
        histories: name of the training → columns, as `learning_curves` takes them. A column
            `NAME_sd` is drawn as a band around that of NAME.
        stacked: one panel below the other, for narrow screens.

    Returns:
        Two axes: loss, then accuracy. Validation is a solid line, training a dashed one.
    """
    figure = chart(*((4.6, 7.2) if stacked else (10, 4.4)))
    panels = figure.subplots(*((2, 1) if stacked else (1, 2)))
    for axes, (quantity, unit, scale, _) in zip(panels, PANELS, strict=True):
        for number, (name, history) in enumerate(histories.items()):
            look = {"color": PALETTE[number % len(PALETTE)], "marker": "o", "markersize": 3}
            for prefix, line in (("val", "-"), ("train", "--")):
                values = scale * np.asarray(history.get(f"{prefix}_{quantity}", ()), dtype=float)
                if len(values):
                    axes.plot(history["epoch"], values, line, linewidth=1.2, **look)
                if f"{prefix}_{quantity}_sd" in history:
                    spread = scale * np.asarray(history[f"{prefix}_{quantity}_sd"])
                    band = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
                    axes.fill_between(history["epoch"], values - spread, values + spread, **band)
            axes.plot([], [], label=drawable(name), **look)
        _style_panel(axes, f"{quantity}{unit}", "epoch (solid: validation, dashed: training)")
    for text in add_legend(panels[0], "upper right").get_texts():
        text.set(parse_math=False, fontfamily=families(text.get_text()))
    return figure


def _style_panel(axes: Axes, title: str, label: str, steps: list[int] | None = None) -> None:
    style_axes(axes)
    set_title(axes, title)
    axes.set_xlabel(label, **text_style())
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1, steps=steps))
