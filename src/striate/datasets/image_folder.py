"""Your own images as a data set (`data.name` is `folder`), stored in bounded memory."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from striate.data import arrays
from striate.data.framing import WHOLE
from striate.data.source import Source
from striate.data.splits import stratified_split
from striate.datasets import image_reading, parallel_reading
from striate.datasets.image_reading import ImageReadError
from striate.datasets.layouts import MAX_LISTED, TEST, TRAIN, Layout
from striate.datasets.registry import DataError

NAME = "folder"
GRAY_MODES = ("1", "L", "LA", "La")
PARTIAL = ".partial"  # in data/: what is stored so far
KEY = "key.txt"  # in it: of what
MOST_BYTES = 2**22  # of the pixels that a thread or process reads at once, or of one image


class Look(NamedTuple):
    """How images are stored.

    Attributes:
        size: height and width; None keeps images as they are.
        resize: a key of `image_reading.RESIZE`.
    """

    size: tuple[int, int] | None
    resize: str


class Report(NamedTuple):
    """What a person should know of the files that were stored.

    Attributes:
        counts: of images, by part.
        duplicates: pairs of a training file and one of another part with the same pixels.
        conflicts: pairs of files with the same pixels and different classes.
    """

    counts: dict[str, int]
    duplicates: list[tuple[str, str]]
    conflicts: list[tuple[str, str]]


def divided(layout: Layout, test_size: float, leave_out: Sequence[str] = ()) -> Layout:
    """A layout with a test set, and without some training images.

    Where there is no test set, a stratified one is split off. The split ignores `seed`, so that
    trainings with different seeds are scored on the same images.

    Args:
        layout: as it was found.
        test_size: fraction of the images in the test set, above 0 and below 1, if it is split off.
        leave_out: files not to train on, relative to the root. The test set stays what it would be
            without them.

    Raises:
        DataError: a class has too few images, or a file to leave out is no training image.
    """
    files, labels = layout.files[TRAIN], layout.labels[TRAIN]
    parts = {TRAIN: np.arange(len(files))}
    if TEST not in layout.files:
        parts[TRAIN], parts[TEST] = _split_test(layout, test_size)
    parts[TRAIN] = _without(layout, parts[TRAIN], leave_out)
    split = {part: [files[index] for index in chosen] for part, chosen in parts.items()}
    return layout._replace(
        files=layout.files | split,
        labels=layout.labels | {part: labels[chosen] for part, chosen in parts.items()},
    )


def _split_test(layout: Layout, test_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Split off the test set; returns the indices of the training and of the test images."""
    labels, classes = layout.labels[TRAIN], layout.classes
    try:
        train, test = stratified_split(labels, test_size, seed=0)
    except ValueError as error:
        raise DataError(f"data.test_size is {test_size:g}: {error} for training") from None
    for indices, name in ((train, "training"), (test, "test")):
        missing = np.flatnonzero(np.bincount(labels[indices], minlength=len(classes)) == 0)
        if missing.size:
            raise DataError(
                f"{layout.root}: the class {classes[missing[0]]} has too few images for"
                f" data.test_size={test_size:g}, which leaves the {name} set without it"
            )
    return train, test


def _without(layout: Layout, train: np.ndarray, leave_out: Sequence[str]) -> np.ndarray:
    """The indices of the training images without those whose files are to be left out."""
    if not leave_out:
        return train
    names = {index: _name(layout.files[TRAIN][index], layout.root) for index in train}
    unwanted = set(leave_out)
    if missing := unwanted - {*names.values()}:
        listed = ", ".join(sorted(missing)[:MAX_LISTED])
        held_out = sum((layout.root / name).exists() for name in missing)
        raise DataError(
            f"data.leave_out names files that are no training images of {layout.root}"
            f" (in the test or validation set: {held_out:,}; not there:"
            f" {len(missing) - held_out:,}): {listed}"
        )
    kept = np.array([index for index in train if names[index] not in unwanted], dtype=int)
    counts = np.bincount(layout.labels[TRAIN][kept], minlength=len(layout.classes))
    if not counts.all():
        name = layout.classes[counts.argmin()]
        raise DataError(f"data.leave_out leaves no training image of {name}")
    return kept


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def shape_of(layout: Layout, look: Look) -> tuple[int, int, int]:
    """The shape (C, H, W) that images are stored in: one channel if all files are gray, else three.

    Raises:
        DataError: no file can be read.
    """
    every = [file for files in layout.files.values() for file in files]
    _refuse_ignored(every)
    channels = 1 if _all_gray(every) else 3
    if look.size:
        return channels, *look.size
    error = None
    for file in every:
        try:
            width, height = image_reading.read(file).size
        except ImageReadError as failure:
            error = error or failure
            continue
        return channels, height, width
    raise DataError(str(error))


