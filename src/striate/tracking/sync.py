"""Bring MLflow's runs in line with DVC's experiments, and verify that they are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from striate import console
from striate.data import files
from striate.tracking import (
    background,
    descriptions,
    dvc_lock,
    git,
    groups,
    mlflow_store,
    points,
    records,
    run_page,
    times,
)
from striate.tracking.points import Point
from striate.tracking.records import Record
from striate.tracking.run_page import Wanted
from striate.tracking.times import Clocked, Timing

if TYPE_CHECKING:
    from mlflow.entities import Run

    from striate.tracking.mlflow_store import Store

TAGS = (records.PARAMS, records.DATA, records.CHECKPOINT, records.EVALUATION)  # in this order
# Increment it when `sync` writes something new: runs that an older version synced get it then.
VERSION = 3


class Row(NamedTuple):
    """What was done about one experiment, or about a run without one."""

    experiment: str
    run: str
    done: str


HEADER = Row("experiment", "run", "done")


class Stamp(NamedTuple):
    """What the last `sync` recorded: a fingerprint, and each experiment's training time."""

    fingerprint: str
    times: dict[str, tuple[float | None, str]]  # by the record's key


def _stamp_path(root: Path) -> Path:
    return root / ".dvc" / "tmp" / "striate-synced.json"


