"""Bring MLflow's runs in line with DVC's experiments, and verify that they are."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from striate import console
from striate.data import files
from striate.tracking import background, groups, mlflow_store, points, records
from striate.tracking.points import Point
from striate.tracking.records import Record
from striate.tracking.times import Timing, machine

if TYPE_CHECKING:
    from mlflow.entities import Run

    from striate.tracking.mlflow_store import Store

TAGS = (records.PARAMS, records.DATA, records.CHECKPOINT, records.EVALUATION)  # in this order
# Increment it when `sync` writes something new: runs that an older version synced get it then.
VERSION = 2


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

    Missing runs are created from DVC's files; missing scores, pictures and checkpoints are added;
    a run whose process is gone is terminated. Idempotent. The lock on the runs is released after
    each experiment, so that concurrent processes take turns.

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
    known, tags = _by_identity(_finished(runs)), groups.tags(found)
    times = {}
    for record in console.track(found, "MLflow"):
        matching = known.get(_key(record), [])
        if len(matching) == 1 and not any(_missing(store, record, matching[0], tags[record.key])):
            run, done = matching[0], ""
        else:
            with mlflow_store.runs_lock():
                run, done = _sync_one(root, store, record, tags[record.key])
        rows.append(Row(", ".join(name.name for name in record.names), run.info.run_name, done))
        times[record.key] = _time(run)
    now = fingerprint(found)
    # If another process changed the store meanwhile, its changes were not looked at.
    if now is not None and (now == before or any(row.done for row in rows)):
        with suppress(OSError):
            files.write(_stamp_path(root), json.dumps(Stamp(now, times)._asdict()).encode())
    return rows


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
            store.client.set_terminated(run.info.run_id, "KILLED")
            rows.append(Row("–", run.info.run_name, "terminated: its process is gone"))
    return rows


def _sync_one(root: Path, store: Store, record: Record, group: str) -> tuple[Run, str]:
    """Give an experiment exactly one run; returns it, and what was done."""
    finished = _finished(store.runs(training_tags(record)))
    matching = _by_identity(finished).get(_key(record), [])
    unscored = [run for run in finished if records.EVALUATION not in run.data.tags]
    done = []
    if matching:
        run = matching[0]
        for duplicate in matching[1:]:
            store.client.delete_run(duplicate.info.run_id)
            done.append("removed a duplicate run")
        done += _add_missing(root, store, record, run, group)
    elif unscored:
        run = unscored[0]
        done += _add_missing(root, store, record, run, group)
        # The identity comes last: if this is interrupted, the next sync does it again.
        missing = [point for point in _points(root, record) if point[0] not in run.data.metrics]
        store.log(run.info.run_id, missing)
        store.tag(run.info.run_id, record.identity)
        done.insert(0, "added scores")
        done += _remove_duplicates(store, record)
    else:
        run = _create(root, store, record)
        done += ["replayed", *_add_missing(root, store, record, run, group)]
        # Terminated last: if this is interrupted, the next sync starts over.
        store.client.set_terminated(run.info.run_id)
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
        curve.
    """
    runs = _finished(store.runs())
    known, histories = _by_identity(runs), store.histories(runs)
    faults = []
    for record in console.track(found, "MLflow"):
        name = record.names[0].name
        matching = known.get(_key(record), [])
        if len(matching) != 1:
            faults.append(f"{name}: {len(matching) or 'no'} runs in MLflow, not 1; `striate sync`")
        for run in matching[:1]:
            logged = histories[run.info.run_id]
            faults += [f"{name}: {fault}" for fault in _differences(root, record, run, logged)]
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
    return run.data.metrics.get("training_seconds"), machine(run.data.tags)


def _create(root: Path, store: Store, record: Record) -> Run:
    """Replay a record into a new run, which is not terminated yet."""
    name = record.names[0].name
    if name == records.WORKSPACE or not record.names[0].baseline:
        name = mlflow_store.run_name(record.params)
    run_id = mlflow_store.replay(store, name, record.params, record.identity, _points(root, record))
    return store.client.get_run(run_id)


def _remove_duplicates(store: Store, record: Record) -> list[str]:
    """Remove all finished runs of a record but the first.

    Two people who sync a server at once may both create one. The last to finish sees both; if both
    do, they keep the same one.
    """
    runs = _finished(store.runs(record.identity))
    runs.sort(key=lambda run: (run.info.start_time, run.info.run_id))
    for duplicate in runs[1:]:
        store.client.delete_run(duplicate.info.run_id)
    return ["removed a duplicate that was created meanwhile"] if runs[1:] else []


def _points(root: Path, record: Record) -> list[Point]:
    """All metrics of a record, with its curves."""
    curves = points.curves(lambda table: records.read(root, record, table))
    return curves + points.summary(curves, record.train) + points.scores(record.test)


class Missing(NamedTuple):
    """What a run lacks; all empty for a complete one."""

    artifacts: dict[str, str]  # path → its folder in the run
    tags: dict[str, str]
    params: dict[str, Any]


def _missing(store: Store, record: Record, run: Run, group: str) -> Missing:
    present = store.files(run)
    wanted = {records.MODELS: "checkpoint"} | {path: records.PAGES[path] for path in record.pages}
    named = [name for name in record.names if name.commit]
    tags = {
        "dvc.experiment": " ".join(sorted(name.name for name in named if name.baseline)),
        "dvc.baseline": " ".join(sorted({name.baseline for name in named if name.baseline})),
        "dvc.commit": " ".join(sorted({name.commit for name in named})),
    }
    if mlflow_store.is_server():
        # Other people have other names for it.
        tags = {
            key: " ".join(sorted({*value.split(), *run.data.tags.get(key, "").split()}))
            for key, value in tags.items()
        }
    tags[groups.TAG] = group
    return Missing(
        {path: name for path, name in wanted.items() if name not in present},
        {key: value for key, value in tags.items() if value and run.data.tags.get(key) != value},
        {key: value for key, value in record.params.items() if key not in run.data.params},
    )


def _add_missing(root: Path, store: Store, record: Record, run: Run, group: str) -> list[str]:
    """Add artifacts, params and tags that a run lacks; returns what was added."""
    missing = _missing(store, record, run, group)
    done = []
    for path, name in missing.artifacts.items():
        with tempfile.TemporaryDirectory() as scratch:
            place = records.fetch(root, record, (path,), Path(scratch))
            store.upload(run.info.run_id, place / path, name)
        done.append(f"added {name}")
    if missing.tags:
        store.tag(run.info.run_id, missing.tags)
        done.append("named")
    if missing.params:
        store.log_params(run.info.run_id, missing.params)
    return done
