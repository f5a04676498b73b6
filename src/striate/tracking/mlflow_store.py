"""MLflow: a view of what DVC's files hold. The only module that knows MLflow.

A run is found by the hashes of what it made (`striate.tracking.records`), never by a run id in a
file, so that DVC's cache and its lock file hold nothing that differs between two equal runs.

Run as a script, it logs what a stage writes to its standard input: see `striate.tracking.logger`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import re
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote, urlsplit

from filelock import AcquireReturnProxy, BaseFileLock, FileLock, Timeout

from striate.errors import UserError
from striate.tracking import background, records
from striate.tracking.background import PROCESS, is_gone, process_tag
from striate.tracking.git import git
from striate.tracking.records import Point

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "striate"
BATCH_LIMIT = 1000  # metrics in one call, which MLflow refuses to exceed

# The first one orders the table: people choose what is at the top, and the test set is not
# for choosing.
SHOWN_METRICS = ("val_accuracy", "parameters", "training_seconds", "test_accuracy", "test_loss")
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
# The name and the password in an address; a / in a password is often left as it is.
USER_INFO = re.compile(r"(?<=://)([^/\s:@]*:\S*|[^/\s]*)@")
SAID_CHARACTERS = 300  # of what MLflow says
PLAIN_PATH = re.compile(r"[\w./ +-]*")  # what means the same in an address of SQLite
SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)([^?]+)(.*)", re.DOTALL)  # not that in memory
LOOPBACK = "localhost,127.0.0.1,::1"
TRACEBACK = Path(".dvc/tmp/striate-tracking.log")  # of unexpected errors
NEWER = re.compile(r"Can't locate revision identified by|database schema \(found version (\w+)")


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

    def files(self, run: Run) -> set[str]:
        """The names at the top of a run's artifacts."""
        address: str = run.info.artifact_uri
        if address.startswith("file://"):
            # Asking MLflow takes a hundred times as long.
            folder = unquote(urlsplit(address).path)
            return set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return {found.path for found in self.client.list_artifacts(run.info.run_id)}

    def histories(self, runs: Sequence[Run]) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """All points of the metrics of runs: run id → name → step and value of each."""
        found: dict[str, dict[str, list[tuple[int, float]]]] = {run.info.run_id: {} for run in runs}
        if is_own():
            # MLflow has a call for one metric of one run only, and these are tens of thousands.
            with closing(sqlite3.connect(database())) as connection:
                for run_id, name, step, value, is_nan in connection.execute(
                    "SELECT run_uuid, key, step, value, is_nan FROM metrics"
                ):
                    if run_id in found:
                        point = (step, math.nan if is_nan else value)
                        found[run_id].setdefault(name, []).append(point)
            return found
        for run in runs:
            for name in run.data.metrics:
                points = self.client.get_metric_history(run.info.run_id, name)
                found[run.info.run_id][name] = [(point.step, point.value) for point in points]
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
    """`MLFLOW_TRACKING_URI`, or the SQLite database at the root of the main repository.

    A relative path in it counts from that root, also where DVC runs a stage in a copy.
    """
    uri = with_driver(os.environ.get("MLFLOW_TRACKING_URI") or address(database()))
    found = SQLITE.fullmatch(uri)
    if found is None or found[2].startswith((":memory:", "file:")):
        return uri
    path = Path(unquote(found[2]))
    return uri if path.is_absolute() else address(root() / path) + found[3]


def with_driver(uri: str) -> str:
    """The address with the driver that is installed, which SQLAlchemy would not take by itself."""
    return re.sub("^postgres(ql)?://", "postgresql+psycopg2://", uri)


def address(path: Path) -> str:
    """The address of a SQLite database, for MLflow and Optuna.

    SQLAlchemy decodes the path in an address; MLflow makes its parent folder without decoding it,
    so an encoded path is one name, with no folder to make.
    """
    text = str(path)
    return "sqlite:///" + (text if PLAIN_PATH.fullmatch(text) else quote(text, safe=""))


def is_own() -> bool:
    """Whether the store is the database beside DVC's files, and not one that somebody named."""
    return tracking_uri() == address(database())


def spare_loopback() -> None:
    """Let no proxy come between this machine and itself, for this process and those it starts."""
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if LOOPBACK not in spared and spared != "*":
        spared = ",".join(filter(None, (spared, LOOPBACK)))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = spared


@contextmanager
def runs_lock() -> Iterator[None]:
    """Hold the lock under which finished runs are made, changed and removed; waits for it.

    It holds among the processes of this repository. Whoever releases it and takes it again lets
    those that wait go first: they keep the lock of the queue meanwhile.
    """
    folder = root() / ".dvc" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "striate-runs.lock")
    with _waited_for(FileLock(folder / "striate-runs-queue.lock")):
        _waited_for(lock)
    try:
        yield
    finally:
        lock.release()


