"""Any picture → the pixels that a network was trained on: its size, background and margins.

The rules follow from the training images, of which `striate.data.framing` takes down two things:
whether their background is dark, light or neither, and how much of the image what is drawn takes
up. The pictures of a person's own folder are resized and nothing else, in training and here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from striate.data.framing import DARK, INK, MIXED, PLAIN, border
from striate.datasets.image_reading import fit

WORKING_SIDE = 8  # times the network's, to which a large picture is reduced before it is measured


NOISE = 3 * 1.4826  # times the median absolute deviation: three standard deviations


FAINTEST = 0.05  # of the full range: below, a picture is blank


def prepare(
    picture: Image.Image, shape: Sequence[int], peak: int, frame: dict[str, Any]
) -> np.ndarray:
    """Bring a picture to what a network takes.

    One that already has the network's size, and its background, stays as it is. Otherwise the
    middle square of it is resized, or, where the training images have a plain background: what
    differs from the paper, a plane through the border, is ink, less its noise; the ink is scaled to
    the training images' extent and to full strength, and its centre of mass is put into the middle,
    as far as it stays inside (as Y. LeCun et al. made MNIST, Proc. IEEE 86, 1998, section III).

    Args:
        picture: of the mode `L` or `RGB`, as `read` gives it.
        shape: channels (1 or 3), height and width.
        peak: the largest pixel value.
        frame: of the training images, as `striate.data.framing.frame` gives it.

    Returns:
        uint8 (C, H, W).
    """
    channels, height, width = shape
    picture = picture.convert("L" if channels == 1 else "RGB")
    background = frame["background"]
    ours = picture.size == (width, height)
    if background == MIXED:
        fitted = picture if ours else fit(picture, (width, height))
        values = np.asarray(fitted, np.float32) / 255
    else:
        values = np.asarray(picture, np.float32) / 255
        ground = float(np.median(border(values)))
        if not (ours and (ground <= PLAIN if background == DARK else ground >= 1 - PLAIN)):
            values = _drawn(picture, (height, width), frame["extent"])
            values = values if background == DARK else 1 - values
    pixels = np.rint(values * peak).astype(np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _drawn(picture: Image.Image, size: tuple[int, int], extent: float) -> np.ndarray:
    """What is drawn on a plain background, as ink from 0 to 1, in an image of a size."""
    side = max(size)
    small = picture.copy()
    small.thumbnail((WORKING_SIDE * side,) * 2, Image.Resampling.BOX)
    # The border's own noise and single specks must decide nothing.
    smooth = np.asarray(small.filter(ImageFilter.GaussianBlur(0.5)), np.float32) / 255
    ground = _ground(smooth)
    edge = border(smooth - ground)
    difference = smooth - ground
    ink = -difference if -difference.min() > difference.max() else difference
    noise = NOISE * float(np.median(np.abs(edge)))
    strongest = float(ink.max())
    target = np.zeros(size, np.float32)
    if strongest < max(FAINTEST, 1.5 * noise):
        return target
    ink = ((ink - noise) / (strongest - noise)).clip(0, 1)
    rows, columns = (np.flatnonzero((ink > INK).any(axis=axis)) for axis in (1, 0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    cut = Image.fromarray(ink[top:bottom, left:right])
    scale = extent * side / max(cut.size)
    inside = (
        min(max(1, round(cut.width * scale)), size[1]),
        min(max(1, round(cut.height * scale)), size[0]),
    )
    filtered = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    shrunk = np.asarray(cut.resize(inside, filtered)).clip(0, 1)
    shrunk = shrunk / max(float(shrunk.max()), FAINTEST)
    place = [_placed(shrunk.sum(axis=1 - axis), size[axis], shrunk.shape[axis]) for axis in (0, 1)]
    target[place[0] : place[0] + inside[1], place[1] : place[1] + inside[0]] = shrunk
    return target


def _ground(values: np.ndarray) -> np.ndarray:
    """The paper, (H, W): the plane through the border's values, as light falls from one side.

    Fitted twice, the second time without what lies far from the first: ink that meets the border.
    """
    rows, columns = np.indices(values.shape, np.float32)
    planes = np.stack([np.ones_like(values), rows, columns], axis=-1)
    points, edge = border(np.moveaxis(planes, -1, 0)).T, border(values)
    kept = np.ones(len(edge), bool)
    for _ in range(2):
        factors = np.linalg.lstsq(points[kept], edge[kept], rcond=None)[0]
        away = np.abs(edge - points @ factors)
        kept = away <= np.median(away) * NOISE + FAINTEST
    ground: np.ndarray = planes @ factors
    return ground


def _placed(profile: np.ndarray, room: int, length: int) -> int:
    """Where what is drawn begins, so that its centre of mass is in the middle, or as near to it."""
    centre = float((profile * (np.arange(length) + 0.5)).sum() / profile.sum())
    return int(np.clip(round(room / 2 - centre), 0, room - length))
