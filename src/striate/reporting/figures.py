"""Arrays in, figures out.

Every picture is laid out in whole pixels, so that a pixel of an image covers a whole number of
pixels of the PNG: small images and kernels come out crisp, and neighbours keep their distance.
All tiles of a picture stand in one axes, whose unit is that pixel: axes are slow to make.
"""

import io
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from striate.data import files
from striate.evaluation.scores import surest_mistakes

_Array: TypeAlias = NDArray[Any]
_Box: TypeAlias = tuple[int, int, int, int]  # left, top, width, height in pixels of a page

DPI = 150
COMPRESSION = 4  # of zlib's 0 to 9: from 6, which is usual, files shrink by a few percent more
POINT = DPI / 72  # pixels

INK = "#222222"
FAINT = "#d9d9d9"
PAGE = "white"
MISTAKE = "#c8102e"
TRAIN = "#0072b2"
VALIDATION = "#d55e00"
SEVERAL = (TRAIN, VALIDATION, "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#5c6066")
ABSOLUTE: dict[str, Any] = {"cmap": colormaps["gray"], "vmin": 0, "vmax": 1}
GREY = LinearSegmentedColormap.from_list("grey", ["black", "#e4e4e4"])  # the page is no value

FONT = "DejaVu Sans"  # ships with matplotlib: the same letters on every machine
# Fonts that show no letter, or another one than its code says.
NO_TEXT = ("cm", "Last Resort", "STIXNonUnicode", "STIXSize")
TITLE_SIZE = 11  # points
TEXT_SIZE = 8

MARGIN = 36  # pixels
GUTTER = 14
CAPTION = 26  # one line of text above a panel
HEADING = 42  # one line of a figure's title

MOSAIC = 64
CELLS_WITH_TEXT = 20
NAME = 24  # letters of a class's name, so that a picture has no more pixels than anyone looks at
FRONT_NAMED = 12


