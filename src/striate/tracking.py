"""MLflow: a view of what DVC's files hold. The only module that knows MLflow.

A run is found by the hashes of what it made, never by a run id in a file, so that DVC's cache and
its lock file hold nothing that differs between two equal runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from striate.results import read_json, read_table

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "striate"
SWITCH = "STRIATE_TRACKING"
BATCH_LIMIT = 1000  # metrics in one call, which MLflow refuses to exceed
TRAINED_BY = ("seed", "data", "augment", "model", "training")  # the sections that shape a training

# What a run is found by.
CHECKPOINT = "striate.checkpoint"
DATA = "striate.data"
PARAMS = "striate.params"
EVALUATION = "striate.evaluation"


class Store:
    """An MLflow tracking store and the experiment in it that the runs of this project share."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self.client = client
        self.experiment = experiment

    def create(self, params: dict[str, Any], tags: dict[str, str]) -> str:
        """Start a run with flat `params`; returns its id."""
        from mlflow.entities import Param

        run = self.client.create_run(self.experiment, tags=tags, run_name=run_name(params))
        run_id: str = run.info.run_id
        self.client.log_batch(
            run_id, params=[Param(key, str(value)) for key, value in params.items()]
        )
        return run_id

    def log(self, run_id: str, metrics: list[tuple[str, float, int]]) -> None:
        """Log (name, value, step) in as few calls as MLflow allows."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entities = [Metric(name, value, now, step) for name, value, step in metrics]
        for start in range(0, len(entities), BATCH_LIMIT):
            self.client.log_batch(run_id, metrics=entities[start : start + BATCH_LIMIT])

    def tag(self, run_id: str, tags: dict[str, str]) -> None:
        """Set tags in one call."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def find(self, tags: dict[str, str]) -> list[Run]:
        """The runs with all of these tags, newest first."""
        conditions = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        found: list[Run] = self.client.search_runs(
            [self.experiment],
            " and ".join(conditions),
            order_by=["attributes.start_time DESC"],
        )
        return found


def enabled() -> bool:
    """Whether anything is logged: `STRIATE_TRACKING=off` turns it off."""
    return os.environ.get(SWITCH, "").lower() != "off"


def root() -> Path:
    """The main repository, also when DVC runs a stage in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite database at the root of the main repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root() / 'mlflow.db'}"


def open_store() -> Store:
    """Open the tracking store; create it and the experiment where they are missing."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Creating the database would print a line for each step of its schema.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    uri = tracking_uri()
    lock = root() / ".dvc" / "tmp" / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that create one SQLite store at once leave it broken.
    with FileLock(lock):
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return Store(client, experiment.experiment_id)
        # A default location would follow the working folder of whoever came first.
        location = (root() / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
        return Store(client, client.create_experiment(EXPERIMENT, location))


class LiveRun:
    """A run that is logged while its training goes on."""

    def __init__(self, store: Store | None, params: dict[str, Any]) -> None:
        self._store = store
        self._params = params
        self.run_id = store.create(params, _origin()) if store else None

    def log_epoch(self, row: dict[str, Any]) -> None:
        """Log what `fit` yielded, in one call."""
        if self._store and self.run_id:
            self._store.log(self.run_id, epoch_metrics(row))

    def complete(self, folder: Path, seconds: float) -> None:
        """Attach the checkpoint, the tags that the run is found by, and the final numbers.

        Args:
            folder: the root of the working tree, with the files that the training wrote.
            seconds: that the training took.
        """
        if self._store and self.run_id:
            final = summary_metrics(read_json(folder / "metrics/train.json"))
            self._store.log(self.run_id, [*final, ("training_seconds", seconds, 0)])
            self._store.tag(self.run_id, training_tags(self._params, folder))
            self._store.client.log_artifacts(self.run_id, str(folder / "models"), "checkpoint")


@contextmanager
def live_run(params: dict[str, Any]) -> Iterator[LiveRun]:
    """A run for one training: FINISHED at the end, FAILED on an error, KILLED by a signal.

    Args:
        params: all of params.yaml, flat.
    """
    params = trained_by(params)
    store = open_store() if enabled() else None
    run = LiveRun(store, params)

    def end(status: str) -> None:
        if store and run.run_id:
            store.client.set_terminated(run.run_id, status)

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield run
    except KeyboardInterrupt:
        end("KILLED")
        raise
    except BaseException:
        end("FAILED")
        raise
    else:
        end("FINISHED")
    finally:
        signal.signal(signal.SIGTERM, previous)


def attach_evaluation(params: dict[str, Any], folder: Path) -> None:
    """Add the test scores to the run of this checkpoint.

    A run that already holds other scores keeps them: a new run is made, with the curves replayed
    from the files, and the scores go there.

    Args:
        params: all of params.yaml, flat.
        folder: the root of the working tree.
    """
    if not enabled():
        return
    from mlflow.entities import Param

    store = open_store()
    trained, scored = training_tags(params, folder), evaluation_tags(params, folder)
    free = [
        run.info.run_id
        for run in store.find(trained)
        if run.data.tags.get(EVALUATION, scored[EVALUATION]) == scored[EVALUATION]
    ]
    run_id = free[0] if free else replay(store, params, folder)
    own = {key: value for key, value in params.items() if key not in trained_by(params)}
    store.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in own.items()])
    test = read_json(folder / "metrics/test.json")
    store.log(run_id, [(f"test_{name}", value, 0) for name, value in test.items()])
    store.tag(run_id, scored)


