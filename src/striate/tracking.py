"""MLflow: a view of what DVC's files hold. The only module that knows MLflow.

A run is found by the hashes of what it made (`striate.records`), never by a run id in a file, so
that DVC's cache and its lock file hold nothing that differs between two equal runs.

Run as a script, it logs what a stage writes to its standard input: see `striate.logbook`.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from striate import records
from striate.errors import UserError
from striate.git import git
from striate.records import EVALUATION, Point

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "striate"
PROCESS = "striate.process"  # tag of a run that is being logged: host, process id, its start
BATCH_LIMIT = 1000  # metrics in one call, which MLflow refuses to exceed

SHOWN_METRICS = ("test_accuracy", "val_accuracy", "test_loss", "parameters", "training_seconds")
SHOWN_PARAMS = (
    "data.name", "model.arch", "model.layers", "model.width", "training.epochs",
    "training.optimizer", "training.learning_rate", "training.batch_size", "seed",
)  # fmt: skip

# A server that does not answer is asked again, by `Patient` and not by MLflow, for this long.
# While a training goes on, there is no hurry: a server that is restarted loses nothing.
AWAY_SECONDS = 15.0
PAUSE_SECONDS = 1.0
REQUEST_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
# Artifacts pass through the server, which asks who it is; its storage may be out of reach here.
THROUGH_THE_SERVER = {
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
}
USER_INFO = re.compile(r"(?<=://)[^/\s]*@")  # the name and the password in an address


class Patient:
    """A client that asks again while its server is away.

    It sends the same again, time stamps included, and MLflow takes an equal point only once.
    """

    def __init__(self, client: MlflowClient, may_wait: Callable[[float], bool]) -> None:
        self._client = client
        self._may_wait = may_wait  # whether to ask again, having asked since this time

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def ask(*arguments: Any, **options: Any) -> Any:
            since = time.monotonic()
            while True:
                try:
                    return call(*arguments, **options)
                except failures() as error:
                    if not _is_away(error) or not self._may_wait(since):
                        raise
                    time.sleep(PAUSE_SECONDS)

        return ask


def _is_away(error: Exception) -> bool:
    """Whether a server may do later what it does not do now."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    elif isinstance(error, HTTPError) and error.response is not None:
        status = error.response.status_code
    else:
        return False
    return int(status) >= 500


def _for_a_while(since: float) -> bool:
    return time.monotonic() - since < AWAY_SECONDS


class Store:
    """An MLflow tracking store, and the experiment in it that all runs of a project share."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self.client = client
        self.experiment = experiment

    def create(self, name: str, params: dict[str, Any], tags: dict[str, str]) -> str:
        """Start a run with flat `params`; returns its id.

        Its tags are to name the process that fills it, so that `sync` can close what it left.
        """
        run = self.client.create_run(self.experiment, tags=tags, run_name=name)
        run_id: str = run.info.run_id
        self.log_params(run_id, params)
        return run_id

    def log_params(self, run_id: str, params: dict[str, Any]) -> None:
        """Log flat params in one call; a value that is there already stays."""
        from mlflow.entities import Param

        entities = [Param(key, str(value)) for key, value in params.items()]
        self.client.log_batch(run_id, params=entities)

    def log(self, run_id: str, points: list[Point]) -> None:
        """Log metrics in as few calls as MLflow allows."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entities = [Metric(name, value, now, step) for name, value, step in points]
        for start in range(0, len(entities), BATCH_LIMIT):
            self.client.log_batch(run_id, metrics=entities[start : start + BATCH_LIMIT])

    def tag(self, run_id: str, tags: dict[str, str]) -> None:
        """Set tags in one call."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

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

    def share_view(self) -> str:
        """Keep the columns that matter, best first, in MLflow's own shared views; returns its key.

        Its table shows neither metrics nor params by itself.
        """
        columns = [f"metrics.`{name}`" for name in SHOWN_METRICS]
        columns += [f"params.`{name}`" for name in SHOWN_PARAMS]
        view = {"selectedColumns": columns, "orderByKey": columns[0], "orderByAsc": False}
        key, value = f"mlflow.sharedViewState.{EXPERIMENT}", json.dumps(view)
        # Who may only read can open what somebody else has kept.
        if self.client.get_experiment(self.experiment).tags.get(key) != value:
            self.client.set_experiment_tag(self.experiment, key, value)
        return EXPERIMENT

    def upload(self, run_id: str, path: Path, name: str) -> None:
        """Add a file, or the files of a folder, to a folder of a run's artifacts."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), name)
        else:
            self.client.log_artifact(run_id, str(path), name)


