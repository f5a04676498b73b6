"""Accuracy against what it costs, for all experiments on one data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from striate import records
from striate.records import Record

ACCURACIES = {
    "validation accuracy": ("train", "val_accuracy"),
    "test accuracy": ("test", "accuracy"),
}


class Candidate(NamedTuple):
    """An experiment as a point of the picture.

    Attributes:
        name: what it is called.
        label: the params by which it differs from the others.
        accuracy: a fraction.
        parameters: the size of the network.
        seconds: of training; None where MLflow does not know, as after a replay.
    """

    name: str
    label: str
    accuracy: float
    parameters: int
    seconds: float | None


def on_the_same_data(found: Sequence[Record]) -> list[Record]:
    """The experiments on the data of the first one, which is that of HEAD."""
    data = found[0].identity[records.DATA] if found else None
    return [record for record in found if record.identity[records.DATA] == data]


def accuracy_of(found: Sequence[Record]) -> str:
    """Which accuracy all experiments have: that of validation, or else of the test images."""
    part, key = ACCURACIES["validation accuracy"]
    whole = all(key in getattr(record, part) for record in found)
    return "validation accuracy" if whole else "test accuracy"


def candidates(
    found: Sequence[Record], accuracy: str, seconds: Sequence[float | None]
) -> list[Candidate]:
    """The experiments as points.

    Args:
        found: the experiments.
        accuracy: a key of ACCURACIES.
        seconds: of each one's training, or None.
    """
    part, key = ACCURACIES[accuracy]
    keys = dict.fromkeys(key for record in found for key in record.params)
    varied = [k for k in keys if len({str(record.params.get(k)) for record in found}) > 1]
    return [
        Candidate(
            record.names[0].name,
            ", ".join(f"{k.rpartition('.')[2]}={record.params.get(k, '–')}" for k in varied),
            float(getattr(record, part)[key]),
            int(record.train["parameters"]),
            time,
        )
        for record, time in zip(found, seconds, strict=True)
    ]


def front(costs: Sequence[float | None], accuracies: Sequence[float]) -> list[int]:
    """The points that no other beats: none is both cheaper, or as cheap, and more accurate.

    Args:
        costs: of each point; one without a cost is never in front.
        accuracies: of each point.

    Returns:
        Their indices, cheapest first. Of equal points, all.
    """
    known = [(cost, -accuracy, n) for n, (cost, accuracy) in
             enumerate(zip(costs, accuracies, strict=True)) if cost is not None]  # fmt: skip
    kept: list[tuple[float, float, int]] = []
    for point in sorted(known):
        if not kept or point[1] < kept[-1][1] or point[:2] == kept[-1][:2]:
            kept.append(point)
    return [n for *_, n in kept]


def table(found: Sequence[Candidate], accuracy: str) -> list[list[str]]:
    """Rows for a terminal, most accurate first, under a heading."""
    accuracies = [candidate.accuracy for candidate in found]
    fronts = {
        "size": front([candidate.parameters for candidate in found], accuracies),
        "time": front([candidate.seconds for candidate in found], accuracies),
    }
    rows = [["experiment", accuracy, "parameters", "seconds", "best for its", "differs in"]]
    for n in sorted(range(len(found)), key=lambda n: -accuracies[n]):
        name, label, value, parameters, seconds = found[n]
        rows.append(
            [
                name, f"{value:.2%}", f"{parameters:,}",
                "–" if seconds is None else f"{seconds:.3g}",
                ", ".join(what for what, indices in fronts.items() if n in indices),
                label,
            ]
        )  # fmt: skip
    return rows


def panels(
    found: Sequence[Candidate],
) -> dict[str, tuple[list[float], list[float], list[str], list[int]]]:
    """The panels of `figures.trade_off`: size, and time where it is known."""
    drawn = {}
    for name, key in (("parameters", "parameters"), ("seconds of training", "seconds")):
        known = [candidate for candidate in found if getattr(candidate, key) is not None]
        if known:
            costs = [float(getattr(candidate, key)) for candidate in known]
            accuracies = [candidate.accuracy for candidate in known]
            labels = [candidate.label or candidate.name for candidate in known]
            drawn[name] = (costs, accuracies, labels, front(costs, accuracies))
    return drawn
