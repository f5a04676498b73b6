"""An image and its feature maps."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from striate.reporting.figures.fonts import short_names
from striate.reporting.figures.grid import (
    ABSOLUTE,
    CAPTION,
    GREY,
    GUTTER,
    MARGIN,
    MAX_TILES,
    Array,
    add_tile,
    check_images,
    displayable,
    mosaic,
    page,
    whole_scale,
)
from striate.reporting.figures.registry import figure
from striate.reporting.figures.style import text_width
from striate.reporting.numbers import plural
from striate.reporting.results import Results

COLUMNS, CHANNEL, GAP = 16, 96, 4  # channels a row; pixels of a channel, and between two


@figure(
    "feature_maps",
    section="features",
    alt="Feature maps of one image in the first layer",
    caption="The first test image, and below it what each channel of the first layer gives for it."
    " striate serve shows all layers live.",
    chart=False,
)
def draw(results: Results) -> Figure:
    """The feature maps of the first test image.

    Those of the first layer alone: of deeper ones, few readers recognise anything.
    """
    name = results.classes[results.labels[0]]
    first = dict(islice(results.feature_maps.items(), 1))
    return feature_maps(results.images[0], first, name)


def feature_maps(image: ArrayLike, maps: Mapping[str, ArrayLike], class_name: str) -> Figure:
    """Draw an image and, below it, the feature maps of each layer.

    A layer's channels stand sixteen to a row on a colour scale from the layer's smallest value
    (dark) to its largest. Of more than 64 channels the first 64 are drawn and the title says so.

    Args:
        image: (C, H, W) in 0..1, C is 1 or 3.
        maps: layer name → (channels, height, width), in the order to draw.
        class_name: the image's class.

    Returns:
        One axes with an image and a text of `image`, then of each layer.

    Raises:
        ValueError: `image` or a layer's maps are not 3-D, or are empty.
    """
    pixels = np.asarray(image)
    if pixels.ndim != 3:
        raise ValueError(f"image must be (C, H, W), not {pixels.shape}")
    check_images(pixels[None])
    height, width = pixels.shape[1:]
    scale = whole_scale(max(height, width), 2 * CHANNEL)
    captions = [f"image, {height}×{width}"]
    tiles: list[tuple[Array, dict[str, Any]]] = [(displayable(pixels), ABSOLUTE)]
    sizes = [(width * scale, height * scale)]
    for name, values in maps.items():
        caption, tile = _layer(name, np.asarray(values))
        captions.append(caption)
        tiles.append((tile, {"cmap": GREY}))
        height, width = tile.shape
        shrink = min(1.0, COLUMNS * (CHANNEL + GAP) / width)
        sizes.append((round(width * shrink), round(height * shrink)))

    figure, axes, top = page(
        f"feature maps of one image, class {short_names([class_name])[0]}",
        max([width for width, _ in sizes] + [text_width(caption) for caption in captions]),
        sum(height for _, height in sizes) + len(maps) * (CAPTION + 2 * GUTTER),
    )
    for (tile, colours), (width, height), caption in zip(tiles, sizes, captions, strict=True):
        add_tile(axes, (MARGIN, top, width, height), tile, caption, loc="left", **colours)
        top += height + 2 * GUTTER + CAPTION
    return figure


def _layer(name: str, maps: Array) -> tuple[str, Array]:
    """A layer's caption, and the mosaic of its channels."""
    if maps.ndim != 3 or maps.size == 0:
        raise ValueError(f"maps of {name!r} must be (channels, height, width), not {maps.shape}")
    channels, height, width = maps.shape
    cut = f", first {MAX_TILES} of {channels}" if channels > MAX_TILES else ""
    # Enlarged before they are tiled, so that the gap is as wide for 1×1 as for 28×28.
    scale = whole_scale(max(height, width), CHANNEL)
    enlarged = maps[:MAX_TILES].repeat(scale, axis=1).repeat(scale, axis=2)
    caption = f"{name}: {plural(channels, 'channel')}, {height}×{width}{cut}"
    return caption, mosaic(enlarged, min(COLUMNS, len(enlarged)), GAP)