def attach_figures(params: dict[str, Any], folder: Path) -> None:
    """Add the pictures to the run of this checkpoint and this evaluation."""
    if not enabled():
        return
    store = open_store()
    for run in store.find(training_tags(params, folder) | evaluation_tags(params, folder))[:1]:
        store.client.log_artifacts(run.info.run_id, str(folder / "reports/figures"), "figures")


def replay(store: Store, params: dict[str, Any], folder: Path) -> str:
    """Make a finished run from the files that a training wrote; returns its id."""
    run_id = store.create(trained_by(params), _origin() | training_tags(params, folder))
    logged = summary_metrics(read_json(folder / "metrics/train.json"))
    for table, index in (("history.csv", "epoch"), ("steps.csv", "step")):
        columns = read_table(folder / "metrics" / table)
        steps = [int(step) for step in columns.pop(index, [])]
        for name, column in columns.items():
            logged += [(name, value, step) for step, value in zip(steps, column, strict=True)]
    store.log(run_id, logged)
    store.client.log_artifacts(run_id, str(folder / "models"), "checkpoint")
    store.client.set_terminated(run_id)
    return run_id


def epoch_metrics(row: dict[str, Any]) -> list[tuple[str, float, int]]:
    """(name, value, step) of everything that `striate.training.fit` yields after an epoch."""
    curves = [
        (name, value, row["epoch"])
        for name, value in row.items()
        if name not in ("epoch", "step_losses")
    ]
    return curves + [("step_loss", loss, step) for step, loss in row["step_losses"]]


def summary_metrics(summary: dict[str, float]) -> list[tuple[str, float, int]]:
    """(name, value, step) of what metrics/train.json holds beyond the ends of the curves."""
    return [(name, summary[name], 0) for name in ("parameters", "epochs")]


def trained_by(params: dict[str, Any]) -> dict[str, Any]:
    """Those of the flat params that shape a training."""
    return {key: value for key, value in params.items() if key.split(".")[0] in TRAINED_BY}


def training_tags(params: dict[str, Any], folder: Path) -> dict[str, str]:
    """What the run of a training is found by: hashes of its params, its data and its result."""
    models = sorted(path for path in (folder / "models").iterdir())
    return {
        PARAMS: hash_values(trained_by(params)),
        DATA: hash_files(folder / "data/manifest.json"),
        CHECKPOINT: hash_files(*models),
    }


def evaluation_tags(params: dict[str, Any], folder: Path) -> dict[str, str]:
    """What an evaluation is found by: one hash of its params and of its scores."""
    own = {key: value for key, value in params.items() if key.startswith("evaluate.")}
    return {EVALUATION: hash_values(own | read_json(folder / "metrics/test.json"))}


def hash_values(values: dict[str, Any]) -> str:
    """One hash of plain values, whatever their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def hash_files(*paths: Path) -> str:
    """One hash of the contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def run_name(params: dict[str, Any]) -> str:
    """The DVC experiment's name, or the shape of the network and its seed."""
    shape = f"{params['data.name']}-{params['model.layers']}x{params['model.width']}"
    return os.environ.get("DVC_EXP_NAME") or f"{shape}-seed{params['seed']}"


def _origin() -> dict[str, str]:
    """Tags that say where a run comes from, as far as DVC and Git know."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    tags = {
        "mlflow.source.git.commit": commit,
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
    }
    return {key: value for key, value in tags.items() if value}
