"""What each setting of a recipe buys: the accuracy that is lost when it is taken back alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

from striate.analysis import ladder, pareto
from striate.analysis.pareto import Candidate
from striate.config.ablation import ARCH, EVERYTHING, OPTIMIZER, Change
from striate.data.json_csv import MISSING
from striate.models.configs import as_yaml
from striate.pipeline.several import Measured
from striate.reporting import uncertainty
from striate.reporting.figures.waterfall import Bar
from striate.reporting.numbers import mean_sd, plural, points, points_range
from striate.reporting.seeds import ACCURACIES
from striate.reporting.uncertainty import LEVEL, Difference
from striate.tracking.times import Timing

SCORE = ACCURACIES["test accuracy"]
HEAD = ["taken back", "from", "to", "seeds", "test accuracy", "difference", "95% interval", "p",
        "seconds"]  # fmt: skip
ALL_BACK = "everything, as params.yaml has it"
NO_TRAINING = "no training came to an end"
TOO_FEW = "fewer than two seeds in common with the recipe"
JOINED = {ARCH: "arch and its keys", OPTIMIZER: "optimizer and its rates"}


class Row(NamedTuple):
    """A change of a recipe, measured.

    Attributes:
        change: what is taken back; None for the recipe itself.
        measured: the experiments.
        candidate: their means; None where there is no experiment.
        difference: of the test accuracy from the recipe's over equal seeds, with Holm's p for
            all differences; None where fewer than two seeds have both.
    """

    change: Change | None
    measured: Measured
    candidate: Candidate | None
    difference: Difference | None


def rows(
    changes: Sequence[Change], found: Sequence[Measured], timings: Mapping[str, Timing]
) -> list[Row]:
    """The recipe, then the changes, largest loss first.

    Those without any experiment come before all others, and those whose difference is not known
    come last.

    Args:
        changes: those of the plan.
        found: the experiments of the recipe, and of each change.
        timings: seconds of training, by the record's key.
    """
    means = iter(ladder.candidates_of(found, timings))
    candidates = [next(means) if one.by_seed else None for one in found]
    base = found[0]
    differences = [_difference(base, one) for one in found[1:]]
    adjusted = iter(uncertainty.holm([one.p for one in differences if one]))
    differences = [one and one._replace(p=next(adjusted)) for one in differences]
    changed = [
        Row(*row) for row in zip(changes, found[1:], candidates[1:], differences, strict=True)
    ]
    changed.sort(key=_place)
    return [Row(None, base, candidates[0], None), *changed]


def _place(row: Row) -> float:
    """By which rows are sorted."""
    if row.candidate is None:
        return -inf
    return row.difference.value if row.difference else inf


def _difference(base: Measured, changed: Measured) -> Difference | None:
    first, second = base.scores(*SCORE), changed.scores(*SCORE)
    common = [seed for seed in first if seed in second]
    if len(common) < 2:
        return None
    images = next(iter(base.by_seed.values())).test.get("n")
    unit = 1 / images if images else 0.0
    return uncertainty.compare(
        {seed: first[seed] for seed in common}, {seed: second[seed] for seed in common}, unit
    )


def table(found: Sequence[Row]) -> list[list[str]]:
    """A heading, a row for the recipe and one for each change."""
    machine = pareto.timed_on([row.candidate for row in found if row.candidate])
    return [HEAD, *(_cells(row, machine) for row in found)]


def _cells(row: Row, machine: str) -> list[str]:
    names = ["nothing", "", ""] if row.change is None else [*_names(row.change)]
    one, gain = row.candidate, row.difference
    if one is None:
        return [*names, "0", "failed", MISSING, MISSING, MISSING, MISSING]
    difference = [MISSING, MISSING, MISSING]
    if row.change is None:
        difference = ["", "", ""]
    elif gain is not None:
        difference = [points(gain.value), points_range(gain.low, gain.high), f"{gain.p:.2g}"]
    seconds = ladder.shown_seconds(one, machine)
    return [*names, f"{one.accuracy.n}", mean_sd(one.accuracy), *difference, seconds]


def _names(change: Change) -> tuple[str, str, str]:
    """What is taken back, from what and to what."""
    if change.key == EVERYTHING:
        return ALL_BACK, "", ""
    keys = [*change.after]
    if len(keys) > 1 and change.key in JOINED:
        name, keys = JOINED[change.key], keys[:1]
    else:
        name = " and ".join(key.rpartition(".")[2] for key in keys)
    texts = (
        ", ".join(as_yaml(side[key]) for key in keys) for side in (change.before, change.after)
    )
    return (name, *texts)  # type: ignore[return-value]


def in_words(change: Change) -> str:
    """A change in a line, with all its keys."""
    if change.key == EVERYTHING:
        return ALL_BACK
    return ", ".join(
        f"{key} {as_yaml(change.before[key])} → {as_yaml(value)}"
        for key, value in change.after.items()
    )


def notes(found: Sequence[Row], skipped: Mapping[str, str]) -> list[str]:
    """What the numbers are, what failed, and what could not be taken back."""
    compared = sum(row.difference is not None for row in found)
    holm = f", p by Holm for {plural(compared, 'comparison')}" if compared > 1 else ""
    lines = [
        "Differences are in points of test accuracy, from the recipe's with equal seeds (paired"
        f" t-test{holm}; each interval alone holds the truth in {1 - LEVEL:.0%} of cases). Settings"
        f" work together: the losses need not add up. In the picture, what has p < {LEVEL:g} is"
        " coloured."
    ]
    lines += ladder.notes([row.candidate for row in found if row.candidate])
    for row in found:
        if row.measured.reasons:
            name, _, after = _names(row.change) if row.change else ("nothing taken back", "", "")
            what = f"{name} {after}".strip()
            lines.append(f"With {what}, trainings failed: {'; '.join(row.measured.reasons)}.")
    lines += [f"{key} cannot be taken back alone: {why}." for key, why in skipped.items()]
    return lines


def bars(found: Sequence[Row]) -> list[Bar]:
    """What the picture shows of the changes, everything at last."""
    changed = [row for row in found if row.change]
    changed.sort(key=lambda row: row.change is not None and row.change.key == EVERYTHING)
    drawn = []
    for row in changed:
        assert row.change  # noqa: S101
        name, before, after = _names(row.change)
        label = f"{name}: {before} → {after}" if before else name
        gain = row.difference
        if gain:
            drawn.append(Bar(label, -gain.value, (-gain.high, -gain.low), gain.p < LEVEL))
        else:
            why = TOO_FEW if row.candidate else NO_TRAINING
            drawn.append(Bar(label, None, None, unknown=why))
    return drawn