def samples(images: ArrayLike, labels: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draws training images in a square grid, each under the name of its class.

    Args:
        images: (N, C, H, W) in 0..1, C is 1 or 3.
        labels: (N,) integers that index `class_names`.
        class_names: one name a class.

    Returns:
        One axes with an image and a text a sample.

    Raises:
        ValueError: if the shapes disagree or a label has no name.
    """
    pictures, truth = _checked(images, labels, class_names)
    names = _short(class_names)
    captions = [names[label] for label in truth]
    title = _number(len(pictures), "training image")
    return _image_grid(pictures, captions, _square(len(pictures)), title)


def filters(weight: ArrayLike, title: str) -> Figure:
    """Draws a convolution's kernels, one panel an input channel, in grey about zero.

    A panel tiles the kernels of all output channels, row by row. All panels share one colour
    scale. Of more than 64 input channels or 64 kernels a panel, the first 64 are drawn and the
    figure's title says so.

    Args:
        weight: (out, in, height, width). Three input channels are taken for red, green and blue.
        title: the figure's title, such as the layer's name.

    Returns:
        One axes with an image and a text an input channel; the colour bar is its child.

    Raises:
        ValueError: if `weight` is not 4-D or is empty.
    """
    kernels = np.asarray(weight)
    if kernels.ndim != 4 or kernels.size == 0:
        raise ValueError(f"weight must be (out, in, height, width), not {kernels.shape}")
    outputs, inputs = kernels.shape[:2]
    notes = []
    if inputs > MOSAIC:
        notes.append(f"first {MOSAIC} of {inputs} input channels")
    if outputs > MOSAIC:
        notes.append(f"first {MOSAIC} of {outputs} kernels a panel")
    kernels = kernels[:MOSAIC, :MOSAIC]
    if inputs == 3:
        names = ["red", "green", "blue"]
    else:
        names = [f"input channel {channel}" for channel in range(kernels.shape[1])]

    mosaics = [
        _mosaic(kernels[:, channel], _square(len(kernels)), gap=1)
        for channel in range(kernels.shape[1])
    ]
    limit = float(np.max(np.abs(kernels), where=np.isfinite(kernels), initial=0)) or 1.0
    columns = _oblong(len(mosaics))
    height, width = mosaics[0].shape
    scale = _scale(max(height, width), min(450, max(288, 1500 // columns)))
    width, height = width * scale, height * scale
    figure, axes, boxes = _grid(
        len(mosaics),
        columns,
        panel=(width, height),
        cell=max(width, *(_text_width(name) for name in names)),
        title="\n".join([title, "; ".join(notes)] if notes else [title]),
        gutter=3 * GUTTER,
        right=150,
    )
    norm = Normalize(-limit, limit)
    for box, mosaic, name in zip(boxes, mosaics, names, strict=True):
        shown = _tile(axes, box, mosaic, name, cmap=GREY, norm=norm)
    left, top, *_ = boxes[columns - 1]
    across, down = axes.get_xlim()[1], axes.get_ylim()[0]
    beside = ((left + width + 30) / across, 1 - (top + height) / down, 18 / across, height / down)
    bar = axes.inset_axes(beside)
    ruler = figure.colorbar(shown, cax=bar)
    ruler.set_ticks([-limit, 0, limit], labels=[f"−{limit:.2g}", "0", f"{limit:.2g}"])
    ruler.outline.set_visible(False)
    bar.tick_params(labelsize=TEXT_SIZE, labelcolor=INK, color=FAINT, labelfontfamily=FONT)
    return figure


def predictions(
    images: ArrayLike, labels: ArrayLike, logits: ArrayLike, class_names: Sequence[str]
) -> Figure:
    """Draws test images ten to a row, each titled "predicted:true".

    A mistake has a bold red title and a red frame.

    Args:
        images: (N, C, H, W) in 0..1, C is 1 or 3.
        labels: (N,) integers that index `class_names`.
        logits: (N, K), one column a class.
        class_names: K names.

    Returns:
        One axes with an image and a text a prediction, and a patch a mistake; the figure's
        title counts the predictions that are right.

    Raises:
        ValueError: if the shapes disagree or a label has no name.
    """
    pictures, truth = _checked(images, labels, class_names)
    scores = _checked_logits(logits, truth, class_names)
    predicted = scores.argmax(axis=1)
    captions = _pairs(predicted, truth, class_names)
    right = int((predicted == truth).sum())
    title = f"predicted:true, {right} of {_number(len(pictures), 'image')} right"
    figure = _image_grid(pictures, captions, min(10, len(pictures)), title)
    axes = figure.axes[0]
    for index in np.flatnonzero(predicted != truth).tolist():
        axes.texts[index].set(color=MISTAKE, weight="bold")
        x0, x1, y1, y0 = axes.images[index].get_extent()
        frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=MISTAKE, linewidth=2.5)
        axes.add_patch(frame)
    return figure


def learning_curves(history: Mapping[str, Sequence[float]], stacked: bool = False) -> Figure:
    """Draws loss and accuracy against the epoch, training and validation in the same panel.

    Args:
        stacked: one panel below the other, for narrow screens.
        history: columns of equal length: "epoch", and any of "train_loss", "val_loss",
            "train_accuracy" and "val_accuracy". Accuracies are fractions in 0..1, drawn in
            percent. Other columns are left out.

    Returns:
        Two axes: loss, then accuracy.

    Raises:
        ValueError: if there is no epoch or the columns' lengths differ.
    """
    epochs = np.asarray(history.get("epoch", ()), dtype=float)
    if epochs.ndim != 1 or len(epochs) == 0:
        raise ValueError("history must have an 'epoch' column with at least one epoch")
    figure = _chart(*((4.6, 6.6) if stacked else (10, 4)))
    places = figure.subplots(*((2, 1) if stacked else (1, 2)))
    panels = [("loss", "", 1, "upper right"), ("accuracy", " (%)", 100, "lower right")]
    for axes, (quantity, unit, scale, corner) in zip(places, panels, strict=True):
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
        _style(axes)
        axes.set_title(f"{quantity}{unit}", loc="left", **_text(TITLE_SIZE))
        axes.set_xlabel("epoch", **_text())
        room = max(0.5, 0.02 * np.ptp(epochs))
        axes.set_xlim(epochs.min() - room, epochs.max() + room)
        steps = [1, 2, 5, 10]
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1, steps=steps))
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        if axes.lines:
            font = FontProperties(family=FONT, size=TEXT_SIZE)
            axes.legend(loc=corner, prop=font, labelcolor=INK, edgecolor=PAGE, framealpha=0.8)
        else:
            axes.text(0.5, 0.5, "not recorded", ha="center", transform=axes.transAxes, **_text())
    return figure


def confusion_matrix(counts: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draws a confusion matrix, its diagonal and its mistakes on colour scales of their own.

    Colour is the share of the row's class. The mistakes' scale ends at the most frequent mistake,
    or at 5 %, and rises as the square root, so that rare mistakes show beside a strong diagonal.
    Counts are written in the cells of up to 20 classes; zeros stay blank.

    Args:
        counts: (K, K) integers; rows are true classes, columns predicted ones.
        class_names: K names.

    Returns:
        The matrix's axes, then two colour bars'.

    Raises:
        ValueError: if `counts` is not a square of integers of at least 0, or K differs.
    """
    table = np.asarray(counts)
    size = len(class_names)
    if table.shape != (size, size) or size == 0:
        raise ValueError(f"counts must be ({size}, {size}), as the class names, not {table.shape}")
    if not np.issubdtype(table.dtype, np.integer) or table.min() < 0:
        raise ValueError("counts must be integers of at least 0")

    share = 100 * table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(size, dtype=bool)
    worst = float(share[~diagonal].max(initial=5))
    scales = [
        ("right", ~diagonal, "Blues", Normalize(0, 100)),
        ("mistaken", diagonal | (table == 0), "Reds", PowerNorm(0.5, 0, worst)),
    ]
    ticks = range(0, size, math.ceil(size / CELLS_WITH_TEXT))
    short = _short(class_names)
    names = [short[tick] for tick in ticks]
    side = max(4.5, 0.5 * size) if size <= CELLS_WITH_TEXT else 8
    room = max(0.0, max(map(_text_width, names)) / DPI - 0.5)
    figure = _chart(side + 3 + room, side + 1 + 0.7 * room)
    axes = figure.subplots()
    _style(axes)
    axes.spines[:].set_visible(True)
    for name, hidden, cmap, norm in scales:
        shown = axes.imshow(
            np.ma.masked_array(share, hidden), cmap=cmap, norm=norm, interpolation="nearest"
        )
        bar = figure.colorbar(shown, ax=axes, shrink=0.6, aspect=24, pad=0.03)
        bar.outline.set_visible(False)
        bar.set_label(f"{name}, % of the true class", **_text())
        _style(bar.ax)
        if size <= CELLS_WITH_TEXT:
            dark = norm(share) > 0.55
            for row, column in np.argwhere(~hidden & (table > 0)):
                axes.text(
                    column,
                    row,
                    str(table[row, column]),
                    ha="center",
                    va="center",
                    **_text(color=PAGE if dark[row, column] else INK),
                )

    named: dict[str, Any] = {"parse_math": False, "fontfamily": _families("".join(names))}
    axes.set_yticks(ticks, names, **named)
    axes.set_xticks(ticks, names, **named)
    if max(map(len, names)) > 3:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("predicted", **_text())
    axes.set_ylabel("true", **_text())
    right, total = int(table.trace()), int(table.sum())
    accuracy = f" ({right / total:.2%})" if total else ""
    axes.set_title(
        f"{right} of {_number(total, 'image')} right{accuracy}", loc="left", **_text(TITLE_SIZE)
    )
    return figure


def overlaid_curves(
    histories: Mapping[str, Mapping[str, Sequence[float]]], stacked: bool = False
) -> Figure:
    """Draws loss and accuracy of several trainings in the same panels, a colour each.

    Args:
        histories: name of the training → columns, as `learning_curves` takes them.
        stacked: one panel below the other, for narrow screens.

    Returns:
        Two axes: loss, then accuracy. Validation is a full line, training a dashed one.
    """
    figure = _chart(*((4.6, 7.2) if stacked else (10, 4.4)))
    places = figure.subplots(*((2, 1) if stacked else (1, 2)))
    panels = (("loss", "", 1), ("accuracy", " (%)", 100))
    for axes, (quantity, unit, scale) in zip(places, panels, strict=True):
        for number, (name, history) in enumerate(histories.items()):
            label = _drawable(name)
            colour = SEVERAL[number % len(SEVERAL)]
            for part, style in (("val", "-"), ("train", "--")):
                values = scale * np.asarray(history.get(f"{part}_{quantity}", ()), dtype=float)
                if len(values):
                    axes.plot(history["epoch"], values, style, color=colour, marker="o",
                              markersize=3, linewidth=1.2)  # fmt: skip
            axes.plot([], [], color=colour, label=label, marker="o", markersize=3)
        _style(axes)
        axes.set_title(f"{quantity}{unit}", loc="left", **_text(TITLE_SIZE))
        axes.set_xlabel("epoch; full: validation, dashed: training", **_text())
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
    font = FontProperties(family=FONT, size=TEXT_SIZE)
    legend = places[0].legend(
        loc="upper right", prop=font, labelcolor=INK, edgecolor=PAGE, framealpha=0.8
    )
    for text in legend.get_texts():
        text.set(parse_math=False, fontfamily=_families(text.get_text()))
    return figure


class Panel(NamedTuple):
    """A panel of `trade_off`.

    Attributes:
        costs: of each point, above 0.
        accuracies: of each point, fractions.
        labels: of each point.
        front: the indices of the points that no other beats, cheapest first.
        apart: the indices of points whose costs cannot be compared with the others'.
    """

    costs: Sequence[float]
    accuracies: Sequence[float]
    labels: Sequence[str]
    front: Sequence[int]
    apart: Sequence[int] = ()


def trade_off(panels: Mapping[str, Panel], accuracy: str) -> Figure:
    """Draws accuracy against a cost, one panel a cost, and the front that no point beats.

    Args:
        panels: what the cost is → its points.
        accuracy: what the accuracy is called.

    Returns:
        One axes a panel. Points of the front are numbered where there is room; the first
        FRONT_NAMED of them are named below.
    """
    named = max(min(len(panel.front), FRONT_NAMED + 1) for panel in panels.values())
    figure = _chart(5.5 * len(panels), 4.7 + 0.15 * named)
    places = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    handles: dict[str, Artist] = {}
    for axes, (name, panel) in zip(places, panels.items(), strict=True):
        percent = 100 * np.asarray(panel.accuracies, dtype=float)
        costs = np.asarray(panel.costs, dtype=float)
        drawn = np.ones(len(costs), dtype=bool)
        drawn[list(panel.apart)] = False
        # Of two points that cover each other, both show.
        grey = {"s": 22, "color": "#9aa4ae", "alpha": 0.7, "linewidths": 0}
        handles["beaten by another"] = axes.scatter(costs[drawn], percent[drawn], **grey)
        if not drawn.all():
            handles["timed elsewhere"] = axes.scatter(
                costs[~drawn], percent[~drawn], s=22, facecolors="none", edgecolors="#9aa4ae"
            )
        best = (costs[list(panel.front)], percent[list(panel.front)])
        axes.plot(*best, drawstyle="steps-post", color=FAINT, linewidth=1.2, zorder=0)
        handles["Pareto front"] = axes.scatter(*best, s=34, color=TRAIN)
        _style(axes)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(name, **_text())
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        bottom, top = axes.get_ylim()
        axes.set_ylim(top=min(top, 100 + 0.04 * (100 - bottom)))
        _name_front(axes, panel.front, best, panel.labels)
    places[0].set_ylabel(f"{accuracy} (%)", **_text())
    font = FontProperties(family=FONT, size=TEXT_SIZE)
    # Above the panels, where no point can be.
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper right", ncols=len(handles), prop=font,
        labelcolor=INK, frameon=False,
    )  # fmt: skip
    return figure


