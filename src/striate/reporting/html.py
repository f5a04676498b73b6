"""HTML pages from templates, and the images on them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

AGAINST, FOR = (0, 90, 181), (220, 50, 32)  # colours that the colour-blind can tell apart
TINY = float(np.finfo(np.float32).tiny)  # keeps a division by 0 away
DIMMED = 0.45  # share of an image's contrast that is left below a heat map


class Tile(NamedTuple):
    """An image of a gallery.

    Attributes:
        source: its address.
        caption: the text below it.
        wrong: whether it is framed as a mistake.
        evidence: the address of the image with what spoke for and against the class; or nothing.
        similar: training images like it.
        note: a second line of the caption, such as its file.
    """

    source: str
    caption: str
    wrong: bool
    evidence: str = ""
    similar: Sequence[Tile] = ()
    note: str = ""


def environment(escape: bool = True) -> Environment:
    """What renders the templates of this package; with `escape`, every value is escaped."""
    return Environment(
        loader=PackageLoader("striate.reporting"),
        autoescape=escape,  # noqa: S701  Markdown needs no escapes of HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not escape,
    )


def render(template: str, **values: Any) -> str:
    """Fill in a template of a page; every value is escaped."""
    return environment().get_template(template).render(values)


def embedded(png: bytes) -> str:
    """A PNG as a data address."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def shown_width(png: bytes) -> int:
    """The width in pixels at which a page shows a PNG: below its own, so it is always sharp."""
    with Image.open(io.BytesIO(png)) as image:
        return image.width * 3 // 5


def tile(pixels: NDArray[np.floating], caption: str, wrong: bool = False) -> Tile:
    """An image of a gallery.

    Args:
        pixels: (C, H, W) in 0..1, C is 1 or 3.
        caption: the text below it.
        wrong: frame it as a mistake.
    """
    return Tile(embedded_image(pixels), caption, wrong)


def embedded_image(pixels: NDArray[np.floating]) -> str:
    """An image (C, H, W) in 0..1, C is 1 or 3, as a data address."""
    levels = np.clip(np.rint(255 * pixels), 0, 255).astype(np.uint8)
    layout = levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
    return png_address(Image.fromarray(layout))


def png_address(image: Image.Image, **options: int) -> str:
    """An image as a data address; options are those of Pillow's PNG files."""
    buffer = io.BytesIO()
    image.save(buffer, format="png", **options)
    return embedded(buffer.getvalue())


def strength(evidence: NDArray[np.floating]) -> NDArray[np.floating]:
    """How much of its colour each pixel of a heat map has, from 0 to 1.

    The strongest hundredth has all: a single pixel would leave the others pale.
    """
    most = np.quantile(np.abs(evidence), 0.99)
    share: NDArray[np.floating] = np.clip(np.abs(evidence) / max(float(most), TINY), 0, 1)
    return share


def heat(pixels: NDArray[np.floating], evidence: NDArray[np.floating]) -> NDArray[np.floating]:
    """An image in grey under its heat map: red spoke for the class, blue against it.

    Args:
        pixels: (C, H, W) in 0..1, C is 1 or 3.
        evidence: (H, W), above 0 for the class.

    Returns:
        (3, H, W) in 0..1.
    """
    share = strength(evidence)
    colours = np.where(evidence[..., None] > 0, FOR, AGAINST) / 255
    grey = 0.5 + DIMMED * (pixels.mean(axis=0) - 0.5)
    mixed: NDArray[np.floating] = grey * (1 - share) + colours.transpose(2, 0, 1) * share
    return mixed
