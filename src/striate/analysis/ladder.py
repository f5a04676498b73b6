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
from striate.reporting.numbers import mean_interval, mean_sd, plural
from striate.reporting.seeds import ACCURACIES
from striate.tracking.groups import Group
from striate.tracking.times import Timing

SCORE = "test accuracy"
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
    return [HEAD, *(_cells(step) for step in found)]


def _cells(step: Step) -> list[str]:
    head = [str(step.rung.year), step.rung.name]
    one = step.candidate
    if one is None:
        return [*head, "0", "failed", MISSING, MISSING, MISSING]
    return [
        *head, f"{one.accuracy.n}", mean_sd(one.accuracy), mean_interval(one.accuracy),
        f"{one.parameters:,}", shown_seconds(one),
    ]  # fmt: skip


def shown_seconds(one: Candidate) -> str:
    """The seconds of training, in three digits at most."""
    if one.seconds is None:
        return MISSING
    return f"{one.seconds:.3g}" if one.seconds < 100 else f"{one.seconds:,.0f}"


def notes(found: Sequence[Candidate]) -> list[str]:
    """What the seconds are."""
    machines = sorted({one.machine for one in found if one.seconds is not None and one.machine})
    if not machines:
        return []
    return [f"Seconds of training are medians over the seeds, timed on {'; '.join(machines)}."]


def page(found: Sequence[Step], data: str, picture: str) -> str:
    """The ladder as a page of Markdown.

    Args:
        found: the rungs.
        data: the data set.
        picture: the name of the picture beside the page.
    """
    heads = ["year", "network", "recipe", SCORE, "parameters", "seconds"]
    rows = ["| " + " | ".join(heads) + " |", "|--:|---|---|--:|--:|--:|"]
    for step in found:
        year, name, _, score, _, parameters, seconds = _cells(step)
        cells = [year, f"[{name}]({step.rung.paper})", f"`{step.recipe}`", score, parameters,
                 seconds]  # fmt: skip
        rows.append("| " + " | ".join(cells) + " |")
    counts = [one.candidate.accuracy.n for one in found if one.candidate]
    seeds = plural(max(counts, default=0), "seed")
    measured = notes([one.candidate for one in found if one.candidate])
    return "\n\n".join(
        [
            f"# The ladder of networks on {data}",
            "\n".join(rows),
            f"![{alt(data)}]({picture})",
            " ".join([f"Means ± standard deviation over {seeds} on the test images.", *measured]),
            f"`striate ladder {data} --seeds {max(counts, default=0)}` makes this page.\n",
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
    return [
        Point(
            f"{step.rung.year}  {step.rung.name}",
            list(step.measured.scores(*ACCURACIES[SCORE]).values()),
            step.candidate.accuracy,
            step.candidate.parameters,
            step.candidate.seconds,
        )
        for step in found
        if step.candidate
    ]
