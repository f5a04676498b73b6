"""How a data set's images are laid out, so that a picture from elsewhere can be laid out alike."""

from __future__ import annotations

from typing import Any

import numpy as np

DARK, LIGHT, MIXED = "dark", "light", "mixed"
BACKGROUNDS = (DARK, LIGHT, MIXED)
INK = 0.25  # of the strongest pixel: from here on a pixel belongs to what is drawn
PLAIN = 0.1  # of the full range: the border of a plain image is as near as this to black or white
LOOKED_AT = 10_000  # images, of those that the frame is taken from

WHOLE: dict[str, Any] = {"background": MIXED, "extent": 1.0}  # nothing is known of the margins


def frame(images: np.ndarray, peak: int) -> dict[str, Any]:
    """What a picture must be brought to, to look like these images.

    Args:
        images: uint8 (N, C, H, W).
        peak: the largest pixel value.

    Returns:
        `background`: `dark` or `light` where images of one channel have a plain border, else
        `mixed`. `extent`: the median of the longer side of what is drawn, as a part of the image's.
    """
    images = images[:LOOKED_AT]
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
    """Check what `frame` gives, where it was read from a file.

    Raises:
        ValueError: says what it must be.
    """
    if not (
        isinstance(described, dict)
        and set(described) == {"background", "extent"}
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
    """From the first to the last marked place of each row of (N, places)."""
    last = marked.shape[1] - np.flip(marked, 1).argmax(1)
    length: np.ndarray = last - marked.argmax(1)
    return length