def store(layout: Layout, look: Look, shape: tuple[int, int, int], folder: Path) -> Report:
    """Write the images of a layout, as `striate.data.arrays.write` does, in bounded memory.

    A few images for each processor are in memory at a time, and of each image a digest. A store
    that was killed goes on where it was, if the files, their sizes and times of change are equal.

    Args:
        layout: with a test set.
        look: how images are stored.
        shape: of `shape_of`.
        folder: `data`.

    Raises:
        DataError: files cannot be read, or have another size; they are named.
        UserError: `folder` cannot be written.
    """
    partial = folder / PARTIAL
    with arrays.writing(folder):
        _begin(partial, _key(layout, look, shape))
        tally = Tally(shape[0])
        failures: list[str] = []
        total = sum(map(len, layout.files.values()))
        with tqdm(total=total, unit=" images", desc="storing", disable=None) as bar:
            for part, files in layout.files.items():
                images = partial / part / "images.npy"
                images.parent.mkdir(exist_ok=True)
                failures += _append(images, files, look, shape, tally.of(part), bar)
                np.save(images.with_name("labels.npy"), layout.labels[part])
                names = [_name(file, layout.root) for file in files]
                arrays.write_names(images.parent, names)
        if failures:
            raise DataError(_listed(failures))
        mean, std = tally.moments()
        about = arrays.About(Source(NAME), shape, layout.classes, 255, mean, std, frame(look))
        (partial / KEY).unlink()
        arrays.finish(partial, about, folder)
        partial.rmdir()
    return _report(layout, tally)


def frame(look: Look) -> dict[str, Any]:
    """The frame of images that are only resized, so that `striate predict` gives equal pixels."""
    return WHOLE if look.resize == "crop" else WHOLE | {"resize": look.resize}


def _key(layout: Layout, look: Look, shape: tuple[int, int, int]) -> str:
    """What must be equal for a store to go on: the files and how they are stored."""
    found = hashlib.sha256(json.dumps([look, shape, layout.classes]).encode())
    for part, files in layout.files.items():
        found.update(f"{part} {layout.labels[part].tolist()}".encode())
        for file in files:
            try:
                known = file.stat()
                told = f"{_name(file, layout.root)} {known.st_size} {known.st_mtime_ns}\n"
            except OSError:
                told = f"{file} -\n"  # reading it will report it
            found.update(told.encode(errors="surrogateescape"))
    return found.hexdigest()


def _begin(partial: Path, key: str) -> None:
    """Keep what an earlier store of the same files left, or start anew."""
    told = partial / KEY
    if not told.is_file() or told.read_text() != key:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        told.write_text(key)


