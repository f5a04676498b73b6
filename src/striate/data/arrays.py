"""The images and labels in data/, with the manifest that describes them: writer and reader."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from striate.data import framing
from striate.data.json_csv import read_json, write_json
from striate.data.source import SOURCE_FILE, Source
from striate.errors import UserError, one_line

CALLED = {"train": "training", "val": "validation", "test": "test"}  # in sentences
SPLITS = tuple(CALLED)
ARRAYS = ("images.npy", "labels.npy")
FILES = "files.json"
MANIFEST_KEYS = {"name", "shape", "classes", "peak", "mean", "std", "frame", "train", "test"}


class LabeledImages(NamedTuple):
    """Images as published, uint8 (N, C, H, W), and their classes, int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


class LoadedDataset(NamedTuple):
    """A data set in memory, with what its manifest needs.

    Attributes:
        source: its name, page and licence.
        classes: their names, in the order of the labels.
        peak: the largest pixel value.
        mean: of each channel over the training images, divided by `peak`.
        std: the standard deviation, likewise.
        train: the training set, before a validation set is split off.
        test: the test set.
        frame: of `striate.data.framing`; None computes it from the training images.
    """

    source: Source
    classes: tuple[str, ...]
    peak: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: LabeledImages
    test: LabeledImages
    frame: dict[str, Any] | None = None


class About(NamedTuple):
    """What a manifest says of a data set beside its labels: as in `LoadedDataset`."""

    source: Source
    shape: tuple[int, int, int]
    classes: Sequence[str]
    peak: int
    mean: Sequence[float]
    std: Sequence[float]
    frame: dict[str, Any]


def write(dataset: LoadedDataset, folder: Path) -> None:
    """Write a data set, whole or not at all, in place of the one that is there.

    Args:
        dataset: to write.
        folder: receives `train/` and `test/`, each with `images.npy`, uint8 (N, C, H, W), and
            `labels.npy`, int64 (N,); an empty `val/`; `manifest.json`; and `source.json`.

    Raises:
        UserError: `folder` cannot be written.
    """
    about = About(
        dataset.source, dataset.train.images.shape[1:], dataset.classes, dataset.peak,
        dataset.mean, dataset.std,
        dataset.frame or framing.frame(dataset.train.images, dataset.peak),
    )  # fmt: skip
    with writing(folder), tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as temporary:
        for split, (images, labels) in (("train", dataset.train), ("test", dataset.test)):
            Path(temporary, split).mkdir()
            for name, array in (("images", images), ("labels", labels.astype(np.int64))):
                # Given a stream that can be read, too, NumPy writes through Python, whose errors
                # say why a write failed.
                with Path(temporary, split, f"{name}.npy").open("w+b") as stream:
                    np.save(stream, array)
        finish(Path(temporary), about, folder)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make a folder, and explain why it cannot be written.

    Raises:
        UserError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None


def finish(partial: Path, about: About, folder: Path) -> None:
    """Describe the arrays in a folder, and put all of them in place of a data set.

    Args:
        partial: on the disk of `folder`, with the arrays of each split.
        about: the data set.
        folder: that `write` describes.
    """
    manifest: dict[str, Any] = {
        "name": about.source.name, "shape": about.shape, "classes": about.classes,
        "peak": about.peak, "mean": about.mean, "std": about.std, "frame": about.frame,
    }  # fmt: skip
    for split in SPLITS:
        (partial / split).mkdir(exist_ok=True)
        if not (partial / split / "labels.npy").exists():
            continue
        labels = np.load(partial / split / "labels.npy")
        manifest[split] = {
            "count": len(labels),
            "per_class": np.bincount(labels, minlength=len(about.classes)).tolist(),
            "sha256": {name: _sha256(partial / split / name) for name in ARRAYS},
        }
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    write_json(partial / SOURCE_FILE, about.source._asdict())
    for split in SPLITS:
        if (folder / split).exists():
            shutil.rmtree(folder / split)
    for path in partial.iterdir():
        path.rename(folder / path.name)


def write_names(folder: Path, names: Sequence[str]) -> None:
    """Write the names of the images' files beside the arrays of a split."""
    (folder / FILES).write_text(json.dumps(list(names), indent=0) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_files(folder: Path, split: str) -> list[str]:
    """The names of the images' files, "train" or "test"; none if they are no single files.

    Raises:
        UserError: the list is damaged.
    """
    path = folder / split / FILES
    if not path.exists():
        return []
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
        count = load_manifest(folder)[split]["count"]
        if not _is_list(names, str) or len(names) != count:
            raise ValueError(f"it must hold a list of {count:,} names")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {one_line(error)}; `dvc repro` recreates it"
        ) from None
    return list(names)


