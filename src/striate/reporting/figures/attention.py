"""Images, and which of their patches a network with attention attends to."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from striate.reporting.figures.fonts import short_names
from striate.reporting.figures.grid import (
    ABSOLUTE,
    GREY,
    add_tile,
    check_images,
    displayable,
    grid,
    whole_scale,
)
from striate.reporting.figures.registry import figure
from striate.reporting.figures.style import text_width
from striate.reporting.results import Results

PANEL = 120  # pixels that an image may have, if its own are fewer


# The name puts it behind the feature maps.
@figure(
    "patch_attention",
    section="features",
    alt="Test images and, in each layer, how much all patches attend to each patch",
    caption="Test images and, beside each, how much all patches attend to each patch in each layer,"
    " as a mean over heads: black is nothing, the lightest grey is the largest value of the layer.",
    chart=False,
)
def draw(results: Results) -> Figure | dict[str, Figure]:
    """The attention of the first test images; nothing of a network without attention."""
    if not results.attention:
        return {}
    count = min(len(maps) for maps in results.attention.values())
    names = [results.classes[label] for label in results.labels[:count]]
    return attention(results.images[:count], results.attention, names)


def attention(
    images: ArrayLike, maps: Mapping[str, ArrayLike], class_names: Sequence[str]
) -> Figure:
    """Draw a row for each image: the image, then the map of each layer.

    The maps of a layer share a colour scale from 0 (black) to their largest value.

    Args:
        images: (N, C, H, W) in 0..1, C is 1 or 3.
        maps: layer name → (N, rows, columns) of patches, in the order to draw; one or more.
        class_names: N names, one of each image.

    Returns:
        One axes with an image and a text of each image and each map, row by row.

    Raises:
        ValueError: the images or a layer's maps have another shape, or there are none.
    """
    pixels = check_images(images)
    values = {name: np.asarray(own) for name, own in maps.items()}
    for name, own in values.items():
        if own.ndim != 3 or len(own) != len(pixels) or own.size == 0:
            raise ValueError(
                f"maps of {name!r} must be ({len(pixels)}, rows, columns), not {own.shape}"
            )
    height, width = pixels.shape[2:]
    scale = whole_scale(max(height, width), PANEL)
    distinct = list(dict.fromkeys(class_names))
    short = dict(zip(distinct, short_names(distinct), strict=True))
    captions = [text for name in class_names for text in (short[name], *values)]
    panel = (width * scale, height * scale)
    cell = max(panel[0], *(text_width(text) for text in captions))
    title = "attention to each patch"
    figure, axes, boxes = grid(captions, 1 + len(values), panel, cell, title)
    places = iter(zip(boxes, captions, strict=True))
    for index, image in enumerate(pixels):
        box, caption = next(places)
        add_tile(axes, box, displayable(image), caption, **ABSOLUTE)
        for own in values.values():
            box, caption = next(places)
            add_tile(axes, box, own[index], caption, cmap=GREY, vmin=0, vmax=float(own.max()))
    return figure
