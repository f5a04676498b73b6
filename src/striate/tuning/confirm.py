"""Confirm the best trials of a search with fresh seeds.

The best of many noisy scores is too high by selection: some of its lead is luck of the seed and of
the validation images by which it was chosen. Seeds that took no part in the choice have no such
luck. (G. C. Cawley and N. L. C. Talbot, "On over-fitting in model selection and subsequent
selection bias in performance evaluation", Journal of Machine Learning Research 11 (2010).)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from striate.console import columns
from striate.data.json_csv import MISSING
from striate.pipeline import repeat
from striate.pipeline.repeat import Job, Setting
from striate.reporting import uncertainty
from striate.reporting.numbers import mean_interval, mean_sd, plural, points, points_range
from striate.reporting.uncertainty import Difference, Mean
from striate.tracking import records
from striate.tracking.records import Record
from striate.tuning.search_space import override, values_of
from striate.tuning.studies import SPACE, Row, base_params

if TYPE_CHECKING:
    import optuna

SEEDS = 5  # fresh ones of each trial


class Candidate(NamedTuple):
    """A trial to confirm.

    Attributes:
        row: of the table of trials.
        setting: its params, named as its experiment.
    """

    row: Row
    setting: Setting

    @property
    def seeds(self) -> list[int]:
        """The fresh seeds: the smallest ones without that of the search."""
        own = int(self.setting.params["seed"])
        return [seed for seed in range(SEEDS + 1) if seed != own][:SEEDS]


class Confirmed(NamedTuple):
    """A trial with the validation accuracies of those fresh seeds that have one."""

    row: Row
    scores: dict[int, float]  # by seed

    @property
    def mean(self) -> Mean | None:
        """Over the fresh seeds; None where all failed."""
        return uncertainty.summarize(list(self.scores.values())) if self.scores else None

    @property
    def is_whole(self) -> bool:
        """Whether no fresh seed failed."""
        return len(self.scores) == SEEDS


def candidates(study: optuna.Study, found: Sequence[Row], count: int) -> list[Candidate]:
    """The best complete trials, each with other params.

    Args:
        study: with its trials.
        found: what `studies.rows` gives.
        count: at most so many.
    """
    base, space = base_params(study), study.user_attrs[SPACE]
    trials = study.get_trials(deepcopy=False)
    by_params: dict[str, Candidate] = {}
    for row in found:
        if row.state == "complete":
            drawn = values_of(trials[row.number].params, space)
            candidate = Candidate(row, Setting(row.experiment, override(base, drawn)))
            by_params.setdefault(json.dumps(drawn, sort_keys=True), candidate)
    return list(by_params.values())[:count]


def missing(root: Path, chosen: Iterable[Candidate], found: Sequence[Record]) -> list[Job]:
    """The experiments of fresh seeds that do not exist yet, of all candidates.

    Args:
        root: the repository.
        chosen: the candidates.
        found: all experiments.
    """
    queue: list[Job] = []
    for candidate in chosen:
        scores = _scores(root, candidate, found)
        new = [seed for seed in candidate.seeds if seed not in scores]
        queue += repeat.jobs(root, candidate.setting, new)
    return queue


def results(root: Path, chosen: Iterable[Candidate], found: Sequence[Record]) -> list[Confirmed]:
    """What the fresh seeds say, best mean first.

    Trials with failed seeds come last: the mean of those that are left is too high by selection.
    The arguments are those of `missing`.
    """
    confirmed = [Confirmed(one.row, _scores(root, one, found)) for one in chosen]
    return sorted(confirmed, key=lambda one: (not one.is_whole, -one.mean.mean if one.mean else 0))


def _scores(root: Path, candidate: Candidate, found: Sequence[Record]) -> dict[int, float]:
    """The validation accuracy by fresh seed."""
    group = repeat.members(root, candidate.setting, found)
    by_seed = dict(zip(group.seeds, group.members, strict=True)) if group else {}
    return {
        seed: by_seed[seed].train[records.VALIDATION] for seed in candidate.seeds if seed in by_seed
    }


def table(confirmed: Sequence[Confirmed], finished: int) -> list[list[str]]:
    """The cells of a table of confirmed trials, headings first.

    Args:
        confirmed: the trials.
        finished: the number of trials from which they were chosen.
    """
    head = [
        "trial", "experiment",
        f"search: validation accuracy (1 seed, best of {finished:,})",
        f"confirmed: validation accuracy over {SEEDS} fresh seeds",
        "95% interval of the mean",
    ]  # fmt: skip
    return [head, *(_cells(one) for one in confirmed)]


def _cells(one: Confirmed) -> list[str]:
    mark = "" if one.is_whole else f" ({len(one.scores)} of {SEEDS} seeds)"
    means = [mean_sd(one.mean), mean_interval(one.mean)] if one.mean else [MISSING, MISSING]
    return [
        str(one.row.number), one.row.experiment, f"{one.row.accuracy:.2%}", means[0] + mark,
        means[1],
    ]  # fmt: skip


def text(confirmed: Sequence[Confirmed], finished: int, split_seed: int | str) -> str:
    """The confirmed trials for a terminal.

    Args:
        confirmed: what `results` gives.
        finished: the number of trials from which they were chosen.
        split_seed: `data.split_seed`.
    """
    sentences = [
        "The search's accuracy chose the trial, so it is too high by selection; report the"
        " confirmed one, whose seeds took no part in the choice."
    ]
    if split_seed != "auto":
        sentences.append(
            f"All seeds hold out the images by which the trials were chosen (data.split_seed"
            f" {split_seed}), so part of the selection stays in the confirmed accuracy."
        )
    if not all(one.is_whole for one in confirmed):
        sentences.append(
            f"Means over fewer than {SEEDS} seeds leave out seeds that failed. They may be too high"
            " and come last."
        )
    sentences += [_comparison(*pair) for pair in list(pairwise(confirmed))[:1]]
    return "\n\n".join([columns(table(confirmed, finished)), *filter(None, sentences)])


def difference(best: Confirmed, second: Confirmed) -> Difference | None:
    """The confirmed mean of the best trial minus that of the second; None with too few seeds."""
    if not second.scores or max(len(best.scores), len(second.scores)) < 2:
        return None
    # Two different scores are at least an image apart, so this is no less than the step of a score.
    ordered = sorted({*best.scores.values(), *second.scores.values()})
    step = min((high - low for low, high in pairwise(ordered)), default=0.0)
    return uncertainty.compare(second.scores, best.scores, step)


def _comparison(best: Confirmed, second: Confirmed) -> str:
    """Whether the seeds can tell the best two apart."""
    found = difference(best, second)
    if found is None:
        return ""
    seeds = plural(min(len(best.scores), len(second.scores)), "seed")
    names = best.row.experiment, second.row.experiment
    verdict = (
        f"{seeds} each cannot tell these two apart."
        if found.low <= 0 <= found.high
        else f"{names[0]} is better, and the choice of seeds does not explain it."
    )
    return (
        f"{names[0]} against {names[1]}: {points(found.value)} points, 95% interval"
        f" {points_range(found.low, found.high)} ({found.test} over seeds): {verdict}"
    )
