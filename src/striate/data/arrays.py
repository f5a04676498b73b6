"""The arrays that the stage download stored and the manifest that describes them, both verified."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from striate.data import framing
from striate.data.results import one_line, read_json
from striate.errors import UserError

MANIFEST_KEYS = {"name", "shape", "classes", "peak", "mean", "std", "frame", "train", "test"}


def load_manifest(folder: Path) -> dict[str, Any]:
    """What `striate.datasets.catalogue.prepare` wrote beside the arrays.

    Raises:
        UserError: the file is missing, or is not such a description.
    """
    path = folder / "manifest.json"
    manifest = read_json(path)
    try:
        if set(manifest) != MANIFEST_KEYS:
            raise ValueError(f"its keys must be {', '.join(sorted(MANIFEST_KEYS))}")
        check_images(manifest)
        framing.check(manifest["frame"])
        for part in ("train", "test"):
            _check_part(part, manifest[part], len(manifest["classes"]))
    except ValueError as error:
        raise UserError(f"{path}: {error}; `dvc repro` makes it anew") from None
    return manifest


def check_images(described: dict[str, Any]) -> None:
    """Check what a manifest or a checkpoint says of a data set.

    Args:
        described: the keys name, shape, classes, peak, mean and std.

    Raises:
        ValueError: says what a key must be.
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


def _check_part(name: str, part: Any, classes: int) -> None:
    if not isinstance(part, dict) or set(part) != {"count", "per_class", "sha256"}:
        raise ValueError(f"{name} must have the keys count, per_class, sha256")
    per_class, sha256 = part["per_class"], part["sha256"]
    if not (_is_list(per_class, int) and len(per_class) == classes and min(per_class) >= 1):
        raise ValueError(f"{name}.per_class must be counts of 1 or more, one for each class")
    if type(part["count"]) is not int or part["count"] != sum(per_class):
        raise ValueError(f"{name}.count must be the sum of {name}.per_class")
    if not (isinstance(sha256, dict) and set(sha256) == {"images.npy", "labels.npy"}):
        raise ValueError(f"{name}.sha256 must have the keys images.npy, labels.npy")


def _is_list(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def map_split(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Map the images of a part and read its labels, both verified.

    Args:
        folder: with `manifest.json` and, in a folder for each part, the arrays.
        part: `train` or `test`.

    Returns:
        Images, uint8 (N, C, H, W), of which nothing is in memory yet, and int64 (N,).

    Raises:
        UserError: a file is missing or is not the one that the manifest describes.
    """
    manifest = load_manifest(folder)
    described = manifest[part]
    pixels, mapped = (
        _map_array(folder / part / f"{name}.npy", described, shape, dtype)
        for name, shape, dtype in (
            ("images", manifest["shape"], np.uint8), ("labels", [], np.int64),
        )
    )  # fmt: skip
    labels = np.array(mapped)
    per_class = described["per_class"]
    inside = labels.min() >= 0 and labels.max() < len(per_class)
    if not inside or np.bincount(labels, minlength=len(per_class)).tolist() != per_class:
        raise UserError(
            f"{folder / part / 'labels.npy'} has other counts of classes than"
            f" {folder / 'manifest.json'}; `dvc repro` makes both anew"
        )
    return pixels, labels


def _map_array(path: Path, described: dict[str, Any], shape: list[int], dtype: type) -> np.ndarray:
    """An array of one item of a shape for each image, if it is the one that is described."""
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != described["sha256"][path.name]:
            raise ValueError("it is not the file that the manifest names by its SHA-256")
        # Mapped, the file is not read before its header has proved true.
        mapped = np.lib.format.open_memmap(path, mode="r")
        if mapped.dtype != dtype or mapped.shape != (described["count"], *shape):
            raise ValueError(f"it holds {mapped.dtype} {mapped.shape}, not what the manifest says")
        return mapped
    except Exception as error:  # a mangled header makes NumPy's reader raise almost anything
        raise UserError(
            f"{path} cannot be read: {one_line(error)}; `dvc repro` makes it anew"
        ) from None


def displayed(images: np.ndarray, peak: int) -> np.ndarray:
    """uint8 (N, C, H, W), at most `peak` → float32 from 0 to 1, for pictures."""
    values: np.ndarray = images.astype(np.float32) / peak
    return values