def _name_front(
    axes: Axes, front: Sequence[int], points: tuple[_Array, _Array], labels: Sequence[str]
) -> None:
    """Numbers the points of a front, and names them below the axes."""
    numbers: dict[tuple[float, float], list[int]] = {}
    for number, point in enumerate(zip(*points, strict=True), start=1):
        numbers.setdefault(point, []).append(number)
    # In parts of the axes: a number that would cover the last one is left out. They rise from left
    # to right, so that those in between are clear.
    low, high = (np.log10(limit) for limit in axes.get_xlim())
    bottom, top = axes.get_ylim()
    last = (-1.0, -1.0)
    for (cost, percent), held in numbers.items():
        place = ((np.log10(cost) - low) / (high - low), (percent - bottom) / (top - bottom))
        if place[0] - last[0] < 0.05 and place[1] - last[1] < 0.05:
            continue
        said = ", ".join(map(str, held)) if len(held) < 4 else f"{held[0]}–{held[-1]}"
        last = (place[0] + 0.02 * max(0, len(said) - 2), place[1])
        axes.annotate(
            said, (cost, percent), xytext=(5, -10), textcoords="offset points",
            path_effects=[withStroke(linewidth=2, foreground=PAGE)], **_text(),
        )  # fmt: skip
    key = [
        f"{number}  {_cut(_drawable(labels[n]))}"
        for number, n in enumerate(front[:FRONT_NAMED], start=1)
    ]
    if len(front) > FRONT_NAMED:
        key.append(f"and {len(front) - FRONT_NAMED:,} more, which the table names")
    text = "\n".join(key)
    axes.annotate(
        text, (0, 0), xycoords="axes fraction", xytext=(0, -38),
        textcoords="offset points", va="top", parse_math=False, linespacing=1.5,
        **_text(7, said=text),
    )  # fmt: skip


