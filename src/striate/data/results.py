"""The small files in metrics/: written whole, read back to the last digit."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from striate.data import files
from striate.errors import UserError

NETWORK, FILTERS, FEATURE_MAPS = "network.npz", "filters/", "feature_maps/"
NEEDED = {
    "train.json": ("train_loss", "train_accuracy", "epochs", "parameters"),
    "test.json": ("accuracy", "loss", "macro_f1", "ece", "errors", "n"),
}


def write_json(path: Path, values: dict[str, float]) -> None:
    """Write one flat JSON object, a key a line; floats keep every digit."""
    files.write(path, (json.dumps(values, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is missing or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is not there; `dvc repro` makes it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None
    return parse_json(text, str(path))


def parse_json(text: str, name: str) -> dict[str, Any]:
    """Parse a JSON object; `name` is what the message calls it.

    Raises:
        UserError: it is something else.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not valid JSON: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{name} must hold a JSON object, not {type(values).__name__}")
    return values


def read_metrics(path: Path) -> dict[str, float]:
    """Read metrics/train.json or metrics/test.json.

    Raises:
        UserError: the file is missing, or does not hold the numbers that it should.
    """
    return check_metrics(read_json(path), str(path), path.name)


def check_metrics(values: dict[str, Any], name: str, file: str) -> dict[str, float]:
    """Check what metrics/train.json or metrics/test.json holds.

    Args:
        values: its content.
        name: what the message calls it.
        file: `train.json` or `test.json`.

    Raises:
        UserError: a number is missing, or is none.
    """
    for key in dict.fromkeys([*NEEDED[file], *values]):
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            shown = "missing" if key not in values else f"{value!r:.60}"
            raise UserError(
                f"{name}: {key} is {shown}; it must be a number, and `dvc repro` makes it anew"
            )
    return values


def finite(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def write_training(rows: list[dict[str, Any]], kept: int, parameters: int, folder: Path) -> None:
    """Write what `striate.training.loop.fit` yielded.

    Args:
        rows: one dict an epoch.
        kept: the epoch whose weights are kept.
        parameters: the size of the network.
        folder: receives `history.csv` (a row an epoch), `steps.csv` (a row for each recorded
            step) and `train.json` (the kept epoch, and the size of the network).
    """
    history = [{key: row[key] for key in row if key != "step_losses"} for row in rows]
    write_table(folder / "history.csv", history)
    write_table(
        folder / "steps.csv",
        [{"step": step, "step_loss": loss} for row in rows for step, loss in row["step_losses"]],
    )
    row = history[kept - 1]
    scores = {key: row[key] for key in row if key.endswith(("_loss", "_accuracy"))}
    counts = {"epochs": len(rows), "kept_epoch": kept, "parameters": parameters}
    write_json(folder / "train.json", scores | counts)


def write_predictions(
    logits: np.ndarray, labels: np.ndarray, classes: list[str], folder: Path
) -> None:
    """Write `logits.npy`, float32 (N, classes), and `classes.csv`, a row for each image.

    The table has the names of the true and of the predicted class, for a confusion matrix.
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
    """Read what `write_predictions` wrote for so many images and classes.

    Raises:
        UserError: the file is missing or damaged, or of another shape.
    """
    try:
        # Mapped, so that a header that lies takes no memory.
        mapped = np.lib.format.open_memmap(folder / "logits.npy", mode="r")
        if mapped.dtype != np.float32 or mapped.shape != shape:
            raise ValueError(f"it holds {mapped.dtype} {mapped.shape}, not float32 {shape}")
        return np.array(mapped)
    except Exception as error:  # a mangled header makes NumPy's reader raise almost anything
        raise UserError(
            f"{folder}/logits.npy cannot be read: {one_line(error)}; `dvc repro` makes it anew"
        ) from None


def write_network(
    filters: dict[str, np.ndarray], feature_maps: dict[str, np.ndarray], folder: Path
) -> None:
    """Write `network.npz`: what a picture of a network shows. Equal arrays give equal bytes.

    Args:
        filters: of each convolution by name, in order, float32 (out, in, height, width).
        feature_maps: of the first test image behind each layer by name, in order, float32
            (channels, height, width).
        folder: receives the file.
    """
    buffer = io.BytesIO()
    named = {f"{FILTERS}{name}": value for name, value in filters.items()}
    named |= {f"{FEATURE_MAPS}{name}": value for name, value in feature_maps.items()}
    np.savez(buffer, allow_pickle=False, **named)
    files.write(folder / NETWORK, buffer.getvalue())


def read_network(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Read what `write_network` wrote: filters and feature maps, by name, in order.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    path = folder / NETWORK
    try:
        # From memory: NumPy leaves a damaged file open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        parts = []
        for prefix, axes in ((FILTERS, 4), (FEATURE_MAPS, 3)):
            part = {name.removeprefix(prefix): a for name, a in arrays.items()
                    if name.startswith(prefix)}  # fmt: skip
            if not part or any(a.dtype != np.float32 or a.ndim != axes for a in part.values()):
                raise ValueError(f"{prefix}* must be float32 arrays of {axes} axes")
            parts.append(part)
    except Exception as error:  # a damaged archive makes NumPy's reader raise almost anything
        raise UserError(
            f"{path} cannot be read: {one_line(error)}; `dvc repro` makes it anew"
        ) from None
    return parts[0], parts[1]


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with equal keys as CSV with a header; floats keep every digit."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write(path, stream.getvalue().encode())


def read_table(path: Path) -> dict[str, list[float]]:
    """Read a CSV of numbers: column name → values.

    Raises:
        UserError: the file is missing or holds something else.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = list(csv.reader(stream)) or [[]]
        return {
            name: [float(row[column]) for row in rows] for column, name in enumerate(header) if name
        }
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None


def read_history(path: Path) -> dict[str, list[float]]:
    """Read the `history.csv` that `write_training` wrote: a column of epochs, and their metrics.

    Raises:
        UserError: the file is missing or holds something else.
    """
    history = read_table(path)
    if not history.get("epoch"):
        raise UserError(f"{path} has no column of epochs; `dvc repro` makes it anew")
    return history


def one_line(error: Exception) -> str:
    """What an error of a library says, cut where it is long; its kind where it says nothing."""
    said = getattr(error, "strerror", None) or str(error)  # the path is named already
    text = " ".join(said.split()) or type(error).__name__
    return text[:200] + "…" if len(text) > 201 else text
