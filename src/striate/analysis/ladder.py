"""The rungs of the ladder, measured: a table, a page with it, and every seed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from striate.analysis import pareto
from striate.analysis.pareto import Candidate
from striate.config.recipes import Rung
from striate.data.json_csv import MISSING
from striate.pipeline.several import Measured
from striate.reporting.figures.ladder import Point
from striate.reporting.numbers import mean_interval, mean_sd
from striate.reporting.seeds import ACCURACIES
from striate.tracking.groups import Group
from striate.tracking.times import Timing

SCORE = "test accuracy"
UNKNOWN = "an unknown machine"
HEAD = ["year", "network", "seeds", SCORE, "95% interval", "parameters", "seconds"]


class Step(NamedTuple):
    """A rung with its experiments.

    Attributes:
        recipe: its name.
        rung: what it stands for.
        measured: the experiments.
        candidate: their means; None where there is no experiment.
    """

    recipe: str
    rung: Rung
    measured: Measured
    candidate: Candidate | None


def steps(
    rungs: Mapping[str, Rung], found: Sequence[Measured], timings: Mapping[str, Timing]
) -> list[Step]:
    """The rungs with their means.

    Args:
        rungs: by recipe, in the order of the years.
        found: the experiments of each.
        timings: seconds of training, by the record's key.
    """
    candidates = iter(candidates_of(found, timings))
    return [
        Step(name, rung, one, next(candidates) if one.by_seed else None)
        for (name, rung), one in zip(rungs.items(), found, strict=True)
    ]


def candidates_of(found: Sequence[Measured], timings: Mapping[str, Timing]) -> list[Candidate]:
    """The means of all settings that have an experiment."""
    groups = [Group(one.setting.name, [*one.by_seed.values()], []) for one in found if one.by_seed]
    return pareto.candidates(groups, SCORE, timings)


def table(found: Sequence[Step]) -> list[list[str]]:
    """A heading and a row for each rung."""
    machine = pareto.timed_on(_candidates(found))
    return [HEAD, *(_cells(step, machine) for step in found)]


def _candidates(found: Sequence[Step]) -> list[Candidate]:
    return [step.candidate for step in found if step.candidate]


def _cells(step: Step, machine: str) -> list[str]:
    head = [str(step.rung.year), step.rung.name]
    one = step.candidate
    if one is None:
        return [*head, "0", "failed", MISSING, MISSING, MISSING]
    return [
        *head, f"{one.accuracy.n}", mean_sd(one.accuracy), mean_interval(one.accuracy),
        f"{one.parameters:,}", shown_seconds(one, machine),
    ]  # fmt: skip


def shown_seconds(one: Candidate, machine: str) -> str:
    """The seconds of training, in three digits at most, with a star if of another machine."""
    if one.seconds is None:
        return MISSING
    shown = f"{one.seconds:.3g}" if one.seconds < 100 else f"{one.seconds:,.0f}"
    return shown if pareto.is_timed(one, machine) else f"{shown} *"


def notes(found: Sequence[Candidate]) -> list[str]:
    """What the seconds are, and where those with a star were measured."""
    timed = [one for one in found if one.seconds is not None]
    if not timed:
        return []
    machine = pareto.timed_on(timed)
    where = f", timed on {machine}" if machine else ""
    lines = [f"Seconds of training are medians over the seeds{where}."]
    others = {one.machine or UNKNOWN for one in timed if not pareto.is_timed(one, machine)}
    if others:
        lines.append(f"Those with * were timed on {'; '.join(sorted(others))}.")
    return lines


def page(found: Sequence[Step], data: str, picture: str, command: str) -> str:
    """The ladder as a page of Markdown.

    Args:
        found: the rungs.
        data: the data set.
        picture: the name of the picture beside the page.
        command: makes the page again.
    """
    heads = ["year", "network", "recipe", "seeds", SCORE, "parameters", "seconds"]
    rows = ["| " + " | ".join(heads) + " |", "|--:|---|---|--:|--:|--:|--:|"]
    machine = pareto.timed_on(_candidates(found))
    for step in found:
        year, name, count, score, _, parameters, seconds = _cells(step, machine)
        cells = [year, f"[{name}]({step.rung.paper})", f"`{step.recipe}`", count, score,
                 parameters, seconds.replace("*", r"\*")]  # fmt: skip
        rows.append("| " + " | ".join(cells) + " |")
    measured = [one.replace("*", r"\*") for one in notes(_candidates(found))]
    return "\n\n".join(
        [
            f"# The ladder of networks on {data}",
            "\n".join(rows),
            f"![{alt(data)}]({picture})",
            " ".join(["Means ± standard deviation over the seeds on the test images.", *measured]),
            f"`{command}` makes this page.\n",
        ]
    )


def alt(data: str) -> str:
    """The picture in words."""
    return (
        f"Test accuracy on {data}, parameters and seconds of training of networks in the order of"
        " their years"
    )


def seeds(found: Sequence[Step], timings: Mapping[str, Timing]) -> str:
    """Every seed of every rung, as CSV."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [name.replace(" ", "_") for name in ACCURACIES]
    writer.writerow(["year", "recipe", "seed", *names, "parameters", "seconds"])
    for step in found:
        for seed, record in step.measured.by_seed.items():
            scores = [getattr(record, part).get(key, "") for part, key in ACCURACIES.values()]
            seconds = timings.get(record.key, (None, ""))[0]
            shown = "" if seconds is None else f"{seconds:.3f}"
            size = record.train.get("parameters", "")
            writer.writerow([step.rung.year, step.recipe, seed, *scores, size, shown])
    return stream.getvalue()


def points(found: Sequence[Step]) -> list[Point]:
    """What the picture shows: rungs that have an experiment."""
    machine = pareto.timed_on(_candidates(found))
    return [
        Point(
            f"{step.rung.year}  {step.rung.name}",
            list(step.measured.scores(*ACCURACIES[SCORE]).values()),
            step.candidate.accuracy,
            step.candidate.parameters,
            step.candidate.seconds,
            step.candidate.seconds is not None and not pareto.is_timed(step.candidate, machine),
        )
        for step in found
        if step.candidate
    ]
