"""Make MLflow's runs agree with DVC's experiments, and check that they do."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from striate import records, tracking
from striate.records import Point, Record

if TYPE_CHECKING:
    from mlflow.entities import Run

    from striate.tracking import Store

OF_THE_MACHINE = ("torch.", "striate.residency")  # how such tags of a run begin


class Row(NamedTuple):
    """What was done about one experiment, or about a run without one."""

    experiment: str
    run: str
    done: str


HEADER = Row("experiment", "run", "done")


def stamp(root: Path) -> Path:
    """Where the fingerprint of the last agreement is kept."""
    return root / ".dvc" / "tmp" / "striate.synced"


def agreed(root: Path, found: Sequence[Record]) -> bool:
    """Whether nothing has changed since the last `sync`; needs no MLflow, and so no time."""
    now = fingerprint(found)
    return now is not None and stamp(root).exists() and stamp(root).read_text() == now


def sync(root: Path, store: Store, found: Sequence[Record]) -> list[Row]:
    """Give every experiment its one run, and every run the names that DVC has for it.

    An experiment whose run is missing gets one out of DVC's files; pictures and checkpoint are
    added where they are absent; a run whose process is gone is closed. Doing it twice changes
    nothing. Other processes get their turn after each experiment.

    Args:
        root: the repository.
        store: the open tracking store.
        found: all experiments.

    Returns:
        A row for each experiment, and for each run that was closed.
    """
    with tracking.runs_lock():
        rows = _close(store)
    for record in found:
        with tracking.runs_lock():
            rows.append(_agree(root, store, record))
    now = fingerprint(found)
    if now is not None:
        stamp(root).parent.mkdir(parents=True, exist_ok=True)
        stamp(root).write_text(now)
    return rows


def _close(store: Store) -> list[Row]:
    """Terminate the runs whose process is gone."""
    rows = []
    for run in store.runs():
        process = run.data.tags.get(tracking.PROCESS)
        if run.info.status == "RUNNING" and process and tracking.is_gone(process):
            store.client.set_terminated(run.info.run_id, "KILLED")
            rows.append(Row("–", run.info.run_name, "closed: its process is gone"))
    return rows


def _agree(root: Path, store: Store, record: Record) -> Row:
    """Give an experiment its one run, by what the store holds now."""
    trained = {key: value for key, value in record.identity.items() if key != records.EVALUATION}
    finished = [run for run in store.runs(trained) if run.info.status == "FINISHED"]
    matching = [run for run in finished if _belongs(run, record)]
    done = []
    if matching:
        run = matching[0]
        for twin in matching[1:]:
            store.client.delete_run(twin.info.run_id)
            done.append("removed a second run")
        done += _complete(root, store, record, run)
    else:
        run = _create(root, store, record)
        done += ["replayed", *_complete(root, store, record, run)]
        for half in finished:
            # Its logging broke off before the scores.
            if records.EVALUATION not in half.data.tags:
                _hand_over(store, half, run)
                store.client.delete_run(half.info.run_id)
                done.append("removed a run without scores")
        # Only now is it the experiment's, and not touched any more.
        store.client.set_terminated(run.info.run_id)
        done += _settle(store, record)
    names = ", ".join(name.name for name in record.names)
    return Row(names, run.info.run_name, ", ".join(done))


def fingerprint(found: Sequence[Record]) -> str | None:
    """Changes whenever `sync` may have something to do; None where that cannot be told.

    Args:
        found: all experiments.
    """
    if not tracking.is_own():
        return None
    database = tracking.database()
    if not database.exists():
        return None
    state = database.stat()
    named = [(record.identity, record.names, record.pages) for record in found]
    kept = sorted(str(path) for path in database.parent.glob("mlartifacts/*/*/artifacts/*"))
    store = [state.st_size, state.st_mtime_ns, kept]
    return records.hash_values({"store": store, "dvc": repr(named)})


def verify(root: Path, store: Store, found: Sequence[Record]) -> list[str]:
    """Compare every experiment with its run, exactly.

    Returns:
        A line for each disagreement: a missing or second run, a param, a metric, a point of a
        curve.
    """
    finished = [run for run in store.runs() if run.info.status == "FINISHED"]
    faults = []
    for record in found:
        name = record.names[0].name
        matching = [run for run in finished if _belongs(run, record)]
        if len(matching) != 1:
            faults.append(f"{name}: {len(matching) or 'no'} runs in MLflow, not 1; `striate sync`")
        for run in matching[:1]:
            faults += [f"{name}: {fault}" for fault in _differences(root, store, record, run)]
    return faults


def _differences(root: Path, store: Store, record: Record, run: Run) -> list[str]:
    faults = []
    expected: dict[str, Any] = {key: str(value) for key, value in record.params.items()}
    for key in sorted(expected.keys() | run.data.params.keys()):
        ours, theirs = expected.get(key), run.data.params.get(key)
        if ours != theirs:
            faults.append(f"param {key} is {ours} in DVC and {theirs} in MLflow")
    points = _points(root, record)
    by_name: dict[str, dict[int, float]] = {}
    for name, value, step in points:
        by_name.setdefault(name, {})[step] = value
    for name in record.train.keys() - set(records.COUNTS):
        by_name.setdefault(name, {})[records.kept_epoch(record.train)] = record.train[name]
    for name, curve in by_name.items():
        logged = store.client.get_metric_history(run.info.run_id, name)
        theirs = {point.step: point.value for point in logged}
        if len(theirs) != len(logged):
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
    runs = [run for run in store.runs(record.identity) if run.info.status == "FINISHED"]
    return runs[0] if runs else None


def training_times(store: Store, found: Sequence[Record]) -> list[tuple[float | None, str]]:
    """How many seconds each experiment was trained for, and what on, in words.

    None where no run says for how long, and nothing where none says what on.
    """
    runs: dict[tuple[str | None, ...], Run] = {}
    tags = (records.PARAMS, records.DATA, records.CHECKPOINT, records.EVALUATION)
    for run in store.runs():
        if run.info.status == "FINISHED":
            runs.setdefault(tuple(run.data.tags.get(tag) for tag in tags), run)
    times: list[tuple[float | None, str]] = []
    for record in found:
        made = runs.get(tuple(record.identity[tag] for tag in tags))
        times.append((made.data.metrics.get("training_seconds"), _machine(made)) if made
                     else (None, ""))  # fmt: skip
    return times


def _machine(run: Run) -> str:
    """What a training ran on, as far as its speed depends on it."""
    named = {key: run.data.tags[key] for key in sorted(run.data.tags) if key.startswith("torch.")}
    return ", ".join(f"{key.removeprefix('torch.')} {value}" for key, value in named.items())


def _belongs(run: Run, record: Record) -> bool:
    tags: dict[str, str] = run.data.tags
    return record.identity.items() <= tags.items()


def _create(root: Path, store: Store, record: Record) -> Run:
    """Replay a record into a new run, which is not terminated yet."""
    name = record.names[0].name
    if name == records.WORKSPACE or not record.names[0].baseline:
        name = tracking.run_name(record.params)
    run_id = tracking.replay(store, name, record.params, record.identity, _points(root, record))
    return store.client.get_run(run_id)


def _hand_over(store: Store, half: Run, run: Run) -> None:
    """Give a run what DVC's files do not say of its training: where it ran, and for how long."""
    tags = half.data.tags
    store.tag(run.info.run_id, {key: tags[key] for key in tags if key.startswith(OF_THE_MACHINE)})
    if "training_seconds" in half.data.metrics:
        seconds = half.data.metrics["training_seconds"]
        store.log(run.info.run_id, [("training_seconds", seconds, 0)])


