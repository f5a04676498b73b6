"""Several settings on one data set, each with the same seeds: what is there, what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from striate.errors import UserError
from striate.pipeline import repeat
from striate.pipeline.repeat import Failure, Job, Setting
from striate.tracking import records
from striate.tracking.records import Record

Run = Callable[[Sequence[Job]], list[Failure]]


class Measured(NamedTuple):
    """What there is of a setting.

    Attributes:
        setting: the params.
        by_seed: the experiment of each seed that has one.
        reasons: why the others failed, each reason once.
    """

    setting: Setting
    by_seed: dict[int, Record]
    reasons: list[str]

    def scores(self, part: str, metric: str) -> dict[int, float]:
        """A metric by seed; `part` is `train` or `test`."""
        found = {seed: getattr(one, part).get(metric) for seed, one in self.by_seed.items()}
        return {seed: value for seed, value in found.items() if value is not None}


def missing(
    root: Path, settings: Sequence[Setting], seeds: Sequence[int], found: Sequence[Record]
) -> list[Job]:
    """The experiments to run, the first seed of all settings first.

    Settings of equal params share theirs.

    Args:
        root: the repository.
        settings: with names of their own.
        seeds: of each.
        found: all experiments.
    """
    distinct: dict[str, Setting] = {}
    for one in settings:
        distinct.setdefault(_key(one), one)
    have = [_by_seed(root, one, seeds, found) for one in distinct.values()]
    return [
        job
        for seed in seeds
        for one, own in zip(distinct.values(), have, strict=True)
        if seed not in own
        for job in repeat.jobs(root, one, [seed])
    ]


def run_all(queue: Sequence[Job], found: Sequence[Record], run: Run) -> list[tuple[Job, str]]:
    """Run experiments; the first alone if none is there of its data, which it then fetches.

    Args:
        queue: what `missing` gives.
        found: all experiments.
        run: runs some side by side.

    Returns:
        Those that failed, each with the reason.

    Raises:
        UserError: the first one failed, alone.
    """
    failures: list[Failure] = []
    rest = list(queue)
    if rest and not _has_data(rest[0], found):
        failures = run(rest[:1])
        if failures:
            raise UserError(f"{failures[0].name} failed: {failures[0].reason}")
        rest = rest[1:]
    if rest:
        failures = run(rest)
    by_name = {job.name: job for job in queue}
    return [(by_name[failure.name], failure.reason) for failure in failures]


def _has_data(job: Job, found: Sequence[Record]) -> bool:
    data = job.setting.params["data"]
    return any(
        record.params.get("data.name") == data["name"]
        and (data["name"] != "folder" or record.params.get("data.path") == data["path"])
        for record in found
    )


def measured(
    root: Path,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    failures: Sequence[tuple[Job, str]],
) -> list[Measured]:
    """What there is of each setting.

    Args:
        root: the repository.
        settings: those of `missing`.
        seeds: likewise.
        failures: what `run_all` gives.
    """
    found = records.find(root).records
    reasons: Mapping[str, dict[str, None]] = {_key(one): {} for one in settings}
    for job, reason in failures:
        reasons[_key(job.setting)][reason] = None
    return [
        Measured(one, _by_seed(root, one, seeds, found), list(reasons[_key(one)]))
        for one in settings
    ]


def _by_seed(
    root: Path, setting: Setting, seeds: Sequence[int], found: Sequence[Record]
) -> dict[int, Record]:
    group = repeat.members(root, setting, found)
    own = dict(zip(group.seeds, group.members, strict=True)) if group else {}
    return {seed: own[seed] for seed in seeds if seed in own}


def _key(setting: Setting) -> str:
    """Equal for two settings of equal params."""
    return json.dumps(setting.flat, sort_keys=True)
