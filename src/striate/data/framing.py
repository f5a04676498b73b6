"""Measure the background and margins of a data set, so that other images can be given the same."""

from __future__ import annotations

from typing import Any

import numpy as np

DARK, LIGHT, MIXED = "dark", "light", "mixed"
BACKGROUNDS = (DARK, LIGHT, MIXED)
INK = 0.25  # of the strongest pixel: a pixel above this belongs to the drawing
PLAIN = 0.1  # of the full range: a plain border is this close to black or white
MAX_IMAGES = 10_000  # that are measured

RESIZE = ("crop", "pad", "stretch")  # the values of data.resize

WHOLE: dict[str, Any] = {"background": MIXED, "extent": 1.0}  # unknown margins


def frame(images: np.ndarray, peak: int) -> dict[str, Any]:
    """Measure the background and the margins of images.

    Args:
        images: uint8 (N, C, H, W).
        peak: the largest pixel value.

    Returns:
        `background`: `dark` or `light` if the images are grayscale with a plain border, else
        `mixed`. `extent`: the median of the longer side of the drawing, as a fraction of the
        image's.
    """
    images = images[:MAX_IMAGES]
    if images.shape[1] != 1:
        return WHOLE
    values = images[:, 0].astype(np.float32) / peak
    ground = np.median(border(values))
    if PLAIN < ground < 1 - PLAIN:
        return WHOLE
    ink = values if ground <= PLAIN else 1 - values
    drawn = ink > INK * ink.max(axis=(1, 2), keepdims=True)
    drawn = drawn[drawn.any(axis=(1, 2))]
    if not len(drawn):
        return WHOLE
    longer = np.maximum(_length(drawn.any(axis=2)), _length(drawn.any(axis=1)))
    extent = float(np.median(longer)) / max(values.shape[1:])
    return {"background": DARK if ground <= PLAIN else LIGHT, "extent": round(extent, 4)}


def check(described: Any) -> None:
    """Check a frame that was read from a file.

    Raises:
        ValueError: the message says what it must be.
    """
    if not (
        isinstance(described, dict)
        and set(described) in ({"background", "extent"}, {"background", "extent", "resize"})
        and described.get("resize", "crop") in RESIZE
        and described["background"] in BACKGROUNDS
        and type(described["extent"]) is float
        and 0 < described["extent"] <= 1
    ):
        raise ValueError(
            f"frame must have a background of {', '.join(BACKGROUNDS)}, and an extent up to 1.0"
        )


def border(values: np.ndarray) -> np.ndarray:
    """The outermost pixels of images, (…, H, W) → (…, pixels)."""
    parts = (values[..., 0, :], values[..., -1, :], values[..., 1:-1, 0], values[..., 1:-1, -1])
    return np.concatenate(parts, axis=-1)


def _length(marked: np.ndarray) -> np.ndarray:
    """Distance from the first to the last marked pixel of each row of (N, pixels)."""
    last = marked.shape[1] - np.flip(marked, 1).argmax(1)
    length: np.ndarray = last - marked.argmax(1)
    return length
