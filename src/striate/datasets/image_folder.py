"""A person's own pictures, in folders by class, as a data set."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from striate.data.framing import WHOLE
from striate.data.splits import stratified_split
from striate.datasets import image_reading
from striate.datasets.catalogue import Collection, DataError, Part

GRAY = ("1", "L", "LA", "La")
MOST_NAMED = 10  # files in a message
MOST_BYTES = 1 << 34  # of all pixels together


def read(path: Path, size: int, test_size: float) -> Collection:
    """Read `path/train/CLASS/*` and `path/test/CLASS/*`, and what is in folders below a class.

    Without a folder `test`, a part of each class is kept for the test: always the same one, so that
    trainings with different seeds are scored on the same images. The images are gray when all files
    are, and else have three channels. What is hidden, or has no name of a picture, is counted and
    passed over. Of an animation or a file of several pages, the first picture is taken.

    Args:
        path: of the folder. It may be a link; a folder in it may not, because DVC, which looks
            for changes, does not look behind it.
        size: side in pixels of the square that each picture's middle is resized to; 0 keeps them.
        test_size: the part of the images that is kept, above 0 and below 1.

    Raises:
        DataError: there are no such folders; files cannot be read, and are named; the pictures are
            of different sizes and `size` is 0; or a class has too few images.
        OSError: a folder cannot be read.
    """
    if not path.is_dir():
        raise DataError(
            f"data.path is {path}, which is no folder; set it to that of your own pictures,"
            " such as -S data.path=images"
        )
    left_out: Counter[str] = Counter()
    train = _listed(path, "train", left_out)
    test = _listed(path, "test", left_out) if os.path.lexists(path / "test") else None
    if outside := len(image_reading.listed(path, without=("train", "test")).files):
        left_out["outside train and test"] = outside
    _refuse_lookalikes(path, {"train": train, "test": test or {}})
    classes = tuple(sorted(train))
    if len(classes) < 2:
        raise DataError(f"{path}/train must have a folder of pictures for each of two classes")
    if test is not None and set(test) != set(classes):
        odd = ", ".join(sorted(set(test) ^ set(classes))[:MOST_NAMED])
        raise DataError(
            f"{path}/train and {path}/test must have the same classes; in one only: {odd}"
        )
    files, labels = _in_order(train, classes)
    count = len(files)
    if test is not None:
        more, their_labels = _in_order(test, classes)
        files, labels = files + more, np.concatenate([labels, their_labels])
    _refuse_unseen(files)
    images = _load(path, files, size)
    if test is not None:
        first, second = np.arange(count), np.arange(count, len(files))
    else:
        first, second = _divide(path, labels, classes, test_size)
    digests = [hashlib.sha256(image).digest() for image in images]
    learnt = Part(images[first], labels[first])
    mean, std = _moments(learnt.images)
    return Collection(
        name="folder", classes=classes, peak=255, mean=mean, std=std,
        train=learnt, test=Part(images[second], labels[second]),
        twins=_twins(digests, files, first, second),
        contradictions=_contradictions(digests, files, labels), left_out=dict(left_out),
        # A file gives the same pixels here and in `striate predict`.
        frame=WHOLE,
    )  # fmt: skip


def _listed(path: Path, part: str, left_out: Counter[str]) -> dict[str, list[Path]]:
    """Class → its pictures by name; what is passed over is added to `left_out`."""
    folder = path / part
    if not folder.is_dir():
        raise DataError(
            f"{folder} is no folder; data.path must have a folder train with a folder of pictures"
            " for each class, and may have a folder test of the same kind"
        )
    inside = image_reading.listed(folder)
    for link in [folder] if folder.is_symlink() else inside.links:
        raise DataError(
            f"{link} is a link to {'a folder' if link.exists() else 'nothing'}, and DVC does not"
            " see what changes behind it; put the folder itself there (a copy, or `mount --bind`):"
            " only data.path itself and single files may be links"
        )
    found: dict[str, list[Path]] = {
        entry.name: []
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not image_reading.is_hidden(entry.name)
    }
    for file in inside.files:
        name, *below = file.relative_to(folder).parts
        if below:
            found[name].append(file)
        else:
            left_out["in no folder of a class"] += 1
    left_out.update(inside.left_out)
    empty = ", ".join(name for name, files in found.items() if not files)
    if empty:
        but = f" ({image_reading.left_out_said(left_out)})" if left_out else ""
        raise DataError(
            f"{folder} has folders without a picture: {empty}{but}; fill or remove them"
        )
    return found


def _refuse_lookalikes(path: Path, parts: dict[str, dict[str, list[Path]]]) -> None:
    """Refuse names that differ in how accents or blanks are written: they mean one class."""
    seen: dict[str, Path] = {}
    for part, found in parts.items():
        for name in found:
            looks = " ".join(unicodedata.normalize("NFC", name).split())
            first = seen.setdefault(looks, path / part / name)
            if first.name != name:
                raise DataError(
                    f"{first} and {path / part / name} look the same, but are written in two ways,"
                    f" {first.name!a} and {name!a}; give the class one name"
                )


def _refuse_unseen(files: list[Path]) -> None:
    """Refuse pictures whose changes DVC would not see, where it is DVC that runs this."""
    if "DVC_STAGE" not in os.environ:
        return
    from dvc.repo import Repo

    with Repo() as repo:
        for file in files:
            if repo.dvcignore.is_ignored_file(os.path.abspath(file)):
                raise DataError(
                    f"DVC does not see {file}: it matches .dvcignore, or lies in a DVC repository"
                    " of its own; mend .dvcignore, or move it out of the folder"
                )


def _in_order(
    listed: dict[str, list[Path]], classes: tuple[str, ...]
) -> tuple[list[Path], np.ndarray]:
    files = [file for name in classes for file in listed[name]]
    counts = [len(listed[name]) for name in classes]
    return files, np.repeat(np.arange(len(classes)), counts)


def _divide(
    path: Path, labels: np.ndarray, classes: tuple[str, ...], test_size: float
) -> tuple[np.ndarray, np.ndarray]:
    try:
        first, second = stratified_split(labels, test_size, seed=0)
    except ValueError as error:
        raise DataError(f"data.test_size is {test_size:g}: {error} for training") from None
    for part, said in ((first, "training"), (second, "test")):
        missing = np.flatnonzero(np.bincount(labels[part], minlength=len(classes)) == 0)
        if missing.size:
            raise DataError(
                f"{path}/train: the class {classes[missing[0]]} has too few pictures for"
                f" data.test_size={test_size:g}, which leaves none of it for {said}"
            )
    return first, second


def _load(path: Path, files: list[Path], size: int) -> np.ndarray:
    """All pictures, uint8 (N, C, H, W)."""
    gray = _all_gray(files)
    mode = "L" if gray else "RGB"

    def load(file: Path) -> np.ndarray | image_reading.PictureError:
        try:
            picture = image_reading.read(file).convert(mode)
        except image_reading.PictureError as error:
            return error
        return np.asarray(image_reading.fit(picture, (size, size)) if size else picture)

    images: np.ndarray | None = None
    faults: list[str] = []
    other: tuple[Path, tuple[int, ...]] | None = None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        loaded: Iterable[np.ndarray | image_reading.PictureError] = pool.map(load, files)
        bar = tqdm(loaded, total=len(files), unit=" files", desc=path.name, disable=None)
        for number, (file, found) in enumerate(zip(files, bar, strict=True)):
            if isinstance(found, image_reading.PictureError):
                faults.append(str(found))
                continue
            if images is None:
                if len(files) * found.size > MOST_BYTES:
                    raise DataError(
                        f"{path} has {len(files):,} pictures of {_shown(found.shape)} pixels, more"
                        f" than fit into {MOST_BYTES >> 30} GiB; set a smaller data.size"
                    )
                images = np.empty((len(files), *found.shape), np.uint8)
            if found.shape != images.shape[1:]:
                other = other or (file, found.shape)
                continue
            images[number] = found
    if faults:
        more = len(faults) - MOST_NAMED
        raise DataError(
            "\n       ".join(faults[:MOST_NAMED])
            + (f"\n       and {more:,} more" if more > 0 else "")
            + "\n       mend these files, or move them out of the folder"
        )
    if images is None:
        raise DataError(f"{path} holds no picture")
    if other is not None:
        raise DataError(
            f"{other[0]} is of {_shown(other[1])} pixels, and {files[0]} of"
            f" {_shown(images.shape[1:])}; set data.size to the side to which all are resized"
        )
    return images[:, None] if gray else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _all_gray(files: list[Path]) -> bool:
    for file in files:
        try:
            with Image.open(file) as opened:
                if not (opened.mode in GRAY or opened.mode.startswith(("I", "F"))):
                    return False
        except Exception:  # noqa: S112  whatever is wrong is said when it is read whole
            continue
    return True


def _shown(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]}"


def _moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of pixels from 0 to 1."""
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256).astype(np.float64)
        values = np.arange(256) / 255
        mean = (counts @ values) / counts.sum()
        variance = (counts @ (values - mean) ** 2) / counts.sum()
        means.append(round(float(mean), 4))
        deviations.append(round(float(variance**0.5), 4) or 1.0)
    return tuple(means), tuple(deviations)


def _twins(
    digests: list[bytes], files: list[Path], first: np.ndarray, second: np.ndarray
) -> tuple[tuple[str, str], ...]:
    """Pairs of a training and a test file whose pixels are the same."""
    known = {digests[number]: str(files[number]) for number in first}
    pairs = ((known.get(digests[number]), str(files[number])) for number in second)
    return tuple((ours, theirs) for ours, theirs in pairs if ours is not None)


def _contradictions(
    digests: list[bytes], files: list[Path], labels: np.ndarray
) -> tuple[tuple[str, str], ...]:
    """Pairs of files of different classes whose pixels are the same."""
    first: dict[bytes, int] = {}
    pairs = ((first.setdefault(digest, number), number) for number, digest in enumerate(digests))
    return tuple((str(files[a]), str(files[b])) for a, b in pairs if labels[a] != labels[b])
