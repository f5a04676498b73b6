"""Accuracy against what it costs, for all experiments on one data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from striate.analysis import overview
from striate.data.json_csv import MISSING, finite
from striate.reporting.figures.trade_off import Panel
from striate.tracking import records
from striate.tracking.records import LeftOut, Record

ACCURACIES = {
    "validation accuracy": ("train", records.VALIDATION),
    "test accuracy": ("test", "accuracy"),
}


class Candidate(NamedTuple):
    """An experiment as a point of the plot.

    Attributes:
        name: of the experiment.
        label: the params that differ from other experiments'.
        accuracy: a fraction.
        parameters: of the network.
        seconds: of training; None where MLflow does not know, as after a replay.
        machine: where those seconds were measured, in words; empty where unknown.
    """

    name: str
    label: str
    accuracy: float
    parameters: int
    seconds: float | None
    machine: str = ""


def accuracy_of(found: Sequence[Record]) -> str:
    """The accuracy to compare experiments by: validation, or test where none has that."""
    some = any(finite(record.train.get(records.VALIDATION)) is not None for record in found)
    return "validation accuracy" if some else "test accuracy"


def comparable(found: Sequence[Record]) -> tuple[list[Record], list[LeftOut], str]:
    """The experiments on the data of the first one, which is HEAD's where HEAD has one.

    Returns:
        Those that have an accuracy and a size; the others, with the reason; and the accuracy to
        compare by, a key of ACCURACIES.
    """
    if not found:
        return [], [], "validation accuracy"
    first = found[0]
    here = [r for r in found if r.identity.get(records.DATA) == first.identity.get(records.DATA)]
    accuracy = accuracy_of(here)
    part, key = ACCURACIES[accuracy]
    kept, left_out = [], []
    for record in found:
        name = record.names[0].name
        if record.identity.get(records.DATA) != first.identity.get(records.DATA):
            left_out.append(LeftOut(name, f"other data than {first.names[0].name}"))
        elif finite(getattr(record, part).get(key)) is None:
            left_out.append(LeftOut(name, f"no {accuracy}"))
        elif not finite(record.train.get("parameters")):
            left_out.append(LeftOut(name, "no number of parameters"))
        else:
            kept.append(record)
    return kept, left_out, accuracy


def candidates(
    found: Sequence[Record], accuracy: str, timings: Sequence[tuple[float | None, str]]
) -> list[Candidate]:
    """The experiments as points.

    Args:
        found: the experiments.
        accuracy: a key of ACCURACIES.
        timings: what `sync.training_times` returns.
    """
    part, key = ACCURACIES[accuracy]
    keys = overview.varied(found)
    return [
        Candidate(
            record.names[0].name,
            ", ".join(f"{end}={record.params.get(k, MISSING)}" for k, end in keys.items()),
            float(getattr(record, part)[key]),
            int(record.train["parameters"]),
            seconds if seconds and seconds > 0 else None,
            machine,
        )
        for record, (seconds, machine) in zip(found, timings, strict=True)
    ]


def timed_on(found: Sequence[Candidate]) -> str:
    """The machine that most experiments were timed on; only its seconds are comparable."""
    machines = Counter(c.machine for c in found if c.seconds is not None and c.machine)
    return machines.most_common(1)[0][0] if machines else ""


def is_timed(candidate: Candidate, machine: str) -> bool:
    """Whether the seconds of an experiment were measured on this machine."""
    return candidate.seconds is not None and bool(machine) and candidate.machine == machine


def front(costs: Sequence[float | None], accuracies: Sequence[float]) -> list[int]:
    """The Pareto front: no other point is at least as cheap and more accurate, or the reverse.

    Args:
        costs: of each point; a point without a cost is never on the front.
        accuracies: of each point.

    Returns:
        Indices, cheapest first; all of several equal points.
    """
    known = [(cost, -accuracy, n) for n, (cost, accuracy) in
             enumerate(zip(costs, accuracies, strict=True)) if cost is not None]  # fmt: skip
    kept: list[tuple[float, float, int]] = []
    for point in sorted(known):
        if not kept or point[1] < kept[-1][1] or point[:2] == kept[-1][:2]:
            kept.append(point)
    return [n for *_, n in kept]


def table(found: Sequence[Candidate], accuracy: str) -> list[list[str]]:
    """A heading and a row for each experiment, most accurate first."""
    accuracies = [candidate.accuracy for candidate in found]
    machine = timed_on(found)
    times = [c.seconds if is_timed(c, machine) else None for c in found]
    fronts = {
        "size": set(front([candidate.parameters for candidate in found], accuracies)),
        "time": set(front(times, accuracies)),
    }
    rows = [["experiment", accuracy, "parameters", "seconds", "Pareto front", "differs in"]]
    for n in sorted(range(len(found)), key=lambda n: -accuracies[n]):
        name, label, value, parameters, seconds, _ = found[n]
        elsewhere = "" if is_timed(found[n], machine) else " *"
        rows.append(
            [
                name, f"{value:.2%}", f"{parameters:,}",
                MISSING if seconds is None else f"{seconds:.3g}{elsewhere}",
                ", ".join(what for what, indices in fronts.items() if n in indices),
                label,
            ]
        )  # fmt: skip
    return rows


def notes(found: Sequence[Candidate]) -> list[str]:
    """A note on seconds that were measured elsewhere, if any."""
    machine = timed_on(found)
    elsewhere = [c for c in found if c.seconds is not None and not is_timed(c, machine)]
    if not elsewhere:
        return []
    what = f"elsewhere than most ({machine})" if machine else "on an unknown machine"
    many = len(elsewhere) > 1
    return [
        f"* {len(elsewhere):,} {'were' if many else 'was'} timed {what}, so"
        f" {'they have' if many else 'it has'} no place in the Pareto front for time."
    ]


def panels(found: Sequence[Candidate]) -> dict[str, Panel]:
    """The panels of `trade_off`: size, and training time where it is known."""
    drawn = {}
    machine = timed_on(found)
    for name, key in (("parameters", "parameters"), ("seconds of training", "seconds")):
        known = [candidate for candidate in found if getattr(candidate, key) is not None]
        if not known:
            continue
        costs = [float(getattr(candidate, key)) for candidate in known]
        apart = [n for n, c in enumerate(known) if key == "seconds" and not is_timed(c, machine)]
        judged: list[float | None] = list(costs)
        for n in apart:
            judged[n] = None
        accuracies = [candidate.accuracy for candidate in known]
        labels = [candidate.label or candidate.name for candidate in known]
        drawn[name] = Panel(costs, accuracies, labels, front(judged, accuracies), apart)
    return drawn