def root() -> Path:
    """The main repository, also when DVC runs a stage in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite database at the root of the main repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database()}"


def shared() -> bool:
    """Whether the store is a server, which other people may use at the same time."""
    return tracking_uri().startswith(("http://", "https://"))


def masked(text: str) -> str:
    """A text that may be shown: no address in it has a name or a password."""
    return USER_INFO.sub("***@", text)


def database() -> Path:
    """Where the runs live unless `MLFLOW_TRACKING_URI` says otherwise."""
    return root() / "mlflow.db"


def open_store(may_wait: Callable[[float], bool] = _for_a_while) -> Store:
    """Open the tracking store; create it and the experiment where they are missing.

    The artifacts of the local store lie beside its database, wherever the repository was moved.

    Args:
        may_wait: whether to ask a server again that has been away since this monotonic time.
    """
    _set_credentials_apart()
    for variable, value in (REQUEST_LIMITS | THROUGH_THE_SERVER).items():
        os.environ.setdefault(variable, value)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # Creating the database would print a line for each step of its schema.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    uri = tracking_uri()
    if shared():
        client = cast("MlflowClient", Patient(MlflowClient(uri, uri), may_wait))
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            try:
                return Store(client, client.create_experiment(EXPERIMENT))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            # Somebody else was faster.
            experiment = client.get_experiment_by_name(EXPERIMENT)
        return Store(client, experiment.experiment_id)
    lock = root() / ".dvc" / "tmp" / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that create one SQLite store at once leave it broken.
    with FileLock(lock):
        local = uri == f"sqlite:///{database()}"
        location = (root() / "mlartifacts").as_uri() if local else None
        if location and database().exists():
            _relocate(database(), location)
        client = MlflowClient(uri, uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return Store(client, experiment.experiment_id)
        # A default location would follow the working folder of whoever came first.
        return Store(client, client.create_experiment(EXPERIMENT, location))


def _set_credentials_apart() -> None:
    """Move a name and a password from the server's address to the variables that MLflow has.

    It would write the address into its messages, and send artifacts without them.
    """
    parts = urlsplit(tracking_uri())
    if shared() and parts.username and parts.password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
        os.environ["MLFLOW_TRACKING_URI"] = USER_INFO.sub("", tracking_uri(), count=1)


def _relocate(path: Path, location: str) -> None:
    """Mend the artifact addresses of a store that was moved or copied with its repository.

    MLflow writes them absolute and has no call that changes them.
    """
    columns = [
        ("runs", "artifact_uri"),
        ("logged_models", "artifact_location"),
        ("model_versions", "source"),
        ("model_versions", "storage_location"),
        ("experiments", "artifact_location"),
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        try:
            row = connection.execute(
                "SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)
            ).fetchone()
        except sqlite3.OperationalError:
            return  # not a finished store yet; MLflow completes it or says what is wrong
        if row is None or row[0] == location:
            return
        for table, column in columns:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?)"  # noqa: S608
                f" WHERE substr({column}, 1, ?) = ?",
                (location, len(row[0]) + 1, len(row[0]), row[0]),
            )


def replay(
    store: Store, name: str, params: dict[str, Any], tags: dict[str, str], points: list[Point]
) -> str:
    """Begin a run out of what files hold; returns its id.

    It is whole, and an experiment's, once it is terminated.
    """
    run_id = store.create(name, params, tags | {PROCESS: process_tag(os.getpid())})
    store.log(run_id, points)
    return run_id


def run_name(params: dict[str, Any]) -> str:
    """The DVC experiment's name, or the shape of the network and its seed."""
    shape = f"{params['data.name']}-{params['model.layers']}x{params['model.width']}"
    return os.environ.get("DVC_EXP_NAME") or f"{shape}-seed{params['seed']}"


def _curves(folder: Path) -> list[Point]:
    """The curves that a training left in a working tree."""
    return [
        point
        for table in records.TABLES
        for point in records.curves(table, (folder / table).read_text())
    ]


def _summary(folder: Path) -> list[Point]:
    """What is logged of a training beside its curves."""
    train = json.loads((folder / records.TRAIN).read_text())
    return records.best(_curves(folder)) + records.final(train)


