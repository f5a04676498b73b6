"""Look at all files of a layout: sizes, kinds, and images that are nearly the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from striate.datasets import image_reading, parallel_reading
from striate.datasets.image_reading import ImageReadError
from striate.datasets.layouts import Layout

SIDE = 16  # pixels of a thumbnail, by which nearly equal images are told from similar ones
BITS, BANDS = 64, 5  # of a hash; hashes that differ in fewer bits than bands share one of them
MOST_BITS = BANDS - 1
MOST_LEVELS = 6.0  # mean difference of two thumbnails, of 255 levels
MOST_COMPARED = 50  # images that share a band, each with those behind it


class Seen(NamedTuple):
    """A file that was looked at.

    Attributes:
        file: its path.
        part: "train", "val" or "test".
        label: its class.
        size: width and height; (0, 0) if it cannot be read.
        mode: Pillow's mode of the file, such as RGB, L or I;16.
        hash: of `difference_hash`.
        thumbnail: of `thumbnail`.
        error: why it cannot be read, or nothing.
    """

    file: Path
    part: str
    label: int
    size: tuple[int, int]
    mode: str
    hash: int
    thumbnail: bytes
    error: str


def look(layout: Layout) -> list[Seen]:
    """Read every file of a layout, on all processors.

    Only a few images are in memory at a time; of each a few hundred bytes are kept.

    Raises:
        DataError: a process that reads was killed.
    """
    rows = [
        (file, part, int(label))
        for part, files in layout.files.items()
        for file, label in zip(files, layout.labels[part], strict=True)
    ]
    with closing(parallel_reading.in_order(_look_at, rows)) as found:
        return list(tqdm(found, total=len(rows), unit=" images", desc="reading", disable=None))


def _look_at(row: tuple[Path, str, int]) -> Seen:
    file, part, label = row
    try:
        image = image_reading.read(file)
        with Image.open(file) as opened:
            mode = opened.mode
    except (ImageReadError, OSError) as error:
        return Seen(file, part, label, (0, 0), "", 0, b"", str(error))
    gray = image.convert("L")
    return Seen(file, part, label, image.size, mode, difference_hash(gray), thumbnail(gray), "")


def difference_hash(gray: Image.Image) -> int:
    """A hash of 64 bits that nearly equal images share: whether each pixel of 8×8 is brighter.

    N. Krawetz, "Kind of Like That", 2013: of an image of 9×8 pixels, each is compared with its
    neighbour.
    """
    small = np.asarray(gray.resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def thumbnail(gray: Image.Image) -> bytes:
    """An image as 16×16 pixels."""
    return gray.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()


def near_duplicates(seen: Sequence[Seen]) -> list[tuple[int, int]]:
    """Pairs of files whose images are nearly the same, as indices, in order.

    Hashes that differ in four bits or fewer are equal in one of five bands: only files that share a
    band are compared. Of many that share one, each is compared with the 50 behind it.
    """
    thumbnails = [np.frombuffer(one.thumbnail, np.uint8).astype(np.int16) for one in seen]
    pairs = set()
    for first, second in _sharing_a_band(seen):
        if (seen[first].hash ^ seen[second].hash).bit_count() <= MOST_BITS:
            difference = np.abs(thumbnails[first] - thumbnails[second]).mean()
            if difference <= MOST_LEVELS:
                pairs.add((first, second))
    return sorted(pairs)


def _sharing_a_band(seen: Sequence[Seen]) -> Iterator[tuple[int, int]]:
    edges = np.linspace(0, BITS, BANDS + 1).astype(int).tolist()
    for low, high in pairwise(edges):
        bands: dict[int, list[int]] = defaultdict(list)
        for index, one in enumerate(seen):
            if not one.error:
                bands[one.hash >> low & (1 << (high - low)) - 1].append(index)
        for members in bands.values():
            if len(members) <= MOST_COMPARED:
                yield from combinations(members, 2)
            else:
                # Those that are equal, or nearly, stand side by side.
                members.sort(key=lambda index: (seen[index].hash, seen[index].thumbnail))
                for place, index in enumerate(members):
                    for other in members[place + 1 : place + 1 + MOST_COMPARED]:
                        yield min(index, other), max(index, other)
