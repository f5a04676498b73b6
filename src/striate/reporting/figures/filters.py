"""The filters of each convolution, or of a linear layer of all pixels."""

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

from striate.reporting.figures.fonts import FONT
from striate.reporting.figures.grid import (
    GREY,
    GUTTER,
    MAX_TILES,
    Box,
    add_tile,
    grid,
    mosaic,
    oblong,
    square,
    whole_scale,
)
from striate.reporting.figures.registry import figure
from striate.reporting.figures.style import FAINT, INK, TEXT_SIZE, text_width
from striate.reporting.results import Results

FEW_INPUTS, FEW_KERNELS = 4, 16  # of a later layer: hundreds of filters are too small to read


def caption(results: Results) -> str:
    """What the figures show: of a deep network, the first convolution of each layer."""
    names = results.filters
    first = any(name.endswith("_conv1") and f"{name[:-1]}2" not in names for name in names)
    which = "the first convolution of each layer" if first else results.config.drawn
    return f"The weights of {which}: grey is near zero, dark negative, light positive."


@figure(
    "filters",
    section="filters",
    alt="Filters",
    caption=caption,
    chart=False,
)
def draw(results: Results) -> dict[str, Figure]:
    """A figure for each layer of weights that `predictions/` holds."""
    return {
        name: filters(weight, name, FEW_INPUTS, MAX_TILES if weight.shape[1] <= 3 else FEW_KERNELS)
        for name, weight in results.filters.items()
    }


def filters(
    weight: ArrayLike, title: str, most_inputs: int = MAX_TILES, most_kernels: int = MAX_TILES
) -> Figure:
    """Draw a convolution's kernels, one panel an input channel, in grey about zero.

    A panel tiles the kernels of all output channels, row by row. All panels share one colour
    scale. Where some are left out, the figure's title says so.

    Args:
        weight: (out, in, height, width). Three input channels are taken for red, green and blue.
        title: the figure's title, such as the layer's name.
        most_inputs: input channels that are drawn, the first ones.
        most_kernels: kernels of a panel that are drawn, the first ones.

    Returns:
        One axes with an image and a text an input channel; the colour bar is its child.

    Raises:
        ValueError: `weight` is not 4-D or is empty.
    """
    kernels = np.asarray(weight)
    if kernels.ndim != 4 or kernels.size == 0:
        raise ValueError(f"weight must be (out, in, height, width), not {kernels.shape}")
    title += _cut_note(kernels.shape, most_inputs, most_kernels)
    names = _channel_names(kernels.shape[1])[:most_inputs]
    kernels = kernels[:most_kernels, :most_inputs]
    mosaics = [mosaic(panel, square(len(kernels)), gap=1) for panel in kernels.swapaxes(0, 1)]
    limit = float(np.max(np.abs(kernels), where=np.isfinite(kernels), initial=0)) or 1.0
    columns = oblong(len(mosaics))
    height, width = mosaics[0].shape
    scale = whole_scale(max(height, width), min(450, max(288, 1500 // columns)))
    panel = (width * scale, height * scale)
    cell = max(panel[0], *(text_width(name) for name in names))
    figure, axes, boxes = grid(names, columns, panel, cell, title, gutter=3 * GUTTER, right=150)
    norm = Normalize(-limit, limit)
    for box, pixels, name in zip(boxes, mosaics, names, strict=True):
        tile = add_tile(axes, box, pixels, name, cmap=GREY, norm=norm)
    _add_colour_bar(tile, boxes[columns - 1], limit)
    return figure


def _cut_note(shape: tuple[int, ...], most_inputs: int, most_kernels: int) -> str:
    """The line of the title that says what is left out, or nothing."""
    outputs, inputs, notes = *shape[:2], []
    if inputs > most_inputs:
        notes.append(f"first {most_inputs} of {inputs} input channels")
    if outputs > most_kernels:
        notes.append(f"first {most_kernels} of {outputs} kernels a panel")
    return "\n" + "; ".join(notes) if notes else ""


def _channel_names(inputs: int) -> list[str]:
    if inputs == 3:
        return ["red", "green", "blue"]
    return [f"input channel {channel}" for channel in range(inputs)]


def _add_colour_bar(tile: AxesImage, box: Box, limit: float) -> None:
    """Add a colour bar to the right of `box`, the last one of the first row."""
    axes = tile.axes
    left, top, width, height = box
    across, down = axes.get_xlim()[1], axes.get_ylim()[0]
    bounds = ((left + width + 30) / across, 1 - (top + height) / down, 18 / across, height / down)
    bar = axes.inset_axes(bounds)
    colour_bar = axes.figure.colorbar(tile, cax=bar)
    colour_bar.set_ticks([-limit, 0, limit], labels=[f"−{limit:.2g}", "0", f"{limit:.2g}"])
    colour_bar.outline.set_visible(False)
    bar.tick_params(labelsize=TEXT_SIZE, labelcolor=INK, color=FAINT, labelfontfamily=FONT)
