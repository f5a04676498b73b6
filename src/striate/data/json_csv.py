"""Read and write JSON objects and CSV tables; writes are atomic, floats keep every digit."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from striate.data import files
from striate.errors import UserError, one_line

MISSING = "–"  # how a value that is not there is shown
REQUIRED = {  # what a result must hold to be of use; any other metric may be missing
    "train.json": ("train_loss", "train_accuracy", "epochs", "parameters"),
    "test.json": ("accuracy", "n"),
}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a flat JSON object, one key per line."""
    files.write(path, (json.dumps(values, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is missing, or is not a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is not there; `dvc repro` makes it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None
    return parse_json(text, str(path))


def parse_json(text: str, name: str) -> dict[str, Any]:
    """Parse a JSON object; `name` is for messages.

    Raises:
        UserError: it is not a JSON object.
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
                f"{name}: {key} is {shown}; it must be a number, and `dvc repro` recreates it"
            )
    return values


def finite(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer too large for a float
        return None


def write_table(
    path: Path, rows: list[dict[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Write rows with the same keys as CSV with a header.

    Args:
        path: of the file.
        rows: by column.
        columns: their order, and the header where there is no row; those of the first row.
    """
    stream = io.StringIO()
    columns = columns or [*(rows[0] if rows else ())]
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write(path, stream.getvalue().encode())


def read_table(path: Path) -> dict[str, list[float]]:
    """Read a CSV of numbers; returns the values of each column by its name.

    Raises:
        UserError: the file is missing, or is not such a table.
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
    """Read metrics/history.csv: the column `epoch`, and one for each metric.

    Raises:
        UserError: the file is missing, or is not such a table.
    """
    history = read_table(path)
    if not history.get("epoch"):
        raise UserError(f"{path} has no column epoch; `dvc repro` recreates it")
    return history