class Tally:
    """What the stored pixels add up to."""

    def __init__(self, channels: int) -> None:
        """Of images of so many channels."""
        self.histogram = np.zeros((channels, 256), np.int64)  # of the training images
        self.digests: dict[str, list[bytes]] = {}

    def of(self, part: str) -> Callable[[np.ndarray], None]:
        """A function that adds an image, uint8 (C, H, W), of a part."""
        digests = self.digests.setdefault(part, [])

        def add(image: np.ndarray) -> None:
            digests.append(hashlib.sha256(image.data).digest())
            if part == TRAIN:
                for channel, pixels in enumerate(image):
                    self.histogram[channel] += np.bincount(pixels.ravel(), minlength=256)

        return add

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, with pixels scaled to 0 to 1."""
        values, means, deviations = np.arange(256) / 255, [], []
        for counts in self.histogram.astype(np.float64):
            mean = (counts @ values) / counts.sum()
            variance = (counts @ (values - mean) ** 2) / counts.sum()
            means.append(round(float(mean), 4))
            deviations.append(round(float(variance**0.5), 4) or 1.0)
        return tuple(means), tuple(deviations)


def _append(
    path: Path,
    files: Sequence[Path],
    look: Look,
    shape: tuple[int, int, int],
    add: Callable[[np.ndarray], None],
    bar: tqdm,
) -> list[str]:
    """Write the images of a part behind those that are there, and count all of them.

    Behind the first file that cannot be stored nothing is written: the next store begins there.

    Returns:
        What is wrong with files that cannot be stored.
    """
    failures: list[str] = []
    with path.open("a+b") as stream:
        done = _read_stored(stream, len(files), shape, add)
        bar.update(done)
        with closing(_read_ahead(files[done:], look, shape)) as images:
            for file, image in zip(files[done:], images, strict=True):
                pixels = _pixels(file, image, shape)
                if isinstance(pixels, str):
                    failures.append(pixels)
                elif not failures:
                    stream.write(pixels.data)
                    add(pixels)
                bar.update()
    return failures


def _read_stored(
    stream: BinaryIO,
    count: int,
    shape: tuple[int, int, int],
    add: Callable[[np.ndarray], None],
) -> int:
    """Leave the whole images that a file holds, and count them; returns how many there are."""
    head = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(head, described)
    header, record = head.getvalue(), math.prod(shape)
    stream.seek(0)
    if stream.read(len(header)) != header:
        stream.truncate(0)
        stream.write(header)
        return 0
    done = (os.fstat(stream.fileno()).st_size - len(header)) // record
    stream.truncate(len(header) + done * record)
    stream.seek(len(header))
    for _ in range(done):
        add(np.frombuffer(stream.read(record), np.uint8).reshape(shape))
    return done


def _read_ahead(
    files: Sequence[Path], look: Look, shape: tuple[int, int, int]
) -> Generator[np.ndarray | ImageReadError]:
    """Images as `_load` gives them; most have this shape, channels first, when they are resized."""
    at_once = min(max(MOST_BYTES // math.prod(shape), 1), parallel_reading.MOST_AT_ONCE)
    load = partial(_load, look, "L" if shape[0] == 1 else "RGB")
    # To copy whole images between processes takes longer than to decode them.
    processes = look.size is not None
    return parallel_reading.in_order(load, files, at_once=at_once, processes=processes)


def _load(look: Look, mode: str, file: Path) -> np.ndarray | ImageReadError:
    """An image, uint8 (H, W) or (H, W, 3)."""
    try:
        image = image_reading.read(file).convert(mode)
    except ImageReadError as error:
        return error
    if look.size:
        height, width = look.size
        image = image_reading.RESIZE[look.resize](image, (width, height))
    return np.asarray(image)


def _pixels(
    file: Path, image: np.ndarray | ImageReadError, shape: tuple[int, int, int]
) -> np.ndarray | str:
    """An image as it is stored, uint8 (C, H, W), or why it cannot be."""
    if isinstance(image, ImageReadError):
        return str(image)
    channels = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    if channels.shape != shape:
        height, width = image.shape[:2]
        return (
            f"{file} has {width}×{height} pixels, and the first image has {shape[2]}×{shape[1]};"
            " set data.size to the size to which all are resized"
        )
    return np.ascontiguousarray(channels)


def _listed(failures: Sequence[str]) -> str:
    more = len(failures) - MAX_LISTED
    return (
        "\n       ".join(failures[:MAX_LISTED])
        + (f"\n       and {more:,} more" if more > 0 else "")
        + "\n       repair these files, or move them out of the folder"
    )


def _report(layout: Layout, tally: Tally) -> Report:
    train = dict(zip(tally.digests[TRAIN], layout.files[TRAIN], strict=True))
    first: dict[bytes, tuple[Path, int]] = {}
    duplicates, conflicts = [], []
    for part, files in layout.files.items():
        rows = zip(tally.digests[part], files, layout.labels[part].tolist(), strict=True)
        for digest, file, label in rows:
            if part != TRAIN and digest in train:
                duplicates.append((str(train[digest]), str(file)))
            other, known = first.setdefault(digest, (file, label))
            if known != label:
                conflicts.append((str(other), str(file)))
    counts = {part: len(files) for part, files in layout.files.items()}
    return Report(counts, duplicates, conflicts)


def _refuse_ignored(files: Sequence[Path]) -> None:
    """Refuse files that DVC ignores, if this runs in a DVC stage: changes would go unnoticed."""
    if "DVC_STAGE" not in os.environ:
        return
    from dvc.repo import Repo

    with Repo() as repo:
        for file in files:
            if repo.dvcignore.is_ignored_file(os.path.abspath(file)):
                raise DataError(
                    f"DVC does not see {file}: it matches .dvcignore, or lies in a DVC repository"
                    " of its own; edit .dvcignore, or move the file out of the folder"
                )


def _all_gray(files: Sequence[Path]) -> bool:
    for file in files:
        try:
            with Image.open(file) as opened:
                if not (opened.mode in GRAY_MODES or opened.mode.startswith(("I", "F"))):
                    return False
        except Exception:  # noqa: S112  reading the whole file will report it
            continue
    return True
