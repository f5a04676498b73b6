"""MLflow's store of runs: open it, and read and write the runs of this project.

A run is found by the hashes of its experiment (`striate.tracking.records`), never by a run id in a
file, so that DVC's cache and its lock file hold nothing that differs between two equal runs.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

from filelock import AcquireReturnProxy, BaseFileLock, FileLock, Timeout

from striate.errors import UserError
from striate.models import configs
from striate.tracking import descriptions, groups, mlflow_database, mlmodel
from striate.tracking.addresses import (
    bypass_proxy,
    database,
    is_own,
    is_server,
    is_valid_server,
    masked,
    move_credentials,
    root,
    tracking_uri,
)
from striate.tracking.background import PROCESS, process_tag
from striate.tracking.descriptions import DataSet
from striate.tracking.mlflow_database import History
from striate.tracking.mlflow_errors import failures, is_temporary, reason
from striate.tracking.points import Point

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "striate"
MODEL_TYPE = "checkpoint"  # of the entries on the Models page that are made for every experiment
ABANDONED_SECONDS = 600.0  # after which nobody is still writing an entry there
BATCH_LIMIT = 1000  # metrics in one call, the most that MLflow allows

# The table is sorted by the first one. People choose what is at the top, so it is not a test score.
SHOWN_METRICS = ("val_accuracy", "parameters", "training_seconds", "test_accuracy", "test_loss")
SHOWN_ATTRIBUTES = ("Dataset",)  # beside the name, the age and the duration of a run
SHOWN_PARAMS = (
    "data.name", "model.arch", "model.layers", "model.width", "training.epochs",
    "training.optimizer", "training.learning_rate", "training.batch_size", "seed",
)  # fmt: skip

# Charts first to last: curves by epoch, and scores of a whole training. Without a view, MLflow
# orders sections by name, and the bars of `best/` precede the curves.
SHOWN_CHARTS = {
    "val_accuracy": "LINE", "val_loss": "LINE", "test_accuracy": "BAR",
    "train_accuracy": "LINE", "train_loss": "LINE", "test_loss": "BAR",
}  # fmt: skip

# `RetryingClient`, and not MLflow, retries a server that does not answer, for this long. While a
# training runs, it retries without limit: a server that is restarted loses nothing.
RETRY_SECONDS = 15.0
PAUSE_SECONDS = 1.0
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # Artifacts pass through the server, which authenticates; its storage may be out of reach here.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Creating the database would print a line for each step of its schema.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class RetryingClient:
    """An MLflow client that retries while its server is away.

    A retry sends the same bytes, time stamps included; MLflow stores an equal point only once.

    Args:
        client: of MLflow.
        may_retry: whether to retry once more, given the monotonic time of the first attempt.
    """

    def __init__(self, client: MlflowClient, may_retry: Callable[[float], bool]) -> None:
        self._client = client
        self._may_retry = may_retry

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def retrying(*arguments: Any, **options: Any) -> Any:
            since = time.monotonic()
            while True:
                try:
                    return call(*arguments, **options)
                except failures() as error:
                    if not is_temporary(error) or not self._may_retry(since):
                        raise
                    time.sleep(PAUSE_SECONDS)

        return retrying


def retries_left(since: float) -> bool:
    """Whether a call that was first made at this monotonic time is to be retried."""
    return time.monotonic() - since < RETRY_SECONDS


class Store:
    """An MLflow tracking store, and the experiment in it that all runs of a project share."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self.client = client
        self.experiment = experiment

    def create(
        self, name: str, params: dict[str, Any], tags: dict[str, str], start: float | None = None
    ) -> str:
        """Start a run with flat `params`; returns its id.

        Tag it with the process that fills it, so that `sync` can terminate it if that dies.

        Args:
            name: of the run.
            params: flat.
            tags: of the run.
            start: when it began, in seconds since the epoch; now unless given. MLflow never changes
                it again.
        """
        run = self.client.create_run(self.experiment, _milliseconds(start), tags, name)
        run_id: str = run.info.run_id
        self.log_params(run_id, params)
        return run_id

    def log_params(self, run_id: str, params: dict[str, Any]) -> None:
        """Log flat params in one call; existing values stay."""
        from mlflow.entities import Param

        entities = [Param(key, str(value)) for key, value in params.items()]
        self.client.log_batch(run_id, params=entities)

    def terminate(self, run_id: str, status: str, end: float | None) -> None:
        """Terminate a run, or correct the end of one that is terminated.

        Args:
            run_id: of the run.
            status: FINISHED, FAILED or KILLED.
            end: in seconds since the epoch. None if unknown: then MLflow shows no duration.
        """
        if end is None:
            self.client.update_run(run_id, status)
        else:
            self.client.set_terminated(run_id, status, _milliseconds(end))

    def log(
        self,
        run_id: str,
        points: list[Point],
        at: float | None = None,
        others: Sequence[tuple[float, list[Point]]] = (),
    ) -> None:
        """Log metrics in as few calls as MLflow allows.

        Args:
            run_id: of the run.
            points: (metric, value, step).
            at: when they were measured, in seconds since the epoch; now unless given.
            others: times and the points that were measured then.
        """
        from mlflow.entities import Metric

        entities = [
            Metric(name, value, _milliseconds(when), step)
            for when, measured in [(at, points), *others]
            for name, value, step in measured
        ]
        for start in range(0, len(entities), BATCH_LIMIT):
            self.client.log_batch(run_id, metrics=entities[start : start + BATCH_LIMIT])

    def tag(self, run_id: str, tags: dict[str, str]) -> None:
        """Set tags in one call."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_inputs(self, run_id: str, sets: Sequence[DataSet]) -> None:
        """Link data sets to a run in one call; those that it has stay."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(one.name, one.digest, one.source_type, one.source, one.schema, one.profile),
                [InputTag(descriptions.CONTEXT, one.context)],
            )
            for one in sets
        ]
        self.client.log_inputs(run_id, datasets=inputs)

    def add_model(
        self, run: Run, folder: Path, scores: list[tuple[Point, DataSet]], params: dict[str, Any]
    ) -> str:
        """Add a checkpoint to the Models page; returns its id there.

        It can be loaded once it is complete. A complete one of the run, which a call that was
        interrupted has left or another clone has added, is taken; an incomplete one is removed
        when it is too old for another clone to be writing it.

        Args:
            run: of the training, with all of its metrics.
            folder: with the checkpoint, which is copied.
            scores: of the checkpoint, each with the data set that it was measured on.
            params: flat.
        """
        from mlflow.entities import LoggedModelOutput, Metric

        run_id = run.info.run_id
        for left in self.models(f"source_run_id = '{run_id}'"):
            if left.model_type != MODEL_TYPE:
                continue
            if left.status == "READY":
                return str(left.model_id)
            if left.creation_timestamp < _milliseconds(None) - ABANDONED_SECONDS * 1000:
                self.client.delete_logged_model(left.model_id)
        model = self.client.create_logged_model(
            self.experiment, descriptions.model_name(run.info.run_name), run_id,
            params={key: str(value) for key, value in params.items()}, model_type=MODEL_TYPE,
        )  # fmt: skip
        metrics = []
        for (name, value, step), data_set in scores:
            # Equal to the point that the run has, to the time stamp: else it would have two.
            history = self.client.get_metric_history(run_id, name)
            stamps = [point.timestamp for point in history if point.step == step]
            stamp = stamps[0] if stamps else _milliseconds(None)
            metrics.append(
                Metric(name, value, stamp, step, model.model_id, data_set.name, data_set.digest)
            )
        self.client.log_batch(run_id, metrics=metrics)
        with tempfile.TemporaryDirectory() as scratch:
            mlmodel.write(Path(scratch), folder, model.model_id, run_id)
            self.client.log_model_artifacts(model.model_id, scratch)
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        self.client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)

    def models(self, condition: str = "") -> list[LoggedModel]:
        """The entries of the Models page that fulfil a condition."""
        found: list[LoggedModel] = []
        token = None
        while True:
            page = self.client.search_logged_models(
                [self.experiment], condition or None, page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def has_model(self, model_id: str) -> bool:
        """Whether the Models page has an entry of this id."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_logged_model(model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def delete_run(self, run: Run) -> None:
        """Delete a run and its entries on the Models page."""
        for output in run.outputs.model_outputs if run.outputs else []:
            with suppress(*failures()):  # somebody has deleted it before
                self.client.delete_logged_model(output.model_id)
        self.client.delete_run(run.info.run_id)

    def runs(self, tags: dict[str, str] | None = None) -> list[Run]:
        """The runs with all of these tags, oldest first."""
        conditions = [f"tags.`{key}` = '{value}'" for key, value in (tags or {}).items()]
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment],
                " and ".join(conditions),
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found

    def files(self, run: Run) -> set[str]:
        """The top-level names among a run's artifacts."""
        uri: str = run.info.artifact_uri
        if uri.startswith("file://"):
            # MLflow's API takes a hundred times as long.
            folder = unquote(urlsplit(uri).path)
            return set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return {found.path for found in self.client.list_artifacts(run.info.run_id)}

    def histories(self, runs: Sequence[Run]) -> dict[str, History]:
        """All points of the metrics of runs, by run id."""
        if is_own():
            return mlflow_database.read_histories(database(), [run.info.run_id for run in runs])
        return {run.info.run_id: self._history(run) for run in runs}

    def _history(self, run: Run) -> History:
        history: History = {}
        for name in run.data.metrics:
            points = self.client.get_metric_history(run.info.run_id, name)
            history[name] = [(point.step, point.value) for point in points]
        return history

    def save_view(self, *, grouped: bool = False) -> str:
        """Save a view of the runs, with the columns that matter, best run first; returns its key.

        By default MLflow's table shows neither metrics nor params.

        Args:
            grouped: whether runs that differ in the seed alone are shown as one: their means, and
                curves in a band from the lowest to the highest.
        """
        columns = [f"metrics.`{name}`" for name in SHOWN_METRICS]
        order = columns[0]
        columns = [f"attributes.`{name}`" for name in SHOWN_ATTRIBUTES] + columns
        columns += [f"params.`{name}`" for name in SHOWN_PARAMS]
        view = {"selectedColumns": columns, "orderByKey": order, "orderByAsc": False}
        view |= _first_charts()
        key = EXPERIMENT
        if grouped:
            key += "-groups"
            by = {"mode": "tag", "groupByData": groups.TAG}
            view["groupBy"] = {"aggregateFunction": "average", "groupByKeys": [by]}
        tag, value = f"mlflow.sharedViewState.{key}", json.dumps(view)
        # A user who may only read can still open the view that another user has saved.
        if self.client.get_experiment(self.experiment).tags.get(tag) != value:
            self.client.set_experiment_tag(self.experiment, tag, value)
        return key

    def upload(self, run_id: str, path: Path, name: str) -> None:
        """Add a file, or the files of a folder, to a folder of a run's artifacts."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), name)
        else:
            self.client.log_artifact(run_id, str(path), name)


def _milliseconds(seconds: float | None) -> int:
    """A time since the epoch as MLflow stores it; now unless given."""
    return round((time.time() if seconds is None else seconds) * 1000)


def _first_charts() -> dict[str, Any]:
    """The part of a view that draws SHOWN_CHARTS first; MLflow appends those of other metrics."""
    name = "Model metrics"  # MLflow's own section of metrics without a prefix
    section = {"uuid": name, "name": name, "display": True, "isReordered": True}
    common = {
        "metricSectionId": name,
        "useGlobalLineSmoothing": True,  # which is 0; that of a chart is 70 %
        "useGlobalXaxisKey": True,
    }
    charts = [
        {"uuid": metric, "metricKey": metric, "displayName": metric, "type": kind, **common}
        for metric, kind in SHOWN_CHARTS.items()
    ]
    return {
        "compareRunCharts": charts,
        "compareRunSections": [section],
        "isAccordionReordered": True,  # else MLflow sorts the sections by name
    }


@contextmanager
def reachable() -> Iterator[None]:
    """Turn a failure of MLflow's store into a `UserError`."""
    try:
        yield
    except failures() as error:
        where = masked(tracking_uri())
        raise UserError(f"MLflow at {where} failed: {reason(error)}") from None


@contextmanager
def runs_lock() -> Iterator[None]:
    """Hold the lock for creating, changing and deleting finished runs; waits for it.

    It is shared by the processes of this repository. It is fair: a process that releases it and
    takes it again queues behind those that wait, which hold a second lock meanwhile.
    """
    folder = root() / ".dvc" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "striate-runs.lock")
    with _acquire(FileLock(folder / "striate-runs-queue.lock")):
        _acquire(lock)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: BaseFileLock) -> AcquireReturnProxy:
    """Acquire a lock on the runs, and say so if that takes long."""
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        _note_waiting()
        return lock.acquire()