def _waited_for(lock: BaseFileLock) -> AcquireReturnProxy:
    """Acquire a lock on the runs, however long that takes."""
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        _say_waiting()
        return lock.acquire()


@cache
def _say_waiting() -> None:
    """Once in a process, which may wait for each of hundreds of experiments."""
    print("note: waiting for another process that writes to MLflow", file=sys.stderr)


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

    The artifacts of a local store lie in the repository, wherever that was moved. An experiment
    that was deleted in MLflow's pages is restored, as its name stays taken.

    Args:
        may_wait: whether to ask a server again that has been away since this monotonic time.
    """
    _check(tracking_uri())
    _set_credentials_apart()
    spare_loopback()
    for variable, value in (REQUEST_LIMITS | THROUGH_THE_SERVER).items():
        os.environ.setdefault(variable, value)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # Creating the database would print a line for each step of its schema.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    # It prints the traceback of a failure that it raises, too.
    for name in ("store.db.utils", "utils.databricks_utils"):
        logging.getLogger(f"mlflow.{name}").setLevel(logging.CRITICAL)
    uri = tracking_uri()
    if shared():
        client = cast("MlflowClient", Patient(MlflowClient(uri, uri), may_wait))
        return Store(client, _experiment(client, None))
    lock = root() / ".dvc" / "tmp" / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that create one SQLite store at once leave it broken.
    with FileLock(lock):
        location = (root() / "mlartifacts").as_uri()
        if is_own() and database().exists():
            _relocate(database(), location)
        client = MlflowClient(uri, uri)
        # A default location would follow the working folder of whoever came first.
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
        if shared():
            if not _is_usable(uri):
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
        reason = f"{error}; install the driver of that database"
    except (ArgumentError, ValueError) as error:
        reason = (
            f"{error}; MLFLOW_TRACKING_URI must be an address such as http://HOST:PORT,"
            " sqlite:///mlflow.db or postgresql://HOST/DATABASE"
        )
    else:
        try:
            engine.connect().close()
        finally:
            engine.dispose()
        return
    raise MlflowException(reason)


def _is_usable(uri: str) -> bool:
    """Whether a server's address has a host and a port, and all of its password before them.

    Python's own reasons for a refusal show parts of a password.
    """
    try:
        parts = urlsplit(uri)
        rest = parts._replace(netloc="").geturl()
        return bool(parts.hostname) and parts.port != 0 and "@" not in rest
    except ValueError:
        return False


def _experiment(client: MlflowClient, location: str | None) -> str:
    """The id of the project's experiment, which is made or restored where it must be."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return str(client.create_experiment(EXPERIMENT, location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # Somebody else was faster.
        found = client.get_experiment_by_name(EXPERIMENT)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
        print(f"note: experiment {EXPERIMENT}, deleted in MLflow, is restored", file=sys.stderr)
    return str(found.experiment_id)


def _set_credentials_apart() -> None:
    """Move a name and a password from the server's address to the variables that MLflow has.

    It would write the address into its messages, and send artifacts without them.
    """
    parts = urlsplit(tracking_uri())
    if shared() and parts.username and parts.password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
        parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        os.environ["MLFLOW_TRACKING_URI"] = parts.geturl()


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


class Session:
    """What one stage reports, carried out; the methods are those that `logger` sends."""

    def __init__(self, store: Store, origin: dict[str, str]) -> None:
        self.store = store
        self.origin = origin  # tags
        self.run_id: str | None = None  # of a training that goes on

    def start(self, params: dict[str, Any], machine: dict[str, str]) -> None:
        """A training begins."""
        self.run_id = self.store.create(
            run_name(params),
            records.trained_by(params),
            self.origin | machine,
        )

    def log(self, points: list[Point]) -> None:
        """An epoch has ended."""
        if self.run_id:
            self.store.log(self.run_id, points)

    def trained(self, identity: dict[str, str], summary: list[Point]) -> None:
        """Its files are written: add what the run is found by."""
        if not self.run_id:
            return
        if any(run.info.status == "FINISHED" for run in self.store.runs(identity)):
            # The same training again, to the last byte, is the same experiment.
            self.store.client.delete_run(self.run_id)
            self.run_id = None
            return
        self.store.log(self.run_id, summary)
        self.store.tag(self.run_id, identity)

    def end(self, status: str) -> None:
        """The stage has ended; the run of a training has this status."""
        if self.run_id:
            self.store.client.set_terminated(self.run_id, status)
            self.run_id = None


def origin() -> dict[str, str]:
    """Tags that say where the run of this stage comes from, as far as DVC and Git know by now."""
    tags = {
        "mlflow.source.git.commit": (git(Path(), "rev-parse", "HEAD") or "").strip(),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
    }
    return {key: value for key, value in tags.items() if value}


