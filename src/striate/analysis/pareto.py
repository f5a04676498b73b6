"""Accuracy against what it costs, for all groups of experiments on one data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from striate.analysis import overview
from striate.data.json_csv import MISSING, finite
from striate.reporting.figures.trade_off import Panel
from striate.reporting.numbers import mean_sd
from striate.reporting.seeds import ACCURACIES
from striate.reporting.uncertainty import Mean, summarize
from striate.tracking import records, times
from striate.tracking.groups import Group
from striate.tracking.records import LeftOut, Record
from striate.tracking.times import Timing


class Candidate(NamedTuple):
    """A group of experiments as a point of the plot.

    Attributes:
        name: of the group.
        label: the params that differ from other groups'.
        accuracy: fractions, over the seeds.
        parameters: of the network.
        seconds: of training, the median over the seeds that were timed on `machine`; None where
            MLflow does not know, as after a replay.
        machine: where those seconds were measured, in words; empty where unknown.
    """

    name: str
    label: str
    accuracy: Mean
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
    found: Sequence[Group], accuracy: str, timings: Mapping[str, Timing]
) -> list[Candidate]:
    """The groups as points.

    Args:
        found: the groups of experiments that `comparable` keeps.
        accuracy: a key of ACCURACIES.
        timings: what `sync.training_times` returns, by the record's key.
    """
    keys = overview.varied(found)
    return [
        Candidate(
            group.name,
            ", ".join(f"{end}={overview.param(group, key)}" for key, end in keys.items()),
            summarize(group.scores(*ACCURACIES[accuracy])),
            int(group.members[0].train["parameters"]),
            *timing,
        )
        for group, timing in zip(found, times.by_group(found, timings), strict=True)
    ]


def timed_on(found: Sequence[Candidate]) -> str:
    """The machine that most groups were timed on; only its seconds are comparable."""
    machines = Counter(c.machine for c in found if c.seconds is not None and c.machine)
    return machines.most_common(1)[0][0] if machines else ""


def is_timed(candidate: Candidate, machine: str) -> bool:
    """Whether the seconds of a group were measured on this machine."""
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
    """A heading and a row for each group, highest mean accuracy first."""
    accuracies = [candidate.accuracy.mean for candidate in found]
    machine = timed_on(found)
    times = [c.seconds if is_timed(c, machine) else None for c in found]
    fronts = {
        "size": set(front([candidate.parameters for candidate in found], accuracies)),
        "time": set(front(times, accuracies)),
    }
    rows = [
        ["experiment", "seeds", accuracy, "parameters", "seconds", "Pareto front", "differs in"]
    ]
    for n in sorted(range(len(found)), key=lambda n: -accuracies[n]):
        name, label, value, parameters, seconds, _ = found[n]
        elsewhere = "" if is_timed(found[n], machine) else " *"
        rows.append(
            [
                name, f"{value.n:,}", mean_sd(value), f"{parameters:,}",
                MISSING if seconds is None else f"{seconds:.3g}{elsewhere}",
                ", ".join(what for what, indices in fronts.items() if n in indices),
                label,
            ]
        )  # fmt: skip
    return rows


def notes(found: Sequence[Candidate]) -> list[str]:
    """What the seconds are, where they are medians or were measured elsewhere."""
    machine = timed_on(found)
    lines = []
    if any(c.accuracy.n > 1 and is_timed(c, machine) for c in found):
        lines.append(f"Seconds are medians over the seeds that were timed on {machine}.")
    elsewhere = [c for c in found if c.seconds is not None and not is_timed(c, machine)]
    if elsewhere:
        what = f"elsewhere than most ({machine})" if machine else "on an unknown machine"
        many = len(elsewhere) > 1
        lines.append(
            f"* {len(elsewhere):,} {'were' if many else 'was'} timed {what}, so"
            f" {'they have' if many else 'it has'} no place in the Pareto front for time."
        )
    return lines


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
        labels = [candidate.label or candidate.name for candidate in known]
        means = [candidate.accuracy for candidate in known]
        accuracies = [mean.mean for mean in means]
        drawn[name] = Panel(
            costs,
            accuracies,
            # Groups of different code may have equal params.
            [
                f"{label} ({c.name})" if labels.count(label) > 1 else label
                for label, c in zip(labels, known, strict=True)
            ],
            front(judged, accuracies),
            apart,
            [None if m.low is None or m.high is None else (m.low, m.high) for m in means],
        )
    return drawn
