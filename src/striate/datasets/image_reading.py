"""Read image files of any format into 8-bit pixels, and find the image files in a folder."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from striate.errors import UserError

# Files and folders that operating systems leave behind, in lower case; treated as hidden.
SYSTEM = frozenset((
    "__macosx", "@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "recycler",
    "found.000", "lost+found", "system volume information", "desktop.ini", "thumbs.db",
    "ehthumbs.db", "icon\r",
))  # fmt: skip
# Why a file is skipped.
HIDDEN, LINKED, SPECIAL = "hidden", "linked", "not regular"  # a pipe, socket or device
MAX_KINDS = 6  # listed in a message

# Linear over all pixels that one of the result covers, as torchvision's Resize; wider filters take
# as long as decoding the file.
FILTER = Image.Resampling.BILINEAR

# TIFF tags, and their values.
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, SIGNED = 0, 2

# For the whole process, because several threads read images.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def printable(name: object) -> str:
    """Escape what would move a terminal's cursor, such as line breaks."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(name))


class ImageReadError(UserError):
    """A file cannot be read as an image."""


class Listing(NamedTuple):
    """The contents of a folder and its subfolders.

    Attributes:
        files: files with an image's extension, sorted by path.
        links: links to folders, which are not followed, and broken links.
        skipped: number of other files, by extension or reason.
    """

    files: list[Path]
    links: list[Path]
    skipped: Counter[str]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or left behind by an operating system."""
    return name.startswith(".") or name.lower() in SYSTEM


def list_images(folder: Path, without: Collection[str] = ()) -> Listing:
    """Find the image files in a folder and its subfolders by extension.

    Args:
        folder: where to look.
        without: names of its direct subfolders to ignore.

    Raises:
        OSError: a folder cannot be read.
    """
    extensions = set(Image.registered_extensions())
    found = Listing([], [], Counter())
    for parent, folders, names in os.walk(folder, onerror=_raise):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name not in without]
        for path in [Path(parent, name) for name in folders]:
            linked = path.is_symlink()  # `os.walk` lists links to folders, but does not follow them
            if is_hidden(path.name):
                folders.remove(path.name)
                inside = 1 if linked else sum(len(names) for *_, names in os.walk(path))
                found.skipped[HIDDEN] += inside
            elif linked:
                found.links.append(path)
        for path in [Path(parent, name) for name in names]:
            extension = path.suffix.lower()
            if is_hidden(path.name):
                found.skipped[HIDDEN] += 1
            elif extension not in extensions and path.is_symlink() and not path.exists():
                found.links.append(path)
            elif extension not in extensions:
                found.skipped[printable(extension) or "without extension"] += 1
            # Reading a pipe would block. A broken link is reported when it is read.
            elif path.is_file() or path.is_symlink():
                found.files.append(path)
            else:
                found.skipped[SPECIAL] += 1
    found.files.sort()
    return found


def _raise(error: OSError) -> None:
    raise error


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Summarise counts of skipped files, such as `12 files skipped: 10 .heic, 2 .txt`."""
    ranked = sorted(skipped.items(), key=lambda pair: (-pair[1], pair[0]))
    kinds = [f"{count:,} {kind}" for kind, count in ranked[:MAX_KINDS]]
    if rest := sum(count for _, count in ranked[MAX_KINDS:]):
        kinds.append(f"{rest:,} others")
    total = sum(skipped.values())
    return f"{total:,} file{'s' if total > 1 else ''} skipped: {', '.join(kinds)}"


def read(source: Path | BinaryIO, name: str = "") -> Image.Image:
    """Read an image as a viewer shows it: rotated as its EXIF data say, without transparency.

    The background of a transparent image is white, or black if its opaque pixels are light.

    Args:
        source: a file, or its content as a stream.
        name: for messages; the path by default.

    Returns:
        An image of mode `L` or `RGB`.

    Raises:
        ImageReadError: Pillow cannot read it; the message says why.
    """
    name = name or printable(source)
    try:
        with Image.open(source) as opened:
            opened.load()
            return _flat(ImageOps.exif_transpose(opened), getattr(opened, "tag_v2", {}))
    except _PixelError as error:
        raise ImageReadError(f"{name} {error}") from None
    except OSError as error:
        reason = error.strerror or "it is not an image, or is damaged"
        raise ImageReadError(f"{name} cannot be read: {reason}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageReadError(f"{name} cannot be read: it has too many pixels") from None
    # Given a damaged file, decoders raise almost anything.
    except Exception as error:
        raise ImageReadError(f"{name} cannot be read: it is damaged ({error})") from None


class _PixelError(Exception):
    """Pixels have values outside the range of their type."""


def _flat(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Convert to 8 bits without transparency; `tags` are those of a TIFF."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _in_eight_bits(image, tags)
    # Pillow reads signed bytes as unsigned ones.
    if SIGNED in tags.get(SAMPLE_FORMAT, ()):
        raise _PixelError("has signed pixels of 8 bits; save them unsigned, from 0 to 255")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        alpha = np.asarray(layered)[..., 3]
        if alpha.min(initial=255) < 255:
            shown = np.asarray(layered.convert("L"))[alpha > 127]
            ground = "black" if shown.size and shown.mean() > 127 else "white"
            layered = Image.alpha_composite(Image.new("RGBA", layered.size, ground), layered)
        return layered.convert("L" if image.mode in ("L", "LA", "La", "1") else "RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _in_eight_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Scale by the range of the pixel type, which is the same for all images.

    Floats range from 0 to 1, 12-bit integers from 0 to 4,095, other integers from 0 to 65,535.
    """
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise _PixelError("has pixels that are not finite (NaN or infinity); replace them")
    floats = image.mode == "F"
    full = 1 if floats else 4_095 if tags.get(BITS) == (12,) else 65_535
    tolerance = 1 / 510 if floats else 0  # half of an 8-bit level, for rounding errors
    least, most = values.min(), values.max()
    if least < -tolerance or most > full + tolerance:
        kind, digits = ("floats", ",.6g") if floats else ("integers", ",.0f")
        raise _PixelError(
            f"has {kind} from {least:{digits}} to {most:{digits}} as pixels; they must be from 0"
            f" to {full:,}: scale all images by the same factor"
        )
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = full - values  # Pillow inverts 8-bit images only
    return Image.fromarray(np.rint(values * (255 / full)).clip(0, 255).astype(np.uint8))


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Crop the centre of an image and resize it to (width, height), keeping its aspect ratio."""
    return ImageOps.fit(image, size, FILTER)


def pad(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize all of an image into (width, height), keeping its aspect ratio, on black."""
    return ImageOps.pad(image, size, FILTER)


def stretch(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize all of an image to (width, height), whatever its aspect ratio."""
    return image.resize(size, FILTER)


# By the value of `data.resize`.
RESIZE: dict[str, Callable[[Image.Image, tuple[int, int]], Image.Image]] = {
    "crop": fit, "pad": pad, "stretch": stretch,
}  # fmt: skip
