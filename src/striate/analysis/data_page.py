"""What is in a folder of images: tables, findings and a page with samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from striate.data import files
from striate.data.arrays import CALLED
from striate.datasets import image_reading
from striate.datasets.image_reading import ImageReadError
from striate.datasets.layouts import Layout
from striate.datasets.survey import Seen
from striate.reporting.html import Tile, render, tile
from striate.reporting.numbers import plural

SAMPLES = 6  # images of each class on the page
PAIRS = 60  # nearly equal images on the page, at most
LISTED = 5  # files in a finding
UNEQUAL = 3  # times as many images, from which on a difference of classes is told
FEW = 20  # images of a class, below which that is told
LEAST = 4  # with fewer, a training, a test and a validation set may not get one each


class Finding(NamedTuple):
    """Something to know before a training.

    Attributes:
        what: in one line.
        details: files or pairs of files.
        advice: what to do; may be empty.
    """

    what: str
    details: list[str]
    advice: str


def counts(layout: Layout, seen: Sequence[Seen]) -> list[list[str]]:
    """A table: the readable images of each class in each part, and all."""
    parts = [part for part in CALLED if part in layout.files]
    each = {part: _of_each(layout, seen, part) for part in parts}
    rows = [
        [name, *(f"{each[part][index]:,}" for part in parts)]
        for index, name in enumerate(layout.classes)
    ]
    total = ["all", *(f"{each[part].sum():,}" for part in parts)]
    return [["class", *(CALLED[part] for part in parts)], *rows, total]


def sizes(seen: Sequence[Seen]) -> list[list[str]]:
    """A table: the smallest, median and largest width and height, and the kinds of files."""
    readable = np.array([one.size for one in seen if not one.error]).reshape(-1, 2)
    if not len(readable):
        return [["", "smallest", "median", "largest"]]
    rows = [
        [name, *(f"{value:,.0f}" for value in np.quantile(values, (0, 0.5, 1)))]
        for name, values in (("width", readable[:, 0]), ("height", readable[:, 1]))
    ]
    return [["pixels", "smallest", "median", "largest"], *rows]


def findings(
    layout: Layout, seen: Sequence[Seen], pairs: Sequence[tuple[int, int]]
) -> list[Finding]:
    """What to know of a folder before a training, what spoils it first."""
    found = [
        _unreadable(seen),
        _pairs("between parts", "they leak into the score: keep one of each", [
            (a, b) for a, b in pairs if seen[a].part != seen[b].part
        ], seen),
        _pairs("in two classes", "one of the labels is wrong: keep one of each", [
            (a, b) for a, b in pairs if seen[a].label != seen[b].label
        ], seen),
        _pairs("of one part and class", "they count twice", [
            (a, b) for a, b in pairs
            if (seen[a].part, seen[a].label) == (seen[b].part, seen[b].label)
        ], seen),
        _several_sizes(seen),
        _unequal(layout, seen),
        _few(layout, seen),
        _skipped(layout),
    ]  # fmt: skip
    return [one for one in found if one is not None]


def _unreadable(seen: Sequence[Seen]) -> Finding | None:
    errors = [one.error for one in seen if one.error]
    advice = "repair these files, or move them out of the folder"
    return (
        Finding(f"{plural(len(errors), 'file')} cannot be read", errors, advice) if errors else None
    )


def _pairs(
    where: str, advice: str, pairs: Sequence[tuple[int, int]], seen: Sequence[Seen]
) -> Finding | None:
    if not pairs:
        return None
    what = f"{plural(len(pairs), 'pair')} of nearly equal images {where}"
    return Finding(what, [f"{seen[b].file} is nearly {seen[a].file}" for a, b in pairs], advice)


def _several_sizes(seen: Sequence[Seen]) -> Finding | None:
    known = Counter(one.size for one in seen if not one.error)
    if len(known) < 2:
        return None
    commonest = [f"{width}×{height}: {count:,}" for (width, height), count in known.most_common()]
    middle = round(float(np.median([min(size) for size in known.elements()])))
    shapes = [width / height for width, height in known.elements()]
    oblong = float(np.quantile(np.maximum(shapes, 1 / np.array(shapes)), 0.9))
    resize = "; crop loses the rim of oblong ones, data.resize=pad keeps it" if oblong > 1.2 else ""
    side = next((side for side in (128, 96, 64, 48, 32) if side <= middle), 32)
    advice = f"set data.size, such as -S data.size={side}{resize}"
    return Finding(f"{len(known):,} sizes of images", commonest, advice)


def _of_each(layout: Layout, seen: Sequence[Seen], part: str) -> np.ndarray:
    """How many readable images of each class a part has, (classes,)."""
    labels = np.array([one.label for one in seen if one.part == part and not one.error], int)
    return np.bincount(labels, minlength=len(layout.classes))


def _unequal(layout: Layout, seen: Sequence[Seen]) -> Finding | None:
    each = _of_each(layout, seen, "train")
    if not each.all() or each.max() < UNEQUAL * each.min():
        return None
    least, most = (layout.classes[index] for index in (each.argmin(), each.argmax()))
    return Finding(
        f"{most} has {each.max() / each.min():.0f} times as many training images as {least}", [],
        "-S training.class_weights=balanced, and look at balanced accuracy",
    )  # fmt: skip


def _few(layout: Layout, seen: Sequence[Seen]) -> Finding | None:
    each = _of_each(layout, seen, "train")
    few = [f"{name}: {n}" for name, n in zip(layout.classes, each, strict=True) if n < FEW]
    what = f"{len(few)} of {len(layout.classes)} classes have fewer than {FEW} training images"
    advice = "begin with a trained network: training.init_from, model.pretrained"
    if each.min() < LEAST:
        advice += f"; fewer than {LEAST} may be too few to split off a test and a validation set"
    return Finding(what, few, advice) if few else None


def _skipped(layout: Layout) -> Finding | None:
    if not layout.skipped:
        return None
    return Finding(image_reading.describe_skipped(layout.skipped), [], "")


def lines(found: Sequence[Finding]) -> list[str]:
    """Findings as text, with the first files of each."""
    said = []
    for one in found:
        said.append(one.what + (f": {one.advice}" if one.advice else ""))
        said += [f"  {detail}" for detail in one.details[:LISTED]]
        if (more := len(one.details) - LISTED) > 0:
            said.append(f"  and {more:,} more")
    return said or ["nothing to complain of"]


def write(
    layout: Layout,
    seen: Sequence[Seen],
    pairs: Sequence[tuple[int, int]],
    found: Sequence[Finding],
    path: Path,
) -> None:
    """Write the page."""
    chosen = {
        name: [tile for tile in map(_tile, _sample(seen, index)) if tile]
        for index, name in enumerate(layout.classes)
    }
    both = [
        (first, second)
        for first, second in ((_tile(seen[a]), _tile(seen[b])) for a, b in pairs[:PAIRS])
        if first and second
    ]
    page = render(
        "data.html.j2", title=f"{plural(len(seen), 'image')} in {layout.root}",
        counts=counts(layout, seen), sizes=sizes(seen), findings=found, listed=LISTED,
        samples=chosen, pairs=both, all_pairs=len(pairs),
    )  # fmt: skip
    files.write(path, page.encode())


def _sample(seen: Sequence[Seen], label: int) -> list[Seen]:
    """Some readable images of a class, spread over its files."""
    own = [one for one in seen if one.label == label and not one.error]
    places = np.linspace(0, len(own) - 1, min(SAMPLES, len(own))).round().astype(int)
    return [own[place] for place in places]


def _tile(one: Seen) -> Tile | None:
    """A small copy of an image; none if it has gone meanwhile."""
    try:
        image = image_reading.read(one.file)
    except ImageReadError:
        return None
    image.thumbnail((112, 112))
    pixels = np.asarray(image, np.float32) / 255
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    width, height = one.size
    return tile(channels, f"{one.file.name}, {width}×{height}")