class Session:
    """What one stage reports, carried out; the methods are those that `striate.logbook` sends."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.run_id: str | None = None  # of a training that goes on

    def start(self, params: dict[str, Any], machine: dict[str, str]) -> None:
        """A training begins."""
        self.run_id = self.store.create(
            run_name(params),
            records.trained_by(params),
            _origin() | machine | {PROCESS: process_tag(os.getppid())},
        )

    def log(self, points: list[Point]) -> None:
        """An epoch has ended."""
        if self.run_id:
            self.store.log(self.run_id, points)

    def trained(self, params: dict[str, Any], folder: str) -> None:
        """The files of the training are written: attach them, and what the run is found by."""
        if not self.run_id:
            return
        identity = records.training_identity(params, Path(folder))
        if any(run.info.status == "FINISHED" for run in self.store.runs(identity)):
            # The same training again, to the last byte, is the same experiment.
            self.store.client.delete_run(self.run_id)
            self.run_id = None
            return
        self.store.log(self.run_id, _summary(Path(folder)))
        self.store.upload(self.run_id, Path(folder, records.MODELS), "checkpoint")
        self.store.tag(self.run_id, identity)

    def evaluated(self, params: dict[str, Any], folder: str) -> None:
        """The scores are written: add them to the run of this checkpoint.

        A run that already holds other scores keeps them, and a new one is made from the files.
        """
        place = Path(folder)
        trained = records.training_identity(params, place)
        scores = records.evaluation_identity(params, place)
        runs = [run for run in self.store.runs(trained) if run.info.status == "FINISHED"]
        held = [run.data.tags.get(EVALUATION) for run in runs]
        if scores[EVALUATION] in held:
            return
        test = json.loads((place / records.TEST).read_text())
        if None in held:
            run_id = runs[held.index(None)].info.run_id
        else:
            run_id = replay(
                self.store,
                run_name(params),
                records.trained_by(params),
                _origin() | trained,
                _curves(place) + _summary(place),
            )
            self.store.upload(run_id, place / records.MODELS, "checkpoint")
        self.store.log_params(run_id, params)
        self.store.log(run_id, records.scored(test))
        self.store.tag(run_id, scores)
        if None not in held:
            self.store.client.set_terminated(run_id)

    def visualized(self, params: dict[str, Any], folder: str) -> None:
        """The pictures are written: add them to the run of this checkpoint and these scores."""
        place = Path(folder)
        identity = records.training_identity(params, place)
        identity |= records.evaluation_identity(params, place)
        for run in self.store.runs(identity)[:1]:
            for path, name in records.PAGES.items():
                self.store.upload(run.info.run_id, place / path, name)
        if "DVC_EXP_NAME" not in os.environ:
            # MLflow is loaded by now, so the sync that follows a `dvc repro` costs next to nothing.
            from striate.sync import sync

            sync(root(), self.store, records.find(root()).records)

    def end(self, status: str) -> None:
        """The stage has ended; the run of a training has this status."""
        if self.run_id:
            self.store.client.set_terminated(self.run_id, status)
            self.run_id = None


def process_tag(pid: int) -> str:
    """What tells a process from all others, also from a later one with its number."""
    import psutil

    return f"{socket.gethostname()} {pid} {psutil.Process(pid).create_time():.0f}"


def is_gone(tag: str) -> bool:
    """Whether the process that a tag names ran on this machine and runs no more."""
    import psutil

    host, pid, start = tag.rsplit(" ", 2)
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" != start
    except psutil.NoSuchProcess:
        return True


def _origin() -> dict[str, str]:
    """Tags that say where a run comes from, as far as DVC and Git know by now."""
    tags = {
        "mlflow.source.git.commit": (git(Path(), "rev-parse", "HEAD") or "").strip(),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
    }
    return {key: value for key, value in tags.items() if value}


def _messages(over: threading.Event) -> Iterator[list[Any]]:
    """What comes on standard input, read at once so that the sender never waits.

    Args:
        over: set when the stage has ended, whatever is still to be done for it.
    """
    waiting: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if message[0] == "end":
                over.set()
            waiting.put(message)
        over.set()
        waiting.put(None)

    # At once and not when the first message is asked for: the end may come before that.
    threading.Thread(target=read, daemon=True).start()
    return iter(waiting.get, None)


def failures() -> tuple[type[Exception], ...]:
    """What MLflow raises when its store cannot be reached, is locked, or refuses."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, sqlite3.DatabaseError, OSError)


@contextmanager
def reachable() -> Iterator[None]:
    """Turn a failure of MLflow's store into a `UserError`."""
    try:
        yield
    except failures() as error:
        where = masked(tracking_uri())
        raise UserError(f"MLflow at {where} failed: {_reason(error, 300)}") from None


def _reason(error: Exception, length: int) -> str:
    return " ".join(masked(str(error)).split())[:length]


def main() -> None:
    """Carry out what a stage sends; when it stops without a word, its run was killed.

    A server that is away is asked again for as long as the stage goes on, which waits for nothing.
    """
    over = threading.Event()
    messages = _messages(over)
    told = False

    def may_wait(since: float) -> bool:
        nonlocal told
        if not told:
            told = True
            where = masked(tracking_uri())
            print(f"note: MLflow at {where} does not answer; it is asked again", file=sys.stderr)
        return not over.is_set() or _for_a_while(since)

    try:
        session = Session(open_store(may_wait))
        for method, *arguments in messages:
            getattr(session, method)(*arguments)
        session.end("KILLED")
    except failures() as error:
        print(
            f"warning: MLflow at {masked(tracking_uri())} failed; this is not recorded there:"
            f" {_reason(error, 200)}"
            "\n         Nothing else is lost: `striate sync` records it from DVC's files.",
            file=sys.stderr,
        )
        for _ in messages:
            pass


if __name__ == "__main__":
    main()
