"""Preprocess any image to the size, background and margins of the training images.

`striate.data.framing` measures two properties of the training images: whether their background is
dark, light or neither, and which part of the side the drawing fills. Images for a network that was
trained on your own folder are only cropped and resized, as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageFilter

from striate.data.framing import DARK, INK, MIXED, PLAIN, border
from striate.datasets.image_reading import RESIZE

WORKING_SIDE = 8  # times the network's side: larger images are reduced before measuring
NOISE = 3 * 1.4826  # times the median absolute deviation: three standard deviations
FAINTEST = 0.05  # of the full range: an image with less contrast is blank

Box: TypeAlias = tuple[float, float, float, float]  # left, top, width, height
Pixels: TypeAlias = tuple[int, int, int, int]  # likewise, of the network's input


class Placed(NamedTuple):
    """A network's input, and which part of the image became which part of it.

    Attributes:
        pixels: uint8 (C, H, W).
        source: left, top, width and height in the image, as shares of its width and height.
        target: left, top, width and height in the input, in pixels.
    """

    pixels: np.ndarray
    source: Box
    target: Pixels


def prepare(
    image: Image.Image, shape: Sequence[int], peak: int, frame: dict[str, Any]
) -> np.ndarray:
    """Convert an image to a network's input, as `place` does; uint8 (C, H, W)."""
    return place(image, shape, peak, frame).pixels


def place(image: Image.Image, shape: Sequence[int], peak: int, frame: dict[str, Any]) -> Placed:
    """Convert an image to a network's input, and say from where its parts come.

    An image that already has the network's size and background is left as it is. Others are cropped
    to the central square and resized. If the training images have a plain background, the drawing
    is extracted instead: ink is what differs from the paper, a plane fitted to the border, by more
    than the noise. It is scaled to the extent of the training images and to full contrast, and its
    centre of mass is moved to the centre as far as it stays inside, as in MNIST (Y. LeCun et al.,
    Proc. IEEE 86, 1998, section III).

    Args:
        image: of mode `L` or `RGB`.
        shape: channels (1 or 3), height and width.
        peak: the largest pixel value.
        frame: of the training images, from `striate.data.framing.frame`.
    """
    channels, height, width = shape
    image = image.convert("L" if channels == 1 else "RGB")
    background = frame["background"]
    has_size = image.size == (width, height)
    source, target = (0.0, 0.0, 1.0, 1.0), (0, 0, width, height)
    if background == MIXED:
        resize = frame.get("resize", "crop")
        fitted = image if has_size else RESIZE[resize](image, (width, height))
        if not has_size and resize == "crop":
            source = _kept_by_fit(image.size, (width, height))
        elif not has_size and resize == "pad":
            target = _filled_by_pad(image.size, (width, height))
        values = np.asarray(fitted, np.float32) / 255
    else:
        values = np.asarray(image, np.float32) / 255
        ground = float(np.median(border(values)))
        if not (has_size and (ground <= PLAIN if background == DARK else ground >= 1 - PLAIN)):
            values, source, target = _extract_drawing(image, (height, width), frame["extent"])
            values = values if background == DARK else 1 - values
    pixels = np.rint(values * peak).astype(np.uint8)
    return Placed(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1), source, target)


def _kept_by_fit(size: tuple[int, int], wanted: tuple[int, int]) -> Box:
    """What `fit` keeps: the central part of the wanted proportions."""
    scale = min(size[0] / wanted[0], size[1] / wanted[1])
    width, height = (scale * length / whole for length, whole in zip(wanted, size, strict=True))
    return (1 - width) / 2, (1 - height) / 2, width, height


def _filled_by_pad(size: tuple[int, int], wanted: tuple[int, int]) -> Pixels:
    """The part of an image of the wanted size that `pad` does not leave black."""
    scale = min(wanted[0] / size[0], wanted[1] / size[1])
    width, height = (max(1, round(scale * length)) for length in size)
    return (wanted[0] - width) // 2, (wanted[1] - height) // 2, width, height


def _extract_drawing(
    image: Image.Image, size: tuple[int, int], extent: float
) -> tuple[np.ndarray, Box, Pixels]:
    """Centre the ink on a plain background in an array of shape `size`, from 0 to 1.

    Returns:
        The array; and where the ink was in the image, and is in the array, as `Placed` has it.
    """
    side = max(size)
    small = image.copy()
    small.thumbnail((WORKING_SIDE * side,) * 2, Image.Resampling.BOX)
    # Against noise and single specks.
    smooth = np.asarray(small.filter(ImageFilter.GaussianBlur(0.5)), np.float32) / 255
    difference = smooth - _fit_paper(smooth)
    edge = border(difference)
    ink = -difference if -difference.min() > difference.max() else difference
    noise = NOISE * float(np.median(np.abs(edge)))
    strongest = float(ink.max())
    target = np.zeros(size, np.float32)
    if strongest < max(FAINTEST, 1.5 * noise):
        return target, (0.0, 0.0, 1.0, 1.0), (0, 0, size[1], size[0])
    ink = ((ink - noise) / (strongest - noise)).clip(0, 1)
    rows, columns = (np.flatnonzero((ink > INK).any(axis=axis)) for axis in (1, 0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    drawing = Image.fromarray(ink[top:bottom, left:right])
    scale = extent * side / max(drawing.size)
    inside = (
        min(max(1, round(drawing.width * scale)), size[1]),
        min(max(1, round(drawing.height * scale)), size[0]),
    )
    resampling = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    shrunk = np.asarray(drawing.resize(inside, resampling)).clip(0, 1)
    shrunk = shrunk / max(float(shrunk.max()), FAINTEST)
    y, x = (_offset(shrunk.sum(axis=1 - axis), size[axis]) for axis in (0, 1))
    target[y : y + inside[1], x : x + inside[0]] = shrunk
    source = (
        float(left / small.width), float(top / small.height),
        float((right - left) / small.width), float((bottom - top) / small.height),
    )  # fmt: skip
    return target, source, (x, y, *inside)


def _fit_paper(values: np.ndarray) -> np.ndarray:
    """Fit a plane to the border's values, (H, W): paper that is lit from one side.

    The second fit leaves out outliers of the first: ink that touches the border.
    """
    rows, columns = np.indices(values.shape, np.float32)
    planes = np.stack([np.ones_like(values), rows, columns], axis=-1)
    points, edge = border(np.moveaxis(planes, -1, 0)).T, border(values)
    kept = np.ones(len(edge), bool)
    for _ in range(2):
        factors = np.linalg.lstsq(points[kept], edge[kept], rcond=None)[0]
        residuals = np.abs(edge - points @ factors)
        kept = residuals <= np.median(residuals) * NOISE + FAINTEST
    paper: np.ndarray = planes @ factors
    return paper


def _offset(profile: np.ndarray, size: int) -> int:
    """Offset that moves the centre of mass of a profile as near to the centre as it fits."""
    length = len(profile)
    centre = float((profile * (np.arange(length) + 0.5)).sum() / profile.sum())
    return int(np.clip(round(size / 2 - centre), 0, size - length))
