"""All experiments as a table: their params and accuracies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from striate.data.json_csv import MISSING, finite
from striate.tracking import records
from striate.tracking.records import Record


def varied(found: Sequence[Record]) -> dict[str, str]:
    """The params that differ: key → its last part, or all of it where others end alike."""
    values: dict[str, set[str]] = {}
    counts: Counter[str] = Counter()
    for record in found:
        for key, value in record.params.items():
            values.setdefault(key, set()).add(str(value))
            counts[key] += 1
    ends = Counter(key.rpartition(".")[2] for key in values)
    return {
        key: end if ends[end := key.rpartition(".")[2]] == 1 else key
        for key in values
        if len(values[key]) > 1 or counts[key] < len(found)
    }


def table(found: Sequence[Record], here: Record | None) -> list[list[str]]:
    """A heading and a row for each experiment, best validation accuracy first.

    Experiments on one data set stand together; the first experiment's data set comes first.

    Args:
        found: all experiments.
        here: the one in the working tree, if any.
    """
    keys = varied(found)
    data = list(dict.fromkeys(record.identity.get(records.DATA) for record in found))
    rank = {name: n for n, name in enumerate(data)}

    def order(record: Record) -> tuple[int, float]:
        accuracy = finite(record.train.get(records.VALIDATION))
        return rank[record.identity.get(records.DATA)], 1.0 if accuracy is None else -accuracy

    heading = ["experiment", "validation accuracy", "test accuracy", "test errors", "parameters"]
    rows = [[*heading, *keys.values()]]
    for record in sorted(found, key=order):
        names = list(dict.fromkeys(name.name for name in record.names))
        if record is here and records.WORKSPACE not in names:
            names.append(records.WORKSPACE)
        errors, n = finite(record.test.get("errors")), finite(record.test.get("n"))
        rows.append(
            [
                ", ".join(names),
                _percent(finite(record.train.get(records.VALIDATION))),
                _percent(finite(record.test.get("accuracy"))),
                MISSING if errors is None or n is None else f"{errors:,} of {n:,}",
                _count(finite(record.train.get("parameters"))),
                *(str(record.params.get(key, MISSING)) for key in keys),
            ]
        )
    return rows


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2%}"


def _count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,}"


def notes(found: Sequence[Record]) -> list[str]:
    """Warnings for whoever chooses among experiments."""
    lines = []
    validated = [
        record for record in found if finite(record.train.get(records.VALIDATION)) is not None
    ]
    if len(validated) > 1:
        lines.append(
            "Choose by validation accuracy: the highest of several test accuracies is partly luck."
        )
    keys = validation_sets_differ(validated)
    if keys:
        lines.append(
            f"Validation sets differ ({' and '.join(keys)}): small differences in validation"
            " accuracy may come from that."
        )
    return lines


def validation_sets_differ(found: Sequence[Record]) -> list[str]:
    """The params that gave experiments on one data set different validation sets."""
    by_data: dict[str | None, list[dict[str, Any]]] = {}
    for record in found:
        splits = by_data.setdefault(record.identity.get(records.DATA), [])
        splits.append(records.validation_split(record.params))
    return [
        key
        for key in ("seed", "data.val_size")
        if any(len({str(split[key]) for split in splits}) > 1 for splits in by_data.values())
    ]
