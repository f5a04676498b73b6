"""For how long experiments were trained, and on what: what they say as they run, and MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from striate.tracking import records
from striate.tracking.records import Record

Timing = tuple[float | None, str]  # seconds of training, if known, and on what, in words
TRAINING = (records.PARAMS, records.DATA, records.CHECKPOINT)


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
            seconds = {name: value for name, value, _ in summary}.get("training_seconds")
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


def _training(identity: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(identity[name] for name in TRAINING)
