"""HTML pages from templates, and the images on them."""

import base64
import io
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image


class Tile(NamedTuple):
    """An image of a gallery: its address, its caption, and whether it is framed as a mistake."""

    source: str
    caption: str
    wrong: bool


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
    levels = np.clip(np.rint(255 * pixels), 0, 255).astype(np.uint8)
    layout = levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(layout).save(buffer, format="png")
    return Tile(embedded(buffer.getvalue()), caption, wrong)
