"""Picture files of any kind, read into 8-bit pixels; and which files of a folder are pictures."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from striate.errors import UserError

# What systems and servers leave in folders, in lower case. It is treated like what is hidden.
SYSTEM = frozenset((
    "__macosx", "@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "recycler",
    "found.000", "lost+found", "system volume information", "desktop.ini", "thumbs.db",
    "ehthumbs.db", "icon\r",
))  # fmt: skip
# Why a file is left out.
HIDDEN, LINKED, SPECIAL = "hidden", "linked", "not regular"  # as a pipe, a socket or a device
MOST_ENDINGS = 6  # that are named

# Tags of TIFF, and what they may say.
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, SIGNED = 0, 2


# For the whole process, because pictures are read by several threads.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def printable(name: object) -> str:
    """A name as a terminal shows it in one line: what would move its cursor is written out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(name))


class PictureError(UserError):
    """A file is not a picture that can be read."""


class Listed(NamedTuple):
    """What a folder and the folders in it hold.

    Attributes:
        files: those with the ending of a picture, in the order of their paths.
        links: links to folders, behind which nothing is listed, or to nothing.
        left_out: how many other files there are, by their endings or by why they are left out.
    """

    files: list[Path]
    links: list[Path]
    left_out: Counter[str]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or one that systems leave behind."""
    return name.startswith(".") or name.lower() in SYSTEM


def listed(folder: Path, without: Collection[str] = ()) -> Listed:
    """The pictures in a folder and below it, by their endings, and what else is there.

    Args:
        folder: where to look.
        without: names of folders right in it that are passed over.

    Raises:
        OSError: a folder cannot be read.
    """
    known = set(Image.registered_extensions())
    found = Listed([], [], Counter())
    for place, folders, names in os.walk(folder, onerror=_raise):
        if Path(place) == folder:
            folders[:] = [name for name in folders if name not in without]
        for path in [Path(place, name) for name in folders]:
            linked = path.is_symlink()  # `os.walk` follows only the path that it is given
            if is_hidden(path.name):
                folders.remove(path.name)
                inside = 1 if linked else sum(len(names) for *_, names in os.walk(path))
                found.left_out[HIDDEN] += inside
            elif linked:
                found.links.append(path)
        for path in [Path(place, name) for name in names]:
            ending = path.suffix.lower()
            if is_hidden(path.name):
                found.left_out[HIDDEN] += 1
            elif ending not in known and path.is_symlink() and not path.exists():
                found.links.append(path)
            elif ending not in known:
                found.left_out[printable(ending) or "without an ending"] += 1
            # A pipe would be waited for. A link that leads nowhere is told when it is read.
            elif path.is_file() or path.is_symlink():
                found.files.append(path)
            else:
                found.left_out[SPECIAL] += 1
    found.files.sort()
    return found


def _raise(error: OSError) -> None:
    raise error


def left_out_said(left_out: Mapping[str, int]) -> str:
    """What was left out, in words, such as `12 files left out: 10 .heic, 2 .txt`."""
    ranked = sorted(left_out.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = [f"{count:,} {kind}" for kind, count in ranked[:MOST_ENDINGS]]
    if rest := sum(count for _, count in ranked[MOST_ENDINGS:]):
        parts.append(f"{rest:,} others")
    total = sum(left_out.values())
    return f"{total:,} file{'s' if total > 1 else ''} left out: {', '.join(parts)}"


def read(source: Path | BinaryIO, name: str = "") -> Image.Image:
    """A picture as a person sees it: turned as its EXIF says, on a background if transparent.

    What is transparent becomes white, or black where what is not is light.

    Args:
        source: a file, or its content.
        name: what a message calls it; by itself the path.

    Returns:
        An image of the mode `L` or `RGB`.

    Raises:
        PictureError: Pillow cannot read it; says why.
    """
    name = name or printable(source)
    try:
        with Image.open(source) as opened:
            opened.load()
            return _flat(ImageOps.exif_transpose(opened), getattr(opened, "tag_v2", {}))
    except _PixelError as error:
        raise PictureError(f"{name} {error}") from None
    except OSError as error:
        reason = error.strerror or "it is no picture, or a damaged one"
        raise PictureError(f"{name} cannot be read: {reason}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"{name} cannot be read: it has too many pixels") from None
    # Decoders raise all sorts of things at a damaged file.
    except Exception as error:
        raise PictureError(f"{name} cannot be read: it is damaged ({error})") from None


class _PixelError(Exception):
    """Pixels have values that their type does not explain."""


def _flat(picture: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """In eight bits, without transparency; `tags` are those of a TIFF."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        return _in_eight_bits(picture, tags)
    # Pillow reads a byte with a sign as one without.
    if SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise _PixelError("has signed pixels of 8 bits; save them unsigned, from 0 to 255")
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        alpha = np.asarray(layered)[..., 3]
        if alpha.min(initial=255) < 255:
            shown = np.asarray(layered.convert("L"))[alpha > 127]
            ground = "black" if shown.size and shown.mean() > 127 else "white"
            layered = Image.alpha_composite(Image.new("RGBA", layered.size, ground), layered)
        return layered.convert("L" if picture.mode in ("L", "LA", "La", "1") else "RGB")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _in_eight_bits(picture: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Black and white follow from the type of the pixels alone, not from those of one picture.

    Floats are from 0 to 1; integers of 12 bits to 4,095; all other integers to 65,535.
    """
    values = np.asarray(picture, np.float64)
    if not np.isfinite(values).all():
        raise _PixelError("has pixels that are not finite (NaN or infinity); replace them")
    floats = picture.mode == "F"
    full = 1 if floats else 4_095 if tags.get(BITS) == (12,) else 65_535
    slack = 1 / 510 if floats else 0  # half a level, for what was rounded or resized
    least, most = values.min(), values.max()
    if least < -slack or most > full + slack:
        kind, digits = ("floats", ",.6g") if floats else ("integers", ",.0f")
        raise _PixelError(
            f"has {kind} from {least:{digits}} to {most:{digits}} as pixels; they must be from 0"
            f" to {full:,}: scale those of all pictures by the same factor"
        )
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = full - values  # Pillow does this for eight bits only
    return Image.fromarray(np.rint(values * (255 / full)).clip(0, 255).astype(np.uint8))


def fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a picture at a size (width, height), none of it stretched."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
