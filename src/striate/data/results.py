"""The small files in metrics/: written whole, read back to the last digit."""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from striate.data import files
from striate.errors import UserError

MISSING = "–"  # how a value that is not there is shown
REQUIRED = {  # what a result must hold to be of use; any other metric may be missing
    "train.json": ("train_loss", "train_accuracy", "epochs", "parameters"),
    "test.json": ("accuracy", "n"),
}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
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
        UserError: the file is missing, lacks a required metric, or holds something that is no
            number.
    """
    return check_metrics(read_json(path), str(path), path.name)


def check_metrics(values: dict[str, Any], name: str, file: str) -> dict[str, float]:
    """Check what metrics/train.json or metrics/test.json holds.

    An experiment that is older than a metric lacks it.

    Args:
        values: its content.
        name: what the message calls it.
        file: `train.json` or `test.json`.

    Raises:
        UserError: a required metric is missing, or a value is no number.
    """
    for key in dict.fromkeys([*REQUIRED[file], *values]):
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            shown = f"{value!r:.60}" if key in values else "missing"
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
