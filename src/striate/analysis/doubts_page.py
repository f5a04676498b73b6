"""Doubtful labels: a page, a table, and a list of files to leave out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from striate.analysis.doubts import Doubt
from striate.data import arrays, files, json_csv
from striate.reporting.html import Tile, render, tile
from striate.reporting.numbers import percent, plural

SHOWN = 200  # images on the page, at most
COLUMNS = ("index", "label", "suggested", "label_probability", "suggested_probability")
LIST, NEW_LIST = "leave_out.txt", "leave_out.new.txt"


class Images(NamedTuple):
    """The images whose labels were doubted.

    Attributes:
        split: "train" or "test".
        pixels: uint8 (N, C, H, W), memory-mapped.
        classes: their names.
        peak: the largest pixel value.
        files: of the images, relative to data.path; none if the data set is not made of files.
        left_out: files that the networks were trained without already.
    """

    split: str
    pixels: np.ndarray
    classes: list[str]
    peak: int
    files: list[str]
    left_out: list[str]


def read(data: Path, split: str, left_out: Sequence[str]) -> Images:
    """The images of a split in the folder `data`.

    Raises:
        UserError: a file is missing or broken.
    """
    pixels, _ = arrays.map_split(data, split)
    manifest = arrays.load_manifest(data)
    names = arrays.read_files(data, split)
    return Images(split, pixels, manifest["classes"], manifest["peak"], names, [*left_out])


def write(images: Images, ranked: Sequence[Doubt], wrong: int, folder: Path) -> list[Path]:
    """Write `index.html`, `doubts.csv` and, of training images from files, `leave_out.txt`.

    A list that a person has edited stays: the new one is then `leave_out.new.txt`.

    Args:
        images: that were classified.
        ranked: the most doubtful first.
        wrong: how many labels are probably wrong; so many of the first are to be left out.
        folder: receives the files.

    Returns:
        Their paths.
    """
    page, table = folder / "index.html", folder / "doubts.csv"
    columns = [*(["file"] if images.files else []), *COLUMNS]
    written = [page, table]
    json_csv.write_table(table, [_row(images, one) for one in ranked], columns)
    if images.files and images.split == "train":
        names = images.left_out + [images.files[one.image] for one in ranked[:wrong]]
        content = "".join(f"{name}\n" for name in names).encode()
        listed = folder / LIST
        if listed.exists() and listed.read_bytes() != content:
            listed = folder / NEW_LIST
        files.write(listed, content)
        written.append(listed)
    listed_in = written[2].name if written[2:] else ""
    files.write(page, _page(images, ranked, wrong, listed_in).encode())
    return written


def _row(images: Images, one: Doubt) -> dict[str, Any]:
    file = {"file": images.files[one.image]} if images.files else {}
    return file | {
        "index": one.image, "label": images.classes[one.label],
        "suggested": images.classes[one.suggested],
        "label_probability": f"{one.label_probability:.6f}",
        "suggested_probability": f"{one.suggested_probability:.6f}",
    }  # fmt: skip


def _page(images: Images, ranked: Sequence[Doubt], wrong: int, listed_in: str) -> str:
    called = arrays.CALLED[images.split]
    shown, count = ranked[:SHOWN], plural(len(ranked), "doubtful label")
    return render(
        "doubts.html.j2",
        title=f"{count} among {len(images.pixels):,} {called} images",
        wrong=plural(wrong, "wrong label") if wrong else "no wrong label",
        tiles=[_tile(images, one) for one in shown],
        shown=len(shown),
        listed_in=listed_in,
        left_out=len(images.left_out),
    )


def _tile(images: Images, one: Doubt) -> Tile:
    (pixels,) = arrays.scale_to_unit(images.pixels[one.image : one.image + 1], images.peak)
    name = images.files[one.image] if images.files else f"image {one.image:,}"
    label, other = images.classes[one.label], images.classes[one.suggested]
    own, others = percent(one.label_probability, 1), percent(one.suggested_probability, 1)
    return tile(pixels, f"{label} {own}, or {other} {others}")._replace(note=name)
