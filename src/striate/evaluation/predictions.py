"""The files in predictions/: logits, classes, the inside of the network, its worst mistakes."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from striate.data import files
from striate.data.json_csv import write_table
from striate.errors import UserError, one_line

NETWORK, MISTAKES, SHIFTED = "network.npz", "mistakes.npz", "shifted.npz"
SHOWN_MISTAKES = 36  # at most


class Inspected(NamedTuple):
    """What is drawn of a network.

    Attributes:
        filters: the weights of each convolution by name, in order, float32
            (out, in, height, width).
        feature_maps: the output of each layer for the first test image by name, in order, float32
            (channels, height, width).
        attention: how much all patches attend to each, in each layer by name, in order, for the
            first test images, float32 (images, rows, columns); none without attention.
    """

    filters: dict[str, np.ndarray]
    feature_maps: dict[str, np.ndarray]
    attention: dict[str, np.ndarray]


class Mistakes(NamedTuple):
    """The most confident mistakes among the test images, the most confident first.

    Attributes:
        indices: of the images, int64 (M,).
        evidence: how much each pixel spoke for the predicted class, float32 (M, height, width).
        neighbours: the most similar training images of each, int64 (M, k).
    """

    indices: np.ndarray
    evidence: np.ndarray
    neighbours: np.ndarray


AXES = {"filters": 4, "feature_maps": 3, "attention": 3}  # of each array of network.npz


def write_predictions(
    logits: np.ndarray, labels: np.ndarray, classes: list[str], folder: Path
) -> None:
    """Write `logits.npy`, float32 (N, classes), and `classes.csv`, one row per image.

    The table holds the true and the predicted class by name; DVC draws a confusion matrix of it.
    """
    buffer = io.BytesIO()
    np.save(buffer, logits)
    files.write(folder / "logits.npy", buffer.getvalue())
    write_table(
        folder / "classes.csv",
        [
            {"actual": classes[label], "predicted": classes[guess]}
            for label, guess in zip(labels, logits.argmax(1), strict=True)
        ],
    )


def read_logits(folder: Path, shape: tuple[int, int]) -> np.ndarray:
    """Read the logits that `write_predictions` wrote.

    Args:
        folder: holds the file.
        shape: the expected shape, (N, classes).

    Raises:
        UserError: the file is missing or damaged, or has another shape.
    """
    try:
        # Memory-mapped, so that a false header allocates nothing.
        mapped = np.lib.format.open_memmap(folder / "logits.npy", mode="r")
        if mapped.dtype != np.float32 or mapped.shape != shape:
            raise ValueError(f"it holds {mapped.dtype} {mapped.shape}, not float32 {shape}")
        return np.array(mapped)
    except Exception as error:  # a mangled header makes NumPy's reader raise almost anything
        raise UserError(
            f"{folder}/logits.npy cannot be read: {one_line(error)}; `dvc repro` recreates it"
        ) from None


def write_network(found: Inspected, folder: Path) -> None:
    """Write `network.npz`, from which filters, feature maps and attention are drawn.

    Equal arrays give equal bytes.

    Args:
        found: the arrays.
        folder: receives the file.
    """
    named = {
        f"{part}/{name}": value
        for part, arrays in found._asdict().items()
        for name, value in arrays.items()
    }
    _write(folder / NETWORK, named)


def _write(path: Path, named: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **named)
    files.write(path, buffer.getvalue())


def read_network(folder: Path) -> Inspected:
    """Read the arrays that `write_network` wrote.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    path = folder / NETWORK
    arrays = _read(path)
    parts = {}
    for kind, axes in AXES.items():
        prefix = f"{kind}/"
        part = {name.removeprefix(prefix): a for name, a in arrays.items()
                if name.startswith(prefix)}  # fmt: skip
        is_missing = not part and kind != "attention"
        if is_missing or any(a.dtype != np.float32 or a.ndim != axes for a in part.values()):
            raise _unreadable(path, f"{prefix}* must be float32 arrays of {axes} axes")
        parts[kind] = part
    return Inspected(**parts)


def write_mistakes(found: Mistakes, folder: Path) -> None:
    """Write `mistakes.npz`; equal arrays give equal bytes."""
    _write(folder / MISTAKES, found._asdict())


def read_mistakes(folder: Path, shape: tuple[int, int, int], train_images: int) -> Mistakes:
    """Read what `write_mistakes` wrote.

    Args:
        folder: holds the file.
        shape: how many test images there are, and their height and width.
        train_images: how many there are.

    Raises:
        UserError: the file is missing or damaged, or is of other images.
    """
    path = folder / MISTAKES
    arrays = _read(path)
    try:
        found = Mistakes(**arrays)
        count = len(found.indices)
        kinds = [(found.indices, 1, np.int64), (found.evidence, 3, np.float32),
                 (found.neighbours, 2, np.int64)]  # fmt: skip
        if any(a.ndim != axes or a.dtype != kind or len(a) != count for a, axes, kind in kinds):
            raise ValueError("its arrays do not fit each other")
        if found.evidence.shape[1:] != shape[1:]:
            raise ValueError("it is of images of another size than those in data/")
        for indices, limit in ((found.indices, shape[0]), (found.neighbours, train_images)):
            if indices.size and not 0 <= indices.min() <= indices.max() < limit:
                raise ValueError("it is of other images than those in data/")
    except (TypeError, ValueError) as error:
        raise _unreadable(path, error) from None
    return found


def write_shifted(
    accuracies: Mapping[str, list[float]], examples: np.ndarray, folder: Path
) -> None:
    """Write `shifted.csv`, a row for each corruption and severity, and `shifted.npz`, an image.

    Args:
        accuracies: of each corruption at each severity.
        examples: uint8 (corruptions, severities, C, H, W).
        folder: receives the files.
    """
    rows = [
        {"corruption": name, "severity": severity, "accuracy": value}
        for name, values in accuracies.items()
        for severity, value in enumerate(values, start=1)
    ]
    write_table(folder / "shifted.csv", rows)
    _write(folder / SHIFTED, {"examples": examples})


def read_shifted(
    folder: Path, shape: tuple[int, int, int]
) -> tuple[dict[str, list[float]], np.ndarray]:
    """Read what `write_shifted` wrote; nothing, and no images, if it wrote nothing.

    Args:
        folder: holds the files.
        shape: of an image: channels, height and width.

    Raises:
        UserError: a file is damaged.
    """
    table, path = folder / "shifted.csv", folder / SHIFTED
    if not table.exists():
        return {}, np.empty((0, 0, 1, 1, 1), np.uint8)
    accuracies: dict[str, list[float]] = {}
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                accuracies.setdefault(row["corruption"], []).append(float(row["accuracy"]))
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise _unreadable(table, error) from None
    examples = _read(path).get("examples", np.empty(0))
    counts = {len(values) for values in accuracies.values()}
    if examples.dtype != np.uint8 or (len(accuracies), *counts, *shape) != examples.shape:
        raise _unreadable(path, f"it does not fit {table}")
    return accuracies, examples


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that `_write` wrote, by name."""
    try:
        # From memory: NumPy leaves a damaged file open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive makes NumPy's reader raise almost anything
        raise _unreadable(path, error) from None


def _unreadable(path: Path, why: Exception | str) -> UserError:
    reason = one_line(why) if isinstance(why, Exception) else why
    return UserError(f"{path} cannot be read: {reason}; `dvc repro` recreates it")
