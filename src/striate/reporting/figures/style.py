"""The look that all figures share: colours, sizes, texts, axes, and the PNG."""

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.textpath import text_to_path
from PIL import Image

from striate.data import files
from striate.reporting.figures.fonts import FONT, families

DPI = 150
COMPRESSION = 4  # of zlib's 0 to 9: from 6, the default, files shrink by a few percent more
POINT = DPI / 72  # pixels

INK = "#222222"
FAINT = "#d9d9d9"
PAGE = "white"
MISTAKE = "#c8102e"
TRAIN = "#0072b2"
VALIDATION = "#d55e00"
PALETTE = (TRAIN, VALIDATION, "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#5c6066")

TITLE_SIZE = 11  # points
TEXT_SIZE = 8


def chart(width: float, height: float) -> Figure:
    """An empty figure, in inches, that makes room for its ticks and labels by itself."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.03)
    return Figure(figsize=(width, height), dpi=DPI, facecolor=PAGE, layout=layout)


def style_axes(axes: Axes, grid: bool = True) -> None:
    """Light axes: no box on the open sides, small ticks, horizontal grid lines if wanted."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=TEXT_SIZE, labelfontfamily=FONT)
    if grid:
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)


def set_title(axes: Axes, title: str) -> None:
    """Set the title of a chart's panel, at its left."""
    axes.set_title(title, loc="left", **text_style(TITLE_SIZE))


def add_legend(axes: Axes, loc: Any, **options: Any) -> Legend:
    """Add a legend of the labelled artists of `axes`, half transparent."""
    font = FontProperties(family=FONT, size=TEXT_SIZE)
    look = {"labelcolor": INK, "edgecolor": PAGE, "framealpha": 0.8}
    return axes.legend(loc=loc, prop=font, **look | options)


def text_style(size: int = TEXT_SIZE, color: str = INK, text: str = "") -> dict[str, Any]:
    """Matplotlib's keywords of a text; pass the `text` itself if `FONT` may lack a letter of it."""
    return {"fontfamily": families(text), "fontsize": size, "color": color}


def text_width(text: str, size: int = TEXT_SIZE, weight: str = "normal") -> int:
    """The width of the longest line of `text` in pixels."""
    font = FontProperties(family=families(text), size=size, weight=weight)
    widths = [
        text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]
        for line in text.split("\n")
    ]
    return math.ceil(max(widths) * POINT)


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write `figure` as a PNG whose bytes depend on the figure alone.

    Args:
        figure: any figure of this package.
        path: the file to write or replace, as a whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    files.write(Path(path), png(figure))


def png(figure: Figure) -> bytes:
    """The content of the PNG file of a figure."""
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
