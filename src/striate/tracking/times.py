"""When and for how long experiments were trained, and on what.

DVC's files hold nothing of it, so that equal trainings have equal bytes. It comes from what the
trainings say as they run, from MLflow, and from a note that each leaves in `.dvc/tmp/`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from striate.data import files
from striate.tracking import records
from striate.tracking.groups import Group
from striate.tracking.records import Record

Timing = tuple[float | None, str]  # seconds of training, if known, and on what, in words
TRAINING = (records.PARAMS, records.DATA, records.CHECKPOINT)
SECONDS = "training_seconds"  # the metric of a run
NOTES = Path(".dvc/tmp/striate-times")  # a file for each training; safe to delete


class Clocked(NamedTuple):
    """When a training took place on this machine, which a run is given that is made later.

    Attributes:
        start: of its last attempt, in seconds since the epoch.
        end: when its results were written, in seconds since the epoch.
        seconds: of all attempts.
        machine: tags that describe where.
    """

    start: float
    end: float
    seconds: float
    machine: dict[str, str]


def note(root: Path, identity: Mapping[str, str], clocked: Clocked) -> None:
    """Keep the times of a training, for runs that are made after MLflow's database is gone.

    Raises:
        OSError: the disk is full, or the folder is not writable.
    """
    files.write(_note_path(root, identity), json.dumps(clocked._asdict()).encode())


def noted(root: Path, identity: Mapping[str, str]) -> Clocked | None:
    """The times of a training that took place here; None of another machine's."""
    try:
        return Clocked(**json.loads(_note_path(root, identity).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _note_path(root: Path, identity: Mapping[str, str]) -> Path:
    name = records.hash_values({tag: identity[tag] for tag in TRAINING})
    return root / NOTES / f"{name}.json"


class Heard:
    """The times of trainings that run now, of which MLflow's runs are not written yet."""

    def __init__(self) -> None:
        self.times: dict[tuple[str, ...], Timing] = {}
        self._machines: dict[str, str] = {}

    def hear(self, experiment: str, call: Sequence[Any]) -> None:
        """Take note of a call that a stage made to its tracker: a method and its arguments."""
        method, *arguments = call
        if method == "start":
            self._machines[experiment] = machine(arguments[1])
        elif method == "trained":
            identity, summary = arguments
            seconds = {name: value for name, value, _ in summary}.get(SECONDS)
            self.times[_training(identity)] = (seconds, self._machines.get(experiment, ""))


def machine(tags: Mapping[str, str]) -> str:
    """What a training ran on, as far as its speed depends on it, from the tags of its run."""
    named = {key: tags[key] for key in sorted(tags) if key.startswith("torch.")}
    return ", ".join(f"{key.removeprefix('torch.')} {value}" for key, value in named.items())


def by_record(
    found: Sequence[Record], logged: Mapping[str, Timing], heard: Heard
) -> dict[str, Timing]:
    """The time of each experiment, by the record's key.

    Experiments that differ in their evaluation alone share a training, and its time.

    Args:
        found: the experiments.
        logged: what MLflow knows, by the record's key.
        heard: what was heard since.
    """
    times = {
        _training(record.identity): logged[record.key]
        for record in found
        if logged.get(record.key, (None, ""))[0] is not None
    } | heard.times
    return {record.key: times.get(_training(record.identity), (None, "")) for record in found}


def by_group(found: Sequence[Group], timings: Mapping[str, Timing]) -> list[Timing]:
    """The seconds of training of each group, the median over its seeds, and on what.

    That is what most groups were timed on, or else the commonest of the group.

    Args:
        found: the groups.
        timings: by the record's key.
    """
    times = [_by_machine(group, timings) for group in found]
    common = _commonest(times)
    machines = [common if common in own else _commonest([own]) for own in times]
    return [
        (median(own[name]) if own else None, name)
        for own, name in zip(times, machines, strict=True)
    ]


def _by_machine(group: Group, timings: Mapping[str, Timing]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for record in group.members:
        seconds, machine = timings.get(record.key, (None, ""))
        if seconds and seconds > 0:
            times.setdefault(machine, []).append(seconds)
    return times


def _commonest(times: Sequence[Mapping[str, list[float]]]) -> str:
    """The machine that most groups were timed on, and of such ones most seeds; nothing if none."""
    groups = Counter(machine for one in times for machine in one if machine)
    seeds = Counter(machine for one in times for machine, own in one.items() for _ in own)
    return max(groups, key=lambda machine: (groups[machine], seeds[machine]), default="")


def _training(identity: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(identity[name] for name in TRAINING)