@cache
def _note_waiting() -> None:
    """Once per process, which may wait at each of hundreds of experiments."""
    print("note: waiting for another process that writes to MLflow", file=sys.stderr)


def open_store(may_retry: Callable[[float], bool] = retries_left) -> Store:
    """Open the tracking store; create it and the experiment where they are missing.

    The artifacts of a local store lie in the repository, also after that was moved. An experiment
    that was deleted in MLflow's pages is restored, because its name stays taken.

    Args:
        may_retry: see `RetryingClient`.
    """
    _check(tracking_uri())
    move_credentials()
    bypass_proxy()
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    # MLflow also prints the traceback of errors that it raises.
    for name in ("store.db.utils", "utils.databricks_utils"):
        logging.getLogger(f"mlflow.{name}").setLevel(logging.CRITICAL)
    uri = tracking_uri()
    if is_server():
        client = cast("MlflowClient", RetryingClient(MlflowClient(uri, uri), may_retry))
        return Store(client, _experiment(client, None))
    lock = root() / ".dvc" / "tmp" / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that create one SQLite store at once leave it broken.
    with FileLock(lock):
        location = (root() / "mlartifacts").as_uri()
        if is_own() and database().exists():
            mlflow_database.relocate(database(), EXPERIMENT, location)
        client = MlflowClient(uri, uri)
        # The default location would be the working folder of the first process.
        return Store(client, _experiment(client, location))


