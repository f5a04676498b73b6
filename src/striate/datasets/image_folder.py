"""Your own images, in one folder per class, as a data set (`data.name` is `folder`)."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from striate.data.arrays import LabeledImages, LoadedDataset
from striate.data.framing import WHOLE
from striate.data.source import Source
from striate.data.splits import stratified_split
from striate.datasets import image_reading
from striate.datasets.image_reading import ImageReadError
from striate.datasets.registry import DataError
from striate.errors import one_line

NAME = "folder"
GRAY_MODES = ("1", "L", "LA", "La")
MAX_LISTED = 10  # files in a message
MAX_BYTES = 1 << 34  # of all pixels together


def read(path: Path, size: int, test_size: float, leave_out: Sequence[str] = ()) -> LoadedDataset:
    """Read `path/train/CLASS/**` and, if it exists, `path/test/CLASS/**`.

    Without `path/test`, a stratified test set is split off. The split ignores `seed`, so trainings
    with different seeds are scored on the same images. Images are grayscale if all files are, else
    RGB. Hidden files and files without an image's extension are counted and skipped. Of an
    animation or a file with several pages, the first image is read.

    Args:
        path: may be a link. Folders in it may not: DVC does not follow them to look for changes.
        size: side in pixels to which the central square of each image is resized; 0 keeps images
            as they are.
        test_size: fraction of the images in the test set, above 0 and below 1, if it is split off.
        leave_out: files not to train on, relative to `path`. The test set stays what it would be
            without them.

    Raises:
        DataError: the folders are missing or do not fit; files cannot be read, and are named; the
            images have several sizes and `size` is 0; or a class has too few images.
        OSError: a folder cannot be read.
    """
    if not path.is_dir():
        raise DataError(
            f"data.path is {path}, which is not a folder; set it to the folder of your own images,"
            " such as -S data.path=images"
        )
    skipped: Counter[str] = Counter()
    splits = {"train": _list_classes(path, "train", skipped)}
    if os.path.lexists(path / "test"):
        splits["test"] = _list_classes(path, "test", skipped)
    if outside := len(image_reading.list_images(path, without=("train", "test")).files):
        skipped["outside train and test"] = outside
    classes = _check_classes(path, splits)
    files, labels = _flatten(splits["train"], classes)
    train_count = len(files)
    if "test" in splits:
        test_files, test_labels = _flatten(splits["test"], classes)
        files, labels = files + test_files, np.concatenate([labels, test_labels])
    _refuse_ignored(files)
    images = _load(path, files, size)
    if "test" in splits:
        train, test = np.arange(train_count), np.arange(train_count, len(files))
    else:
        train, test = _split_test(path, labels, classes, test_size)
    names = [file.relative_to(path).as_posix() for file in files]
    train = _without(train, names, leave_out, path)
    _check_left(labels[train], classes)
    digests = [hashlib.sha256(image).digest() for image in images]
    train_set = LabeledImages(images[train], labels[train])
    mean, std = _moments(train_set.images)
    return LoadedDataset(
        source=Source(NAME),
        classes=classes,
        peak=255,
        mean=mean,
        std=std,
        train=train_set,
        test=LabeledImages(images[test], labels[test]),
        frame=WHOLE,  # so that a file gives the same pixels here and in `striate predict`
        duplicates=_duplicates(digests, files, train, test),
        conflicts=_conflicts(digests, files, labels),
        skipped=dict(skipped),
        files={"train": [names[i] for i in train], "test": [names[i] for i in test]},
    )


def read_list(path: Path) -> list[str]:
    """The lines of a file that are not empty: names of images.

    Raises:
        DataError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(
            f"data.leave_out is {path}, which cannot be read: {one_line(error)}"
        ) from None
    return [line for line in lines if line.strip()]


