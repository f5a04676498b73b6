"""The files in predictions/: logits, classes, filters, feature maps and attention."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from striate.data import files
from striate.data.json_csv import write_table
from striate.errors import UserError, one_line

NETWORK = "network.npz"


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


AXES = {"filters": 4, "feature_maps": 3, "attention": 3}  # of each array


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
    buffer = io.BytesIO()
    named = {
        f"{part}/{name}": value
        for part, arrays in found._asdict().items()
        for name, value in arrays.items()
    }
    np.savez(buffer, allow_pickle=False, **named)
    files.write(folder / NETWORK, buffer.getvalue())


def read_network(folder: Path) -> Inspected:
    """Read the arrays that `write_network` wrote.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    path = folder / NETWORK
    try:
        # From memory: NumPy leaves a damaged file open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        parts = {}
        for kind, axes in AXES.items():
            prefix = f"{kind}/"
            part = {name.removeprefix(prefix): a for name, a in arrays.items()
                    if name.startswith(prefix)}  # fmt: skip
            is_missing = not part and kind != "attention"
            if is_missing or any(a.dtype != np.float32 or a.ndim != axes for a in part.values()):
                raise ValueError(f"{prefix}* must be float32 arrays of {axes} axes")
            parts[kind] = part
    except Exception as error:  # a damaged archive makes NumPy's reader raise almost anything
        raise UserError(
            f"{path} cannot be read: {one_line(error)}; `dvc repro` recreates it"
        ) from None
    return Inspected(**parts)
