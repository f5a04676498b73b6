"""metrics/seeds.csv: the scores of the setting in the workspace, a row for each seed.

`striate repeat` writes it and Git keeps it, so that `striate gate` can compare two settings over
their seeds. It may be older than the other results: it counts as long as its row of the
workspace's seed holds exactly their scores.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from striate.data import files
from striate.errors import UserError, one_line
from striate.reporting import uncertainty
from striate.reporting.uncertainty import Mean

FILE = "metrics/seeds.csv"
SEED = "seed"

Row = dict[str, float]  # the seed, and each metric under `column`


def column(part: str, metric: str) -> str:
    """The column of a metric of metrics/train.json or metrics/test.json: as MLflow calls it.

    Args:
        part: `train` or `test`.
        metric: its key there.
    """
    return f"test_{metric}" if part == "test" else metric


ACCURACIES = {  # those of which tables and pages show the mean: part and metric, by name
    "validation accuracy": ("train", "val_accuracy"),
    "test accuracy": ("test", "accuracy"),
}


def row(seed: int, train: Mapping[str, float], test: Mapping[str, float]) -> Row:
    """The row of one experiment, from what its metrics files hold."""
    values: Row = {SEED: seed}
    for part, metrics in (("train", train), ("test", test)):
        values |= {column(part, metric): value for metric, value in metrics.items()}
    return values


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, ordered by seed; a metric that only some of them have is left out."""
    names = [name for name in rows[0] if all(name in one for one in rows)] if rows else [SEED]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for one in sorted(rows, key=lambda one: one[SEED]):
        whole = {name: int(value) for name, value in one.items() if float(value).is_integer()}
        writer.writerow(one | whole)
    files.write(path, stream.getvalue().encode())


def parse(text: str, name: str) -> list[Row]:
    """The rows in the text of such a file; `name` is for messages.

    Raises:
        UserError: it is no table of finite numbers, has no column `seed`, or a seed twice.
    """
    try:
        header, *lines = list(csv.reader(io.StringIO(text))) or [[]]
        rows = [
            {column: _finite(value) for column, value in zip(header, line, strict=True)}
            for line in lines
        ]
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{name} is not a table of numbers: {one_line(error)}; `striate repeat` writes it anew"
        ) from None
    if (header or rows) and SEED not in header:
        raise UserError(f"{name} has no column {SEED}; `striate repeat` writes it anew")
    if len({one[SEED] for one in rows}) < len(rows):
        raise UserError(f"{name} has two rows of one seed; `striate repeat` writes it anew")
    return rows


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def read(path: Path) -> list[Row]:
    """The rows of a file; none where it is missing.

    Raises:
        UserError: see `parse`.
    """
    if not path.exists():
        return []
    return parse(path.read_text(encoding="utf-8", errors="replace"), str(path))


def of_results(rows: Sequence[Row], own: Row) -> list[Row]:
    """The rows, if they are of the setting that the results in the workspace are of.

    Args:
        rows: of the file.
        own: what `row` gives for the results in the workspace.

    Returns:
        All rows if that of the same seed has the same scores, else none.
    """
    same = [one for one in rows if one[SEED] == own[SEED]]
    equal = bool(same) and all(own.get(name) == value for name, value in same[0].items())
    return list(rows) if equal else []


def means(rows: Sequence[Row]) -> dict[str, Mean]:
    """The means of ACCURACIES that all rows have, by name; nothing for fewer than two rows."""
    columns = {name: column(*metric) for name, metric in ACCURACIES.items()}
    return {
        name: uncertainty.summarize([one[key] for one in rows])
        for name, key in columns.items()
        if len(rows) > 1 and all(key in one for one in rows)
    }