def _cut(label: str, most: int = 80) -> str:
    """A label that fits below a panel."""
    return label if len(label) <= most else label[: most - 1] + "…"


def calibration(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draws accuracy against confidence, and below it how many images are how sure.

    Args:
        rows: what `scores.calibration` gives: `count`, `confidence` and `accuracy`
            (fractions) of each bin.

    Returns:
        Two axes: the accuracy of each bin, then the counts.
    """
    figure = _chart(5, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    confidence, accuracy = (
        [100 * row[name] for row in rows] for name in ("confidence", "accuracy")
    )
    counts = [row["count"] for row in rows]
    upper.plot([0, 100], [0, 100], color=FAINT, linestyle="--", label="as sure as right")
    upper.plot(confidence, accuracy, color=TRAIN, marker="o", markersize=4, label="this network")
    upper.set_ylim(-2, 102)
    upper.set_ylabel("accuracy (%)", **_text())
    font = FontProperties(family=FONT, size=TEXT_SIZE)
    upper.legend(loc="best", prop=font, labelcolor=INK, edgecolor=PAGE, framealpha=0.8)
    lower.bar(confidence, counts, width=2.5, color=TRAIN)
    lower.set_yscale("log")
    lower.yaxis.set_major_formatter("{x:,g}")
    lower.yaxis.set_minor_locator(NullLocator())
    lower.set_ylim(0.5, 2 * max(counts))
    lower.set_ylabel("images", **_text())
    lower.set_xlabel("confidence (%): the probability of the predicted class", **_text())
    lower.set_xlim(-2, 102)
    for axes in (upper, lower):
        _style(axes)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
    upper.set_title("calibration", loc="left", **_text(TITLE_SIZE))
    return figure


def confident_mistakes(
    images: ArrayLike,
    labels: ArrayLike,
    logits: ArrayLike,
    class_names: Sequence[str],
    count: int,
) -> Figure:
    """Draws the mistakes of which the model was most sure, surest first.

    Each is titled "predicted:true" with the softmax probability of the predicted class below.

    Args:
        images: (N, C, H, W) in 0..1, C is 1 or 3.
        labels: (N,) integers that index `class_names`.
        logits: (N, K), one column a class.
        class_names: K names.
        count: the most images to draw, at least 1.

    Returns:
        One axes with an image and a text a mistake, or a sentence where there is none.

    Raises:
        ValueError: if the shapes disagree, a label has no name or `count` is below 1.
    """
    pictures, truth = _checked(images, labels, class_names)
    scores = _checked_logits(logits, truth, class_names)
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    wrong, probability = surest_mistakes(scores, truth)
    if len(wrong) == 0:
        return _page(f"There are no mistakes in {_number(len(truth), 'image')}.", 0, 0)[0]

    chosen = wrong[:count]
    pairs = _pairs(scores[chosen].argmax(axis=1), truth[chosen], class_names)
    captions = [
        f"{pair}\n{surety:.1%}" for pair, surety in zip(pairs, probability[:count], strict=True)
    ]
    mistakes = f"{_number(len(wrong), 'mistake')} in {_number(len(truth), 'image')}"
    title = mistakes if len(chosen) == len(wrong) else f"{len(chosen)} surest of {mistakes}"
    title = f"predicted:true, {title}"
    return _image_grid(pictures[chosen], captions, _square(len(chosen)), title)


def feature_maps(image: ArrayLike, maps: Mapping[str, ArrayLike], class_name: str) -> Figure:
    """Draws an image and, below it, what each layer makes of it.

    A layer's channels stand sixteen to a row on a colour scale from the layer's smallest value
    (dark) to its largest. Of more than 64 channels the first 64 are drawn and the title says so.

    Args:
        image: (C, H, W) in 0..1, C is 1 or 3.
        maps: layer name → (channels, height, width), in the order to draw.
        class_name: the image's class.

    Returns:
        One axes with an image and a text of `image`, then of each layer.

    Raises:
        ValueError: if `image` or a layer's maps are not 3-D, or are empty.
    """
    picture = np.asarray(image)
    if picture.ndim != 3:
        raise ValueError(f"image must be (C, H, W), not {picture.shape}")
    _check_images(picture[None])
    columns, tile, gap = 16, 96, 4
    height, width = picture.shape[1:]
    scale = _scale(max(height, width), 2 * tile)
    captions = [f"image, {height}×{width}"]
    tiles: list[tuple[_Array, dict[str, Any]]] = [(_pixels(picture), ABSOLUTE)]
    sizes = [(width * scale, height * scale)]
    for name, values in maps.items():
        layer = np.asarray(values)
        if layer.ndim != 3 or layer.size == 0:
            raise ValueError(
                f"maps of {name!r} must be (channels, height, width), not {layer.shape}"
            )
        channels, height, width = layer.shape
        capped = f", first {MOSAIC} of {channels}" if channels > MOSAIC else ""
        captions.append(f"{name}: {_number(channels, 'channel')}, {height}×{width}{capped}")
        shown = layer[:MOSAIC]
        # Enlarged before they are tiled, so that the gap is as wide for 1×1 as for 28×28.
        scale = _scale(max(height, width), tile)
        enlarged = shown.repeat(scale, axis=1).repeat(scale, axis=2)
        mosaic = _mosaic(enlarged, min(columns, len(shown)), gap)
        tiles.append((mosaic, {"cmap": GREY}))
        height, width = mosaic.shape
        shrink = min(1.0, columns * (tile + gap) / width)
        sizes.append((round(width * shrink), round(height * shrink)))

    figure, axes, top = _page(
        f"feature maps of one image, class {_short([class_name])[0]}",
        max([width for width, _ in sizes] + [_text_width(caption) for caption in captions]),
        sum(height for _, height in sizes) + len(maps) * (CAPTION + 2 * GUTTER),
    )
    for (pixels, colours), (width, height), caption in zip(tiles, sizes, captions, strict=True):
        _tile(axes, (MARGIN, top, width, height), pixels, caption, loc="left", **colours)
        top += height + 2 * GUTTER + CAPTION
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes `figure` as a PNG whose bytes depend on the figure alone.

    Args:
        figure: any figure of this module.
        path: the file to write or replace, as a whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    files.write(Path(path), png(figure))


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    layout = figure.get_layout_engine()
    if layout is not None:
        # Matplotlib would draw the whole figure an extra time for it.
        layout.execute(figure)
        figure.set_layout_engine(None)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # The page is opaque: without alpha there is a quarter less to compress.
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    buffer = io.BytesIO()
    image.save(buffer, format="png", dpi=(DPI, DPI), compress_level=COMPRESSION)
    return buffer.getvalue()


def _checked(
    images: ArrayLike, labels: ArrayLike, class_names: Sequence[str]
) -> tuple[_Array, _Array]:
    pictures, truth = np.asarray(images), np.asarray(labels)
    _check_images(pictures)
    if truth.shape != pictures.shape[:1]:
        raise ValueError(f"{len(pictures)} images need as many labels, not {truth.shape}")
    if not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"labels must be integers, not {truth.dtype}")
    if truth.min() < 0 or truth.max() >= len(class_names):
        raise ValueError(
            f"labels span {truth.min()}..{truth.max()} but there are {len(class_names)} class names"
        )
    return pictures, truth


def _check_images(pictures: _Array) -> None:
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or pictures.size == 0:
        raise ValueError(
            f"images must be (N, C, H, W) with C of 1 or 3 and N of at least 1,"
            f" not {pictures.shape}"
        )
    if not np.issubdtype(pictures.dtype, np.floating):
        raise ValueError(f"images must be floats in 0..1, not {pictures.dtype}")


def _checked_logits(logits: ArrayLike, truth: _Array, class_names: Sequence[str]) -> _Array:
    scores = np.asarray(logits, dtype=float)
    if scores.shape != (len(truth), len(class_names)):
        raise ValueError(
            f"logits must be ({len(truth)}, {len(class_names)}), as the labels and the class"
            f" names, not {scores.shape}"
        )
    return scores


def _pairs(predicted: _Array, truth: _Array, class_names: Sequence[str]) -> list[str]:
    names = _short(class_names, NAME * 2 // 3)
    return [f"{names[guess]}:{names[label]}" for guess, label in zip(predicted, truth, strict=True)]


@cache
def _family(letter: str) -> str | None:
    """The font that draws a letter: ours, or else the first one of this machine that has it."""
    if ord(letter) in _letters(findfont(FONT)):
        return FONT
    others = {
        entry.name: entry.fname
        for entry in fontManager.ttflist
        if (entry.style, entry.weight) == ("normal", 400) and not entry.name.startswith(NO_TEXT)
    }
    return next((name for name in sorted(others) if ord(letter) in _letters(others[name])), None)


@cache
def _letters(path: str) -> frozenset[int]:
    """The codes of the letters that a font draws: none where it holds pictures of them.

    None either of a damaged font, or of one that was removed since matplotlib listed the fonts.
    """
    try:
        font = get_font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap() if font.scalable else ())


def _families(text: str) -> list[str]:
    """The fonts that a text needs, ours first."""
    return list(dict.fromkeys([FONT, *filter(None, map(_family, text.replace("\n", "")))]))


def _drawable(text: str) -> str:
    """A text whose letters some font here can draw; the code, as U+4E2D, stands for any other."""
    if all(map(_family, text)):
        return text
    # What only joins or directs letters is not drawn by itself.
    seen = (letter for letter in text if unicodedata.category(letter) != "Cf")
    drawn = (letter if _family(letter) else f" U+{ord(letter):04X} " for letter in seen)
    return " ".join("".join(drawn).split())


def _short(names: Sequence[str], most: int = NAME) -> list[str]:
    """Names of at most so many letters, all different where the names are.

    The middle of a long one is left out. Where that makes names equal, their numbers follow.
    """
    before, after = (most - 1) // 2, most // 2
    short = [
        name if len(name) <= most else f"{name[:before]}…{name[-after:]}"
        for name in map(_drawable, names)
    ]
    times = Counter(short)
    return [name if times[name] == 1 else f"{name} ({number})" for number, name in enumerate(short)]


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _square(count: int) -> int:
    """Columns of the smallest square that holds `count` tiles."""
    return math.ceil(math.sqrt(count))


def _oblong(count: int) -> int:
    """Columns of a full rectangle at most three times as wide as high, or else of a square."""
    first = _square(count)
    whole = (n for n in range(first, math.isqrt(3 * count) + 1) if count % n == 0)
    return next(whole, first)


def _scale(size: int, target: int) -> int:
    """The whole enlargement that brings `size` closest to `target` pixels from below."""
    return max(1, target // size)


def _mosaic(tiles: _Array, columns: int, gap: int) -> _Array:
    """Tiles (n, h, w) row by row; NaN fills the gaps and the cells left over."""
    count, height, width = tiles.shape
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height + gap, width + gap), np.nan, dtype=np.float32)
    cells[:count, :height, :width] = tiles
    grid = cells.reshape(rows, columns, height + gap, width + gap).swapaxes(1, 2)
    return grid.reshape(rows * (height + gap), columns * (width + gap))[:-gap, :-gap]


def _text(size: int = TEXT_SIZE, color: str = INK, said: str = "") -> dict[str, Any]:
    """How a text looks; `said` is its letters where our font may lack some of them."""
    return {"fontfamily": _families(said), "fontsize": size, "color": color}


def _text_width(text: str, size: int = TEXT_SIZE, weight: str = "normal") -> int:
    """Pixels that the longest line of `text` takes."""
    font = FontProperties(family=_families(text), size=size, weight=weight)
    widths = [
        text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]
        for line in text.split("\n")
    ]
    return math.ceil(max(widths) * POINT)


def _page(title: str, width: int, height: int) -> tuple[Figure, Axes, int]:
    """A figure with room for `width` × `height` pixels under its title.

    With it axes that count pixels from its top left corner, and the y at which the room begins.
    """
    heading = HEADING * len(title.split("\n"))
    top = MARGIN // 2 + heading + CAPTION
    across = 2 * MARGIN + max(width, _text_width(title, TITLE_SIZE))
    down = top + height + MARGIN
    figure = Figure(figsize=(across / DPI, down / DPI), dpi=DPI, facecolor=PAGE)
    figure.suptitle(
        title,
        x=MARGIN / across,
        y=1 - MARGIN / 2 / down,
        ha="left",
        va="top",
        parse_math=False,
        **_text(TITLE_SIZE, said=title),
    )
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, across), ylim=(down, 0))
    axes.set_axis_off()
    return figure, axes, top


def _chart(width: float, height: float) -> Figure:
    """An empty figure, in inches, that finds its own room for ticks and labels."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.03)
    return Figure(figsize=(width, height), dpi=DPI, facecolor=PAGE, layout=layout)


def _grid(
    count: int,
    columns: int,
    panel: tuple[int, int],
    cell: int,
    title: str,
    lines: int = 1,
    gutter: int = GUTTER,
    right: int = 0,
) -> tuple[Figure, Axes, list[_Box]]:
    """A page and its boxes: rows of panels, each centred in `cell` pixels, under a caption."""
    width, height = panel
    across, down = cell + gutter, height + lines * CAPTION + gutter
    rows = math.ceil(count / columns)
    room = (columns * across - gutter + right, rows * down - gutter - CAPTION)
    figure, axes, top = _page(title, *room)
    left, top = MARGIN + (cell - width) // 2, top + (lines - 1) * CAPTION
    places = (divmod(index, columns) for index in range(count))
    boxes = [(left + column * across, top + row * down, width, height) for row, column in places]
    return figure, axes, boxes


def _image_grid(pictures: _Array, captions: Sequence[str], columns: int, title: str) -> Figure:
    """Images in rows; the cells are wide enough for the longest caption, even in bold."""
    height, width = pictures.shape[2:]
    widest = max(_text_width(caption, weight="bold") for caption in set(captions))
    scale = _scale(max(height, width), max(140, widest))
    figure, axes, boxes = _grid(
        len(pictures),
        columns,
        panel=(width * scale, height * scale),
        cell=max(width * scale, widest),
        title=title,
        lines=captions[0].count("\n") + 1,
    )
    for box, picture, caption in zip(boxes, pictures, captions, strict=True):
        _tile(axes, box, _pixels(picture), caption, **ABSOLUTE)
    return figure


def _pixels(picture: _Array) -> _Array:
    """One image (C, H, W) as matplotlib takes it: (H, W) or (H, W, 3)."""
    return picture[0] if len(picture) == 1 else np.clip(picture.transpose(1, 2, 0), 0, 1)


def _tile(
    axes: Axes,
    box: _Box,
    pixels: _Array,
    caption: str,
    loc: Literal["left", "center"] = "center",
    **colours: Any,
) -> AxesImage:
    left, top, width, height = box
    x = left if loc == "left" else left + width / 2
    axes.text(x, top - 4 * POINT, caption, ha=loc, parse_math=False, **_text(said=caption))
    shown = _Tile(
        axes,
        cmap=colours.get("cmap"),
        norm=colours.get("norm"),
        interpolation="nearest",
        extent=(left, left + width, top + height, top),
    )
    shown.set_data(pixels)
    shown.set_clim(colours.get("vmin"), colours.get("vmax"))
    shown.autoscale_None()
    axes.add_image(shown)
    return shown


class _Tile(AxesImage):
    """An image of a page, whose pixels are squares: repeated, which is faster than resampled."""

    def make_image(self, renderer: Any, magnification: float = 1, unsampled: bool = False) -> Any:
        """RGBA from the bottom up, as Agg draws it, and the lower left corner."""
        left, right, bottom, top = map(round, self.get_extent())
        rows, columns = self.get_size()
        down, over_rows = divmod(bottom - top, rows)
        across, over_columns = divmod(right - left, columns)
        if over_rows or over_columns:
            return super().make_image(renderer, magnification, unsampled)
        pixels = self.to_rgba(np.ma.asarray(self.get_array()), bytes=True)
        whole = pixels[::-1].repeat(down, axis=0).repeat(across, axis=1)
        return whole, left, round(self.axes.bbox.height) - bottom, None


def _style(axes: Axes) -> None:
    """Light axes: no box on the open sides, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=TEXT_SIZE, labelfontfamily=FONT)
