"""Pages of images, laid out in whole pixels.

A pixel of an image covers a whole number of pixels of the PNG: small images and kernels come out
crisp, and neighbours keep their distance. All tiles of a page share one axes, whose unit is that
pixel: axes are slow to make.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray

from striate.reporting.figures.fonts import MAX_NAME, short_names
from striate.reporting.figures.style import DPI, PAGE, POINT, TITLE_SIZE, text_style, text_width

Array: TypeAlias = NDArray[Any]
Box: TypeAlias = tuple[int, int, int, int]  # left, top, width, height in pixels of a page

ABSOLUTE: dict[str, Any] = {"cmap": colormaps["gray"], "vmin": 0, "vmax": 1}
GREY = LinearSegmentedColormap.from_list("grey", ["black", "#e4e4e4"])  # white is the page's

MARGIN = 36  # pixels
GUTTER = 14
CAPTION = 26  # one line of text above a panel
HEADING = 42  # one line of a figure's title
MAX_TILES = 64  # channels or kernels that a mosaic shows


def page(title: str, width: int, height: int) -> tuple[Figure, Axes, int]:
    """A figure with room for `width` × `height` pixels under its title.

    Returns:
        The figure, axes that count pixels from its top left corner, and the y at which the room
        begins.
    """
    heading = HEADING * len(title.split("\n"))
    top = MARGIN // 2 + heading + CAPTION
    across = 2 * MARGIN + max(width, text_width(title, TITLE_SIZE))
    down = top + height + MARGIN
    figure = Figure(figsize=(across / DPI, down / DPI), dpi=DPI, facecolor=PAGE)
    figure.suptitle(
        title,
        x=MARGIN / across,
        y=1 - MARGIN / 2 / down,
        ha="left",
        va="top",
        parse_math=False,
        **text_style(TITLE_SIZE, text=title),
    )
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, across), ylim=(down, 0))
    axes.set_axis_off()
    return figure, axes, top


def grid(
    captions: Sequence[str],
    columns: int,
    panel: tuple[int, int],
    cell: int,
    title: str,
    gutter: int = GUTTER,
    right: int = 0,
) -> tuple[Figure, Axes, list[Box]]:
    """A page with one box for each caption, in rows.

    Args:
        captions: the text above each box, all of as many lines as the first.
        columns: boxes a row.
        panel: width and height of a box in pixels.
        cell: pixels of the column in whose middle a box stands.
        title: the figure's title.
        gutter: pixels between cells.
        right: pixels left free at the right.
    """
    width, height = panel
    lines = captions[0].count("\n") + 1
    across, down = cell + gutter, height + lines * CAPTION + gutter
    rows = math.ceil(len(captions) / columns)
    room = (columns * across - gutter + right, rows * down - gutter - CAPTION)
    figure, axes, top = page(title, *room)
    left, top = MARGIN + (cell - width) // 2, top + (lines - 1) * CAPTION
    cells = (divmod(index, columns) for index in range(len(captions)))
    boxes = [(left + column * across, top + row * down, width, height) for row, column in cells]
    return figure, axes, boxes


def image_grid(images: Array, captions: Sequence[str], columns: int, title: str) -> Figure:
    """Images (N, C, H, W) in rows; cells are wide enough for the longest caption, even in bold."""
    height, width = images.shape[2:]
    widest = max(text_width(caption, weight="bold") for caption in set(captions))
    scale = whole_scale(max(height, width), max(140, widest))
    panel = (width * scale, height * scale)
    figure, axes, boxes = grid(captions, columns, panel, max(width * scale, widest), title)
    for box, image, caption in zip(boxes, images, captions, strict=True):
        add_tile(axes, box, displayable(image), caption, **ABSOLUTE)
    return figure


def add_tile(
    axes: Axes,
    box: Box,
    pixels: Array,
    caption: str,
    loc: Literal["left", "center"] = "center",
    **colours: Any,
) -> AxesImage:
    """Add an image, (H, W) or (H, W, 3), to a page, under its caption.

    Args:
        axes: of `page`.
        box: where the image goes.
        pixels: what matplotlib shows.
        caption: one or more lines.
        loc: where the caption stands above the box.
        colours: `cmap`, and `norm` or `vmin` and `vmax`, of an image without colours.
    """
    left, top, width, height = box
    x = left if loc == "left" else left + width / 2
    style = text_style(text=caption)
    axes.text(x, top - 4 * POINT, caption, ha=loc, parse_math=False, **style)
    tile = _Tile(
        axes,
        cmap=colours.get("cmap"),
        norm=colours.get("norm"),
        interpolation="nearest",
        extent=(left, left + width, top + height, top),
    )
    tile.set_data(pixels)
    tile.set_clim(colours.get("vmin"), colours.get("vmax"))
    tile.autoscale_None()
    axes.add_image(tile)
    return tile


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


def displayable(image: Array) -> Array:
    """One image (C, H, W) as matplotlib takes it: (H, W) or (H, W, 3)."""
    return image[0] if len(image) == 1 else np.clip(image.transpose(1, 2, 0), 0, 1)


def mosaic(tiles: Array, columns: int, gap: int) -> Array:
    """Tiles (n, h, w) row by row; NaN fills the gaps and the cells left over."""
    count, height, width = tiles.shape
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height + gap, width + gap), np.nan, dtype=np.float32)
    cells[:count, :height, :width] = tiles
    table = cells.reshape(rows, columns, height + gap, width + gap).swapaxes(1, 2)
    return table.reshape(rows * (height + gap), columns * (width + gap))[:-gap, :-gap]


def square(count: int) -> int:
    """Columns of the smallest square that holds `count` tiles."""
    return math.ceil(math.sqrt(count))


def oblong(count: int) -> int:
    """Columns of a full rectangle at most three times as wide as high, or else of a square."""
    first = square(count)
    whole = (n for n in range(first, math.isqrt(3 * count) + 1) if count % n == 0)
    return next(whole, first)


def whole_scale(size: int, target: int) -> int:
    """The whole enlargement that brings `size` closest to `target` pixels from below."""
    return max(1, target // size)


def predicted_and_true(guesses: Array, labels: Array, class_names: Sequence[str]) -> list[str]:
    """Captions "predicted:true" of images."""
    names = short_names(class_names, MAX_NAME * 2 // 3)
    return [f"{names[guess]}:{names[label]}" for guess, label in zip(guesses, labels, strict=True)]


def check_labelled(
    images: ArrayLike, labels: ArrayLike, class_names: Sequence[str]
) -> tuple[Array, Array]:
    """Images (N, C, H, W) and their labels (N,) as arrays.

    Raises:
        ValueError: the shapes disagree or a label has no name.
    """
    pixels, truth = check_images(images), np.asarray(labels)
    if truth.shape != pixels.shape[:1]:
        raise ValueError(f"{len(pixels)} images need as many labels, not {truth.shape}")
    if not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"labels must be integers, not {truth.dtype}")
    if truth.min() < 0 or truth.max() >= len(class_names):
        raise ValueError(
            f"labels span {truth.min()}..{truth.max()} but there are {len(class_names)} class names"
        )
    return pixels, truth


def check_images(images: ArrayLike) -> Array:
    """Images as an array.

    Raises:
        ValueError: they are not floats (N, C, H, W) with C of 1 or 3.
    """
    pixels = np.asarray(images)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.size == 0:
        raise ValueError(
            f"images must be (N, C, H, W) with C of 1 or 3 and N of at least 1, not {pixels.shape}"
        )
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"images must be floats in 0..1, not {pixels.dtype}")
    return pixels


def check_logits(logits: ArrayLike, labels: Array, class_names: Sequence[str]) -> Array:
    """Logits (N, classes) as an array.

    Raises:
        ValueError: the shape disagrees with the labels or the class names.
    """
    scores = np.asarray(logits, dtype=float)
    if scores.shape != (len(labels), len(class_names)):
        raise ValueError(
            f"logits must be ({len(labels)}, {len(class_names)}), as the labels and the class"
            f" names, not {scores.shape}"
        )
    return scores