def _check(uri: str) -> None:
    """Connect to a database once; MLflow would try for two minutes whatever is wrong.

    Raises:
        MlflowException: the address is malformed, of no store for runs, or needs a driver.
        SQLAlchemyError: the database cannot be opened.
    """
    import sqlalchemy
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import ArgumentError

    try:
        if is_server():
            if not is_valid_server(uri):
                raise ValueError(
                    "no host, or no port that can be used"
                    " (write / ? # @ in a password as %2F %3F %23 %40)"
                )
            return
        if uri.startswith("databricks"):
            return
        if "://" not in uri or uri.startswith("file:"):
            raise ValueError("runs cannot be kept in plain files")
        if not uri.startswith("sqlite") and uri.count("@") > 1:
            # The rest of the password would be taken for a host, which the failure would name.
            raise ValueError("more than one @ (write @ in a name or a password as %40)")
        url = sqlalchemy.engine.make_url(uri)
        engine = sqlalchemy.create_engine(url)
        if url.drivername.startswith("sqlite") and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)  # as MLflow does
    except ImportError as error:
        message = f"{error}; install the driver of that database"
    except (ArgumentError, ValueError) as error:
        message = (
            f"{error}; MLFLOW_TRACKING_URI must be an address such as http://HOST:PORT,"
            " sqlite:///mlflow.db or postgresql://HOST/DATABASE"
        )
    else:
        try:
            engine.connect().close()
        finally:
            engine.dispose()
        return
    raise MlflowException(message)