def _messages(over: Callable[[], None]) -> Iterator[list[Any]]:
    """What comes on standard input, read at once so that the sender never waits.

    Args:
        over: called when the stage has ended, whatever is still to be done for it.
    """
    waiting: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if message[0] == "end":
                over()
            waiting.put(message)
        over()
        waiting.put(None)

    # At once and not when the first message is asked for: the end may come before that.
    threading.Thread(target=read, daemon=True).start()
    return iter(waiting.get, None)


def failures() -> tuple[type[Exception], ...]:
    """What MLflow raises when its store cannot be reached, is locked, or refuses.

    Where MLflow itself cannot be loaded, nothing can be of its kinds.
    """
    kinds = (sqlite3.DatabaseError, OSError, ImportError)
    try:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except Exception:  # a broken installation raises anything
        return kinds
    return (MlflowException, SQLAlchemyError, *kinds)


@contextmanager
def reachable() -> Iterator[None]:
    """Turn a failure of MLflow's store into a `UserError`."""
    try:
        yield
    except failures() as error:
        where = masked(tracking_uri())
        raise UserError(f"MLflow at {where} failed: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What went wrong, in one line, and what helps where MLflow's own advice does not.

    The traceback of an unexpected error is kept.
    """
    # SQLAlchemy adds the statement and an address to what the database said.
    said = " ".join(masked(str(getattr(error, "orig", None) or error)).split())
    match = NEWER.search(said)
    if match and not _is_known(match[1]):
        return "a newer MLflow wrote this database: install that one, or name another database"
    # Nobody who reads it knows MLflow's statements.
    said = said.partition(" [SQL: ")[0]
    said = said if len(said) <= SAID_CHARACTERS else f"{said[:SAID_CHARACTERS]} ..."
    if isinstance(error, (UserError, *failures())):
        return said
    said = f"{type(error).__name__}: {said}"
    log = root() / TRACEBACK
    try:
        log.write_text(masked("".join(traceback.format_exception(error))))
    except OSError:
        return said
    return f"{said} (traceback in {log})"


def _is_known(revision: str | None) -> bool:
    """Whether the installed MLflow can upgrade a database of this revision."""
    import mlflow

    versions = Path(mlflow.__file__).parent / "store/db_migrations/versions"
    return revision is not None and any(versions.glob(f"{revision}*.py"))


def main(
    tags: dict[str, str], pending: Path | None = None, let_go: Callable[[], None] = lambda: None
) -> None:
    """Carry out what a stage sends; when it stops without a word, its run was killed.

    A server that is away is asked again for as long as the stage goes on, which waits for nothing.

    Args:
        tags: of the run of a training.
        pending: what says that this process is to make MLflow agree with DVC, once DVC has ended.
        let_go: called when the stage has ended.
    """
    over = threading.Event()

    def end() -> None:
        over.set()
        let_go()

    messages = _messages(end)
    told = False

    def may_wait(since: float) -> bool:
        nonlocal told
        if not told:
            told = True
            where = masked(tracking_uri())
            print(f"note: MLflow at {where} does not answer; it is asked again", file=sys.stderr)
        return not over.is_set() or _for_a_while(since)

    said: set[str] = set()
    try:
        with _warned(said):
            session = Session(open_store(may_wait), tags)
            for method, *arguments in messages:
                getattr(session, method)(*arguments)
            session.end("KILLED")
        for _ in messages:
            pass
        if pending:
            with _warned(said):
                _follow(pending)
    finally:
        if pending:
            pending.unlink(missing_ok=True)


@contextmanager
def _warned(said: set[str]) -> Iterator[None]:
    """Turn the first failure into a warning: whatever it is, the stage goes on."""
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if not said:
            print(
                f"warning: MLflow at {masked(tracking_uri())} failed; this is not recorded there:"
                f" {reason}"
                "\n         Nothing else is lost: `striate sync` records it from DVC's files.",
                file=sys.stderr,
            )
        said.add(reason)


def _follow(pending: Path) -> None:
    """Make MLflow agree with DVC once the DVC process that a file is named after has ended."""
    from striate.tracking.sync import sync

    while not is_gone(pending.name):
        time.sleep(0.1)
    # They would name the runs of other experiments.
    for variable in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        os.environ.pop(variable, None)
    sync(root(), open_store(), records.find(root()).records)


def _run() -> None:
    """Be the process that `striate.tracking.logger` starts."""
    from striate.tracking import sync  # noqa: F401  # the code may be in a folder that DVC removes

    records._code()  # reads it, too

    background.lower_priority()
    tags = origin()
    pending = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    os.environ["DVC_ROOT"] = str(root())
    os.chdir(root())
    main(tags, pending, lambda: background.redirect_stderr(root()))


if __name__ == "__main__":
    _run()