def _settle(store: Store, record: Record) -> list[str]:
    """Remove all finished runs of a record but the first.

    Two people who sync at once may both have made one. Whoever is done last sees both, and if both
    do, they keep the same one.
    """
    runs = [run for run in store.runs(record.identity) if run.info.status == "FINISHED"]
    runs.sort(key=lambda run: (run.info.start_time, run.info.run_id))
    for twin in runs[1:]:
        store.client.delete_run(twin.info.run_id)
    return ["somebody else made one too"] if runs[1:] else []


def _points(root: Path, record: Record) -> list[Point]:
    """All metrics of a record, with its curves."""
    with tempfile.TemporaryDirectory() as scratch:
        place = records.fetch(root, record, records.TABLES, Path(scratch))
        points = [
            point
            for table in records.TABLES
            for point in records.curves(table, (place / table).read_text())
        ]
    points += records.best(points)
    return points + records.final(record.train) + records.scored(record.test)


def _complete(root: Path, store: Store, record: Record, run: Run) -> list[str]:
    """Add artifacts and tags that a run lacks; returns what was added."""
    done = []
    present = {artifact.path for artifact in store.client.list_artifacts(run.info.run_id)}
    pages = {path: records.PAGES[path] for path in record.pages}
    for path, name in ({records.MODELS: "checkpoint"} | pages).items():
        if name not in present:
            with tempfile.TemporaryDirectory() as scratch:
                place = records.fetch(root, record, (path,), Path(scratch))
                store.upload(run.info.run_id, place / path, name)
            done.append(f"added {name}")
    named = [name for name in record.names if name.commit]
    tags = {
        "dvc.experiment": " ".join(sorted(name.name for name in named if name.baseline)),
        "dvc.baseline": " ".join(sorted({name.baseline for name in named if name.baseline})),
        "dvc.commit": " ".join(sorted({name.commit for name in named})),
    }
    if tracking.shared():
        # Others have other names for it.
        tags = {
            key: " ".join(sorted({*value.split(), *run.data.tags.get(key, "").split()}))
            for key, value in tags.items()
        }
    changed = {
        key: value for key, value in tags.items() if value and run.data.tags.get(key) != value
    }
    if changed:
        store.tag(run.info.run_id, changed)
        done.append("named")
    missing = {k: v for k, v in record.params.items() if k not in run.data.params}
    if missing:
        store.log_params(run.info.run_id, missing)
    return done