def load_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the `manifest.json` that `write` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / "manifest.json"
    manifest = read_json(path)
    try:
        if set(manifest) - {"val"} != MANIFEST_KEYS:
            raise ValueError(f"its keys must be {', '.join(sorted(MANIFEST_KEYS))}")
        check_images(manifest)
        framing.check(manifest["frame"])
        for split in sorted({*SPLITS} & {*manifest}):
            _check_split(split, manifest[split], len(manifest["classes"]))
    except ValueError as error:
        raise UserError(f"{path}: {error}; `dvc repro` recreates it") from None
    return manifest


def check_images(described: dict[str, Any]) -> None:
    """Check the description of a data set in a manifest or a checkpoint.

    Args:
        described: the keys name, shape, classes, peak, mean and std.

    Raises:
        ValueError: the message says what a key must be.
    """
    if not (type(described["name"]) is str and described["name"].isprintable()):
        raise ValueError("the name of the data set must be printable text")
    shape, classes, mean, std = (described[key] for key in ("shape", "classes", "mean", "std"))
    if not (_is_list(shape, int) and len(shape) == 3 and 1 <= min(shape) <= max(shape) <= 4096):
        raise ValueError("shape must be 3 whole numbers from 1 to 4096: channels, height, width")
    if not (_is_list(classes, str) and classes):
        raise ValueError("classes must be a list of names")
    if not (type(described["peak"]) is int and 1 <= described["peak"] <= 255):
        raise ValueError("peak must be a whole number from 1 to 255")
    if mean is None and std is None:
        return
    for name, values in (("mean", mean), ("std", std)):
        if not (
            _is_list(values, float)
            and len(values) == shape[0]
            and all(0 <= value <= 1 for value in values)
        ):
            raise ValueError(f"{name} must be a list of numbers from 0 to 1, one for each channel")
    if 0 in std:
        raise ValueError("std must be above 0")


def _check_split(name: str, split: Any, classes: int) -> None:
    if not isinstance(split, dict) or set(split) != {"count", "per_class", "sha256"}:
        raise ValueError(f"{name} must have the keys count, per_class, sha256")
    per_class, sha256 = split["per_class"], split["sha256"]
    if not (_is_list(per_class, int) and len(per_class) == classes and min(per_class) >= 1):
        raise ValueError(f"{name}.per_class must be counts of 1 or more, one for each class")
    if type(split["count"]) is not int or split["count"] != sum(per_class):
        raise ValueError(f"{name}.count must be the sum of {name}.per_class")
    if not (isinstance(sha256, dict) and set(sha256) == {"images.npy", "labels.npy"}):
        raise ValueError(f"{name}.sha256 must have the keys images.npy, labels.npy")


def _is_list(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def map_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Memory-map the images of a split and read its labels; verify both.

    Args:
        folder: that `write` wrote to.
        split: `train` or `test`.

    Returns:
        Memory-mapped images, uint8 (N, C, H, W), and labels in memory, int64 (N,).

    Raises:
        UserError: a file is missing or is not the one that the manifest describes.
    """
    manifest = load_manifest(folder)
    described = manifest[split]
    images, mapped = (
        _map_array(folder / split / f"{name}.npy", described, shape, dtype)
        for name, shape, dtype in (
            ("images", manifest["shape"], np.uint8), ("labels", [], np.int64),
        )
    )  # fmt: skip
    labels = np.array(mapped)
    per_class = described["per_class"]
    in_range = labels.min() >= 0 and labels.max() < len(per_class)
    if not in_range or np.bincount(labels, minlength=len(per_class)).tolist() != per_class:
        raise UserError(
            f"{folder / split / 'labels.npy'} has other counts of classes than"
            f" {folder / 'manifest.json'}; `dvc repro` recreates both"
        )
    return images, labels


def _map_array(path: Path, described: dict[str, Any], shape: list[int], dtype: type) -> np.ndarray:
    """Memory-map an array of shape (count, *shape) after comparing its hash with the manifest."""
    try:
        if _sha256(path) != described["sha256"][path.name]:
            raise ValueError("it is not the file that the manifest names by its SHA-256")
        # NumPy's own `load` would read the whole array before its header can be checked.
        mapped = np.lib.format.open_memmap(path, mode="r")
        if mapped.dtype != dtype or mapped.shape != (described["count"], *shape):
            raise ValueError(f"it holds {mapped.dtype} {mapped.shape}, not what the manifest says")
        return mapped
    except Exception as error:  # a mangled header makes NumPy's reader raise almost anything
        raise UserError(
            f"{path} cannot be read: {one_line(error)}; `dvc repro` recreates it"
        ) from None


def scale_to_unit(images: np.ndarray, peak: int) -> np.ndarray:
    """Scale uint8 images (N, C, H, W) from 0 to `peak` to float32 from 0 to 1, for figures."""
    values: np.ndarray = images.astype(np.float32) / peak
    return values