def _experiment(client: MlflowClient, location: str | None) -> str:
    """The id of the project's experiment; created or restored if necessary."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return str(client.create_experiment(EXPERIMENT, location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # Another process was faster.
        found = client.get_experiment_by_name(EXPERIMENT)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
        print(f"note: experiment {EXPERIMENT}, deleted in MLflow, is restored", file=sys.stderr)
    return str(found.experiment_id)


def last_sign(run: Run) -> float:
    """When a run was last heard of, in seconds since the epoch: its last metric, or its start."""
    stamps: list[int] = [metric.timestamp for metric in run.data._metric_objs]
    return float(max(run.info.start_time, *stamps, 0)) / 1000


def replay(
    store: Store,
    name: str,
    params: dict[str, Any],
    tags: dict[str, str],
    points: list[Point],
    start: float | None = None,
    at: float | None = None,
) -> str:
    """Start a run from the contents of files; returns its id.

    It counts as an experiment's once it is terminated. `start` and `at` are when it began and when
    its points were measured, in seconds since the epoch; now unless given.
    """
    own = {PROCESS: process_tag(os.getpid())}
    run_id = store.create(name, params, tags | own, start)
    store.log(run_id, points, at)
    return run_id


def run_name(params: dict[str, Any]) -> str:
    """The name of a run that DVC has no name for: data, network and seed."""
    size = configs.stated_size(params)
    network = f"{size['layers']}x{size['width']}" if len(size) == 2 else params["model.arch"]
    return f"{params['data.name']}-{network}-seed{params['seed']}"