def _valid_stamp(root: Path, found: Sequence[Record]) -> Stamp | None:
    """What the last `sync` recorded; None if anything has changed since."""
    try:
        stamp = Stamp(**json.loads(_stamp_path(root).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return stamp if stamp.fingerprint == fingerprint(found) else None


def is_synced(root: Path, found: Sequence[Record]) -> bool:
    """Whether nothing has changed since the last `sync`. Fast: does not load MLflow."""
    return _valid_stamp(root, found) is not None


def sync(root: Path, store: Store, found: Sequence[Record]) -> list[Row]:
    """Give every experiment exactly one run, tagged with the names that DVC has for it.

    Missing runs are created from DVC's files; missing scores, pictures, checkpoints, data sets,
    descriptions and colours are added; a run whose process is gone is terminated. Idempotent. The
    lock on the runs is released after each experiment, so that concurrent processes take turns.

    Args:
        root: the repository.
        store: the open tracking store.
        found: all experiments.

    Returns:
        A row for each experiment, and for each run that was terminated.
    """
    before = fingerprint(found)
    with mlflow_store.runs_lock():
        runs = store.runs()
        rows = _terminate_dead(store, runs)
        models = {model.model_id for model in store.models()}
    known, tags = _by_identity(_finished(runs)), groups.tags(found)
    used = Counter(run.data.tags.get(descriptions.COLOUR, "") for run in runs)
    timings = {}
    for record in console.track(found, "MLflow"):
        matching = known.get(_key(record), [])
        wanted = Wanted(found, tags[record.key], _colour(matching, used), models)
        if len(matching) == 1 and not any(run_page.missing(store, record, matching[0], wanted)):
            run, done = matching[0], ""
        else:
            with mlflow_store.runs_lock():
                run, done = _sync_one(root, store, record, wanted)
        rows.append(Row(", ".join(name.name for name in record.names), run.info.run_name, done))
        timings[record.key] = _time(run)
    now = fingerprint(found)
    # If another process changed the store meanwhile, its changes were not looked at.
    if now is not None and (now == before or any(row.done for row in rows)):
        with suppress(OSError):
            files.write(_stamp_path(root), json.dumps(Stamp(now, timings)._asdict()).encode())
    return rows


def _colour(runs: Sequence[Run], used: Counter[str]) -> str:
    """The colour of the first of an experiment's runs, or a new one."""
    found = runs[0].data.tags.get(descriptions.COLOUR) if runs else None
    return found or descriptions.next_colour(used)


def _finished(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.info.status == "FINISHED"]


def _by_identity(runs: Sequence[Run]) -> dict[tuple[str | None, ...], list[Run]]:
    """The runs of each experiment, and of what is none."""
    found: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(run.data.tags.get(tag) for tag in TAGS), []).append(run)
    return found


def training_tags(record: Record) -> dict[str, str]:
    """The identity of a record's training, whatever its scores."""
    return {key: value for key, value in record.identity.items() if key != records.EVALUATION}


def _key(record: Record) -> tuple[str, ...]:
    return tuple(record.identity[tag] for tag in TAGS)


def _terminate_dead(store: Store, runs: Sequence[Run]) -> list[Row]:
    """Terminate the runs whose process is gone."""
    rows = []
    for run in runs:
        process = run.data.tags.get(background.PROCESS)
        if run.info.status == "RUNNING" and process and background.is_gone(process):
            store.terminate(run.info.run_id, "KILLED", mlflow_store.last_sign(run))
            rows.append(Row("–", run.info.run_name, "terminated: its process is gone"))
    return rows


def _sync_one(root: Path, store: Store, record: Record, wanted: Wanted) -> tuple[Run, str]:
    """Give an experiment exactly one run; returns it, and what was done."""
    finished = _finished(store.runs(training_tags(record)))
    matching = _by_identity(finished).get(_key(record), [])
    unscored = [run for run in finished if records.EVALUATION not in run.data.tags]
    done = []
    if matching:
        run = matching[0]
        for duplicate in matching[1:]:
            store.delete_run(duplicate)
            done.append("removed a duplicate run")
        done += run_page.add(root, store, record, run, wanted)
    elif unscored:
        run = unscored[0]
        missing = [point for point in _points(root, record) if point[0] not in run.data.metrics]
        store.log(run.info.run_id, missing)
        done += run_page.add(root, store, record, run, wanted)
        # The identity comes last: if this is interrupted, the next sync does it again.
        store.tag(run.info.run_id, record.identity)
        done.insert(0, "added scores")
        done += _remove_duplicates(store, record)
    else:
        clocked = times.noted(root, record.identity)
        run = _create(root, store, record, clocked)
        done += ["replayed", *run_page.add(root, store, record, run, wanted)]
        # Terminated last: if this is interrupted, the next sync starts over.
        store.terminate(run.info.run_id, "FINISHED", clocked and clocked.end)
        done += _remove_duplicates(store, record)
    return run, ", ".join(done)


def fingerprint(found: Sequence[Record]) -> str | None:
    """Changes whenever `sync` may have work to do; None for a store that is not our own database.

    Args:
        found: all experiments.
    """
    if not mlflow_store.is_own():
        return None
    database = mlflow_store.database()
    if not database.exists():
        return None
    state = database.stat()
    named = [(record.identity, record.names, record.pages) for record in found]
    kept = sorted(str(path) for path in database.parent.glob("mlartifacts/*/*/artifacts/*"))
    store = [state.st_size, state.st_mtime_ns, kept]
    return records.hash_values({"store": store, "dvc": repr(named), "version": VERSION})


def verify(root: Path, store: Store, found: Sequence[Record]) -> list[str]:
    """Compare every experiment with its run, exactly.

    Returns:
        A line for each disagreement: a missing or second run, a param, a metric, a point of a
        curve, the duration, a data set, an entry on the Models page and its scores.
    """
    runs = _finished(store.runs())
    known, histories = _by_identity(runs), store.histories(runs)
    models = {model.model_id: model for model in store.models()}
    faults = []
    for record in console.track(found, "MLflow"):
        name = record.names[0].name
        matching = known.get(_key(record), [])
        if len(matching) != 1:
            faults.append(f"{name}: {len(matching) or 'no'} runs in MLflow, not 1; `striate sync`")
        for run in matching[:1]:
            logged = histories[run.info.run_id]
            different = _differences(root, record, run, logged)
            different += run_page.faults(record, run, logged, models)
            faults += [f"{name}: {fault}" for fault in different]
    return faults


def _differences(
    root: Path, record: Record, run: Run, logged: dict[str, list[tuple[int, float]]]
) -> list[str]:
    faults = []
    expected: dict[str, Any] = {key: str(value) for key, value in record.params.items()}
    for key in sorted(expected.keys() | run.data.params.keys()):
        ours, theirs = expected.get(key), run.data.params.get(key)
        if ours != theirs:
            faults.append(f"param {key} is {ours} in DVC and {theirs} in MLflow")
    by_name: dict[str, dict[int, float]] = {}
    for name, value, step in _points(root, record):
        by_name.setdefault(name, {})[step] = value
    for name in record.train.keys() - set(points.COUNTS):
        by_name.setdefault(name, {})[points.kept_epoch(record.train)] = record.train[name]
    for name, curve in by_name.items():
        history = logged.get(name, [])
        theirs = dict(history)
        if len(theirs) != len(history):
            faults.append(f"metric {name} has several values at one step in MLflow")
        for step in sorted(curve.keys() | theirs.keys()):
            here, there = curve.get(step), theirs.get(step)
            if here != there:
                faults.append(
                    f"metric {name} at step {step} is {here} in DVC and {there} in MLflow"
                )
    return faults


def run_of(store: Store, record: Record) -> Run | None:
    """The finished run of a record, if there is one."""
    runs = _finished(store.runs(record.identity))
    return runs[0] if runs else None


def training_times(root: Path, found: Sequence[Record]) -> list[Timing]:
    """How many seconds each experiment was trained for, and what on, in words.

    None where no run says for how long, and nothing where none says what on.
    """
    stamp = _valid_stamp(root, found)
    if stamp and all(record.key in stamp.times for record in found):
        return [tuple(stamp.times[record.key]) for record in found]  # type: ignore[misc]
    known = _by_identity(_finished(mlflow_store.open_store().runs()))
    runs = [known.get(_key(record), []) for record in found]
    return [_time(matching[0]) if matching else (None, "") for matching in runs]


def _time(run: Run) -> Timing:
    return run.data.metrics.get(times.SECONDS), times.machine(run.data.tags)


def _create(root: Path, store: Store, record: Record, clocked: Clocked | None) -> Run:
    """Replay a record, and its times if known, into a new run, which is not terminated yet."""
    name = record.names[0].name
    if name == records.WORKSPACE or not record.names[0].baseline:
        name = mlflow_store.run_name(record.params)
    logged, tags = _points(root, record), record.identity
    if clocked:
        logged = [*logged, (times.SECONDS, clocked.seconds, 0)]
        tags = tags | clocked.machine
        start, end = clocked.start, clocked.end
    else:
        start = end = _recorded_at(root, record)
    run_id = mlflow_store.replay(store, name, record.params, tags, logged, start, end)
    return store.client.get_run(run_id)


def _recorded_at(root: Path, record: Record) -> float:
    """When Git or, before that, dvc.lock recorded an experiment, in seconds since the epoch."""
    commits = [name.commit for name in record.names if name.commit]
    recorded = git.log(root, commits[:1], "%ct")
    return float(recorded[0]) if recorded else (root / dvc_lock.LOCK).stat().st_mtime


def _remove_duplicates(store: Store, record: Record) -> list[str]:
    """Remove all finished runs of a record but the first.

    Two people who sync a server at once may both create one. The last to finish sees both; if both
    do, they keep the same one.
    """
    runs = _finished(store.runs(record.identity))
    runs.sort(key=lambda run: (run.info.start_time, run.info.run_id))
    for duplicate in runs[1:]:
        store.delete_run(duplicate)
    return ["removed a duplicate that was created meanwhile"] if runs[1:] else []


def _points(root: Path, record: Record) -> list[Point]:
    """All metrics of a record, with its curves."""
    curves = points.curves(lambda table: records.read(root, record, table))
    return curves + points.summary(curves, record.train) + points.scores(record.test)
