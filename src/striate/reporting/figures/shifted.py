"""One test image under every corruption, and the accuracy there."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from striate.reporting.figures.grid import (
    ABSOLUTE,
    CAPTION,
    GUTTER,
    MARGIN,
    add_tile,
    displayable,
    page,
    whole_scale,
)
from striate.reporting.figures.registry import figure
from striate.reporting.figures.style import text_style, text_width
from striate.reporting.results import Results

PANEL = 90  # pixels that an image may have, if its own are fewer
BLOCKS = 2  # of rows, side by side
BETWEEN = 3 * GUTTER  # pixels between the blocks


@figure(
    "shifted_images",
    section="shifted",
    alt="A test image under each corruption at five severities, and the test accuracy there",
    caption="One image under each corruption, from mild to severe, and the accuracy on all images"
    " that were corrupted so.",
    chart=False,
)
def draw(results: Results) -> Figure | dict[str, Figure]:
    """The corruptions; nothing if none was scored."""
    if not results.shifted:
        return {}
    return corruptions(results.shifted_examples, results.shifted)


def corruptions(examples: ArrayLike, accuracies: Mapping[str, Sequence[float]]) -> Figure:
    """Draw a row for each corruption: its name, and an image with an accuracy a severity.

    Args:
        examples: (corruptions, severities, C, H, W) in 0..1, C is 1 or 3.
        accuracies: by the name of the corruption, one for each severity.

    Returns:
        One axes with a text of each name, and an image and a text of each severity.

    Raises:
        ValueError: the examples have another shape.
    """
    images, columns = np.asarray(examples), len(next(iter(accuracies.values())))
    if images.ndim != 5 or images.shape[:2] != (len(accuracies), columns):
        raise ValueError(
            f"examples must be ({len(accuracies)}, {columns}, C, H, W), not {images.shape}"
        )
    height, width = images.shape[3:]
    scale = whole_scale(max(height, width), PANEL)
    panel = (width * scale, height * scale)
    across = max(panel[0], text_width("100.0%")) + GUTTER
    down = panel[1] + CAPTION + GUTTER
    side = max(text_width(name) for name in accuracies) + GUTTER
    block, rows = side + columns * across, -(-len(accuracies) // BLOCKS)
    room = (BLOCKS * block - GUTTER + BETWEEN, rows * down - GUTTER - CAPTION)
    drawn, axes, top = page("accuracy under corruptions, from mild to severe", *room)
    for index, (name, values) in enumerate(accuracies.items()):
        column, row = divmod(index, rows)
        left, above = MARGIN + column * (block + BETWEEN), top + row * down
        style = text_style(text=name)
        axes.text(left, above + panel[1] / 2, name, va="center", parse_math=False, **style)
        for place, (image, value) in enumerate(zip(images[index], values, strict=True)):
            box = (left + side + place * across, above, *panel)
            add_tile(axes, box, displayable(image), f"{value:.1%}", **ABSOLUTE)
    return drawn