def _without(
    train: np.ndarray, names: Sequence[str], leave_out: Sequence[str], path: Path
) -> np.ndarray:
    """The indices of the training images without those whose files are to be left out."""
    unwanted = set(leave_out)
    if missing := unwanted - {names[index] for index in train}:
        listed = ", ".join(sorted(missing)[:MAX_LISTED])
        raise DataError(
            f"data.leave_out names {len(missing):,} files that are no training images of {path}:"
            f" {listed}"
        )
    return np.array([index for index in train if names[index] not in unwanted], dtype=int)


def _check_left(labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Refuse to leave out all images of a class."""
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all():
        raise DataError(f"data.leave_out leaves no training image of {classes[counts.argmin()]}")


def _check_classes(path: Path, splits: dict[str, dict[str, list[Path]]]) -> tuple[str, ...]:
    """The names of the classes, sorted; refuse names that do not fit each other."""
    _refuse_lookalikes(path, splits)
    train = set(splits["train"])
    if len(train) < 2:
        raise DataError(f"{path}/train must have a folder of images for each of two classes")
    test = set(splits.get("test", train))
    if test != train:
        odd = ", ".join(sorted(test ^ train)[:MAX_LISTED])
        raise DataError(
            f"{path}/train and {path}/test must have the same classes; in one only: {odd}"
        )
    return tuple(sorted(train))


def _list_classes(path: Path, split: str, skipped: Counter[str]) -> dict[str, list[Path]]:
    """Map each class to its image files, sorted by path; count other files in `skipped`."""
    folder = path / split
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder; data.path must contain a folder train with a folder of"
            " images for each class, and may contain a folder test of the same kind"
        )
    listing = image_reading.list_images(folder)
    for link in [folder] if folder.is_symlink() else listing.links:
        raise DataError(
            f"{link} is a link to {'a folder' if link.exists() else 'nothing'}, and DVC does not"
            " see changes behind it; put the folder itself there (a copy, or `mount --bind`):"
            " only data.path itself and single files may be links"
        )
    found: dict[str, list[Path]] = {
        entry.name: []
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not image_reading.is_hidden(entry.name)
    }
    for file in listing.files:
        name, *below = file.relative_to(folder).parts
        if below:
            found[name].append(file)
        else:
            skipped["not in a class folder"] += 1
    skipped.update(listing.skipped)
    empty = ", ".join(name for name, files in found.items() if not files)
    if empty:
        note = f" ({image_reading.describe_skipped(skipped)})" if skipped else ""
        raise DataError(f"{folder} has folders without images: {empty}{note}; fill or remove them")
    return found


def _refuse_lookalikes(path: Path, splits: dict[str, dict[str, list[Path]]]) -> None:
    """Refuse class names that differ only in Unicode normal form or white space."""
    seen: dict[str, Path] = {}
    for split, classes in splits.items():
        for name in classes:
            normalized = " ".join(unicodedata.normalize("NFC", name).split())
            first = seen.setdefault(normalized, path / split / name)
            if first.name != name:
                raise DataError(
                    f"{first} and {path / split / name} look the same, but are spelt"
                    f" {first.name!a} and {name!a}; give the class one name"
                )


def _refuse_ignored(files: list[Path]) -> None:
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


def _flatten(
    split: dict[str, list[Path]], classes: tuple[str, ...]
) -> tuple[list[Path], np.ndarray]:
    """All files of a split, class by class, and their labels, int64 (N,)."""
    files = [file for name in classes for file in split[name]]
    counts = [len(split[name]) for name in classes]
    return files, np.repeat(np.arange(len(classes)), counts)


def _split_test(
    path: Path, labels: np.ndarray, classes: tuple[str, ...], test_size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Split off the test set; returns the indices of the training and of the test images."""
    try:
        train, test = stratified_split(labels, test_size, seed=0)
    except ValueError as error:
        raise DataError(f"data.test_size is {test_size:g}: {error} for training") from None
    for indices, name in ((train, "training"), (test, "test")):
        missing = np.flatnonzero(np.bincount(labels[indices], minlength=len(classes)) == 0)
        if missing.size:
            raise DataError(
                f"{path}/train: the class {classes[missing[0]]} has too few images for"
                f" data.test_size={test_size:g}, which leaves the {name} set without it"
            )
    return train, test


def _load(path: Path, files: list[Path], size: int) -> np.ndarray:
    """Read all files with several threads, uint8 (N, C, H, W)."""
    gray = _all_gray(files)
    mode = "L" if gray else "RGB"

    def load(file: Path) -> np.ndarray | ImageReadError:
        try:
            image = image_reading.read(file).convert(mode)
        except ImageReadError as error:
            return error
        return np.asarray(image_reading.fit(image, (size, size)) if size else image)

    images: np.ndarray | None = None
    errors: list[str] = []
    other: tuple[Path, tuple[int, ...]] | None = None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        loaded: Iterable[np.ndarray | ImageReadError] = pool.map(load, files)
        bar = tqdm(loaded, total=len(files), unit=" files", desc=path.name, disable=None)
        for index, (file, image) in enumerate(zip(files, bar, strict=True)):
            if isinstance(image, ImageReadError):
                errors.append(str(image))
                continue
            if images is None:
                images = _allocate(path, len(files), image)
            if image.shape == images.shape[1:]:
                images[index] = image
            else:
                other = other or (file, image.shape)
    if errors:
        more = len(errors) - MAX_LISTED
        raise DataError(
            "\n       ".join(errors[:MAX_LISTED])
            + (f"\n       and {more:,} more" if more > 0 else "")
            + "\n       repair these files, or move them out of the folder"
        )
    if images is None:
        raise DataError(f"{path} contains no images")
    if other is not None:
        raise DataError(
            f"{other[0]} has {_size(other[1])} pixels, and {files[0]} has"
            f" {_size(images.shape[1:])}; set data.size to the side to which all are resized"
        )
    return images[:, None] if gray else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _allocate(path: Path, count: int, first: np.ndarray) -> np.ndarray:
    """Allocate `count` images like the first one."""
    if count * first.size > MAX_BYTES:
        raise DataError(
            f"{path} has {count:,} images of {_size(first.shape)} pixels, more than fit into"
            f" {MAX_BYTES >> 30} GiB; set a smaller data.size"
        )
    return np.empty((count, *first.shape), np.uint8)


def _all_gray(files: list[Path]) -> bool:
    for file in files:
        try:
            with Image.open(file) as opened:
                if not (opened.mode in GRAY_MODES or opened.mode.startswith(("I", "F"))):
                    return False
        except Exception:  # noqa: S112  reading the whole file will report it
            continue
    return True


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]}"


def _moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, with pixels scaled to 0 to 1."""
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256).astype(np.float64)
        values = np.arange(256) / 255
        mean = (counts @ values) / counts.sum()
        variance = (counts @ (values - mean) ** 2) / counts.sum()
        means.append(round(float(mean), 4))
        deviations.append(round(float(variance**0.5), 4) or 1.0)
    return tuple(means), tuple(deviations)


def _duplicates(
    digests: list[bytes], files: list[Path], train: np.ndarray, test: np.ndarray
) -> tuple[tuple[str, str], ...]:
    """Pairs of a training and a test file with the same pixels."""
    train_files = {digests[index]: str(files[index]) for index in train}
    pairs = ((train_files.get(digests[index]), str(files[index])) for index in test)
    return tuple((first, second) for first, second in pairs if first is not None)


def _conflicts(
    digests: list[bytes], files: list[Path], labels: np.ndarray
) -> tuple[tuple[str, str], ...]:
    """Pairs of files with the same pixels and different classes."""
    first: dict[bytes, int] = {}
    pairs = ((first.setdefault(digest, index), index) for index, digest in enumerate(digests))
    return tuple((str(files[a]), str(files[b])) for a, b in pairs if labels[a] != labels[b])
