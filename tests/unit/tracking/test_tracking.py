"""What a stage reports becomes a run: found by hashes, one for each experiment."""

import io
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import requests
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException

from striate.data import json_csv
from striate.errors import UserError
from striate.tracking import (
    addresses,
    logger,
    mlflow_database,
    mlflow_errors,
    mlflow_process,
    mlflow_store,
    points,
    records,
    run_page,
    sync,
    system_metrics,
    trackers,
)
from striate.tracking.background import PROCESS, is_gone, process_tag
from striate.training import history
from striate.tuning import studies

PARAMS = {"seed": 3, "data.name": "digits", "model.layers": 2, "model.width": 4,
          "training.epochs": 2, "evaluate.tta": "none"}  # fmt: skip
ROWS = [
    {"epoch": 1, "learning_rate": 0.1, "train_loss": 2.0, "train_accuracy": 0.5,
     "step_losses": [(10, 1.5)]},
    {"epoch": 2, "learning_rate": 0.1, "train_loss": 1.0, "train_accuracy": 0.75,
     "step_losses": [(20, 0.5)]},
]  # fmt: skip
START = 1.7e9  # of a training, in seconds since the epoch
SCORES = {"accuracy": 0.9, "loss": 0.25}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store without runs, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        mlflow_store.open_store()
    return folder


@pytest.fixture
def folder(template, tmp_path, monkeypatch):
    """A working folder with what the four stages leave, and a store of its own."""
    shutil.copy(template / "mlflow.db", tmp_path)
    monkeypatch.chdir(tmp_path)
    history.write_training(ROWS, 2, 99, tmp_path / "metrics")
    json_csv.write_json(tmp_path / "metrics/test.json", SCORES)
    for name in ("models/cnn_trained.ckpt", "data/manifest.json", "reports/figures/samples.png",
                 "reports/index.html", "reports/model_card.md"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def store(folder):
    return mlflow_store.open_store()


def train(store, folder, **changes):
    """Report a whole training; returns the session."""
    session = mlflow_process.Session(store, trackers.source_tags())
    params = PARAMS | changes
    session.start(START, params, {"torch.threads": "2", PROCESS: process_tag(os.getpid())})
    session.log(START + 1, [("train_loss", row["train_loss"], row["epoch"]) for row in ROWS])
    curves = points.curves(lambda table: (folder / table).read_text())
    summary = points.summary(curves, json_csv.read_json(folder / "metrics/train.json"))
    summary = [*summary, ("training_seconds", 1.5, 0)]
    session.trained(START + 1.5, records.training_identity(params, folder), summary)
    session.end(START + 9, "FINISHED")
    return session


def curve(store, run, name):
    points = store.client.get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in points)


def test_a_training_becomes_a_run_with_its_params_curves_and_hashes(store, folder):
    train(store, folder)
    (run,) = store.runs()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "digits-2x4-seed3"
    trained_by = {key: str(value) for key, value in PARAMS.items() if key != "evaluate.tta"}
    assert run.data.params == trained_by
    assert curve(store, run, "train_loss") == [(1, 2.0), (2, 1.0)]
    assert curve(store, run, "best/train_loss") == [(0, 1.0)]
    assert curve(store, run, "best/train_accuracy") == [(0, 0.75)]
    assert (run.data.metrics["parameters"], run.data.metrics["kept_epoch"]) == (99, 2)
    assert run.data.metrics["training_seconds"] == 1.5
    # As long as the training, whenever MLflow is ready and the stage ends.
    assert (run.info.start_time, run.info.end_time) == (START * 1000, (START + 1.5) * 1000)
    (first, _) = store.client.get_metric_history(run.info.run_id, "train_loss")
    assert first.timestamp == (START + 1) * 1000
    identity = records.training_identity(PARAMS, folder)
    assert identity.items() <= run.data.tags.items()
    assert run.data.tags["torch.threads"] == "2"
    assert run.data.tags[PROCESS] == process_tag(os.getpid())
    assert run.info.artifact_uri.startswith((folder / "mlartifacts").as_uri())


def test_a_run_is_named_after_its_dvc_experiment_and_says_where_it_comes_from(
    store, folder, monkeypatch
):
    monkeypatch.setenv("DVC_EXP_NAME", "podgy-acts")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "Start."], check=True)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    train(store, folder)
    (run,) = store.runs()
    assert run.info.run_name == "podgy-acts"
    assert run.data.tags["dvc.experiment"] == "podgy-acts"
    assert run.data.tags["dvc.baseline"] == "abc"
    assert run.data.tags["mlflow.source.git.commit"] == commit


def test_outside_git_and_dvc_a_run_has_no_such_tags(store, folder, monkeypatch):
    monkeypatch.setattr(trackers, "git", lambda *arguments: None)
    train(store, folder)
    (run,) = store.runs()
    assert not {"dvc.experiment", "dvc.baseline", "mlflow.source.git.commit"} & set(run.data.tags)


def test_the_same_training_again_is_the_same_run(store, folder):
    train(store, folder)
    session = train(store, folder)
    assert session.run_id is None
    assert len(store.runs()) == 1
    train(store, folder, seed=4)
    assert len(store.runs()) == 2


def test_a_run_has_the_system_metrics_of_its_training_and_no_others(store, folder):
    sampler = system_metrics.Sampler()
    sampler.samples = [
        system_metrics.Sample(START + seconds, {"cpu_utilization_percentage": 10.0 * seconds})
        for seconds in (-1, 0.5, 1.25, 3)
    ]
    session = mlflow_process.Session(store, {}, sampler)
    session.start(START, PARAMS, {})
    session.log(START + 1, [("train_loss", 2.0, 1)])
    session.trained(START + 1.5, records.training_identity(PARAMS, folder), [])
    session.end(START + 9, "FINISHED")
    (run,) = store.runs()
    logged = store.client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
    assert [(one.step, one.value, one.timestamp) for one in logged] == [
        (0, 5.0, START * 1000 + 500),
        (1, 12.5, START * 1000 + 1250),
    ]


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_training_that_ends_early_keeps_its_curves_and_its_status(store, folder, status):
    session = mlflow_process.Session(store, {})
    session.start(START, PARAMS, {})
    session.log(START + 1, [("train_loss", 2.0, 1)])
    assert store.runs()[0].info.status == "RUNNING"
    session.end(START + 2, status)
    (run,) = store.runs()
    assert run.info.status == status
    assert (run.info.start_time, run.info.end_time) == (START * 1000, (START + 2) * 1000)
    assert curve(store, run, "train_loss") == [(1, 2.0)]
    assert records.CHECKPOINT not in run.data.tags
    # It is no experiment: the whole training after it gets a run of its own.
    train(store, folder)
    assert {run.info.status for run in store.runs()} == {status, "FINISHED"}


def test_a_session_without_a_training_ignores_its_messages(store, folder):
    session = mlflow_process.Session(store, {})
    session.log(START, [("train_loss", 2.0, 1)])
    session.trained(START, {}, [])
    session.end(START, "FINISHED")
    assert store.runs() == []


def test_a_sync_looks_up_each_run_when_it_comes_to_it(store, folder, monkeypatch):
    """As two at once must, which take turns after each experiment."""
    first, second = (
        records.Record(
            [records.Name(name, "", "")],
            dict.fromkeys(sync.TAGS, name),
            PARAMS, {}, {}, None, {}, [],
        )
        for name in ("first", "second")
    )  # fmt: skip

    def complete(root, store, record, run, wanted):
        if record is first:
            other = mlflow_store.replay(store, "other", PARAMS, second.identity, [])
            store.upload(other, folder / "models", "checkpoint")
            store.client.set_terminated(other)
        return []

    (folder / "dvc.lock").touch()
    monkeypatch.setattr(run_page, "add", complete)
    monkeypatch.setattr(sync, "_points", lambda *arguments: [])
    rows = sync.sync(folder, store, [first, second])
    assert [(row.run, row.done) for row in rows] == [
        ("digits-2x4-seed3", "replayed"),
        ("other", ""),
    ]
    assert [len(store.runs(record.identity)) for record in (first, second)] == [1, 1]


def is_free(path):
    try:
        with FileLock(path, timeout=0):
            return True
    except Timeout:
        return False


def test_whoever_waits_for_the_runs_goes_before_whoever_takes_them_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    order = []

    def wait():
        with mlflow_store.runs_lock():
            order.append("other")

    with mlflow_store.runs_lock():
        other = threading.Thread(target=wait)
        other.start()
        while is_free(".dvc/tmp/striate-runs-queue.lock"):
            time.sleep(0.1)
        order.append("first")
    with mlflow_store.runs_lock():
        order.append("first")
    other.join()
    assert order == ["first", "other", "first"]


def test_a_wait_for_the_runs_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mlflow_store._note_waiting.cache_clear()
    held = threading.Event()

    def hold():
        with mlflow_store.runs_lock():
            held.set()
            time.sleep(1.5)

    for _ in range(2):
        held.clear()
        threading.Thread(target=hold).start()
        held.wait()
        with mlflow_store.runs_lock():
            pass
    assert capsys.readouterr().err == "note: waiting for another process that writes to MLflow\n"


def test_more_metrics_than_fit_into_a_call_are_all_logged(store, folder, monkeypatch):
    run_id = store.create("many", {}, {})
    calls = []
    log_batch = store.client.log_batch
    monkeypatch.setattr(
        store.client, "log_batch",
        lambda run_id, metrics: (calls.append(len(metrics)), log_batch(run_id, metrics=metrics)),
    )  # fmt: skip
    begin = int(time.time() * 1000)
    store.log(run_id, [("loss", float(step), step) for step in range(2001)])
    logged = store.client.get_metric_history(run_id, "loss")
    assert calls == [1000, 1000, 1]
    assert sorted(point.step for point in logged) == list(range(2001))
    assert all(begin <= point.timestamp <= time.time() * 1000 for point in logged)


def test_more_runs_than_fit_into_a_page_are_all_found_oldest_first(store, folder, monkeypatch):
    made = [store.create(f"run {k}", {}, {"kind": "odd" if k % 2 else "even"}) for k in range(5)]
    search = store.client.search_runs
    monkeypatch.setattr(
        store.client, "search_runs",
        lambda *arguments, **options: search(*arguments, max_results=2, **options),
    )  # fmt: skip
    assert [run.info.run_id for run in store.runs()] == made
    assert [run.info.run_id for run in store.runs({"kind": "odd"})] == made[1::2]


def test_a_moved_store_finds_its_artifacts(store, folder, tmp_path_factory, monkeypatch):
    train(store, folder)
    (run,) = store.runs()
    store.upload(run.info.run_id, folder / "models", "checkpoint")
    new = tmp_path_factory.mktemp("moved") / "repository"
    shutil.move(folder, new)
    monkeypatch.chdir(new)
    moved = mlflow_store.open_store()
    (run,) = moved.runs()
    assert run.info.artifact_uri.startswith((new / "mlartifacts").as_uri())
    assert moved.files(run) == {"checkpoint"}
    experiment = moved.client.get_experiment_by_name(mlflow_store.EXPERIMENT)
    assert experiment.artifact_location == (new / "mlartifacts").as_uri()


def test_a_new_store_keeps_its_artifacts_beside_its_database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in mlflow_store.ENVIRONMENT:
        monkeypatch.delenv(variable, raising=False)
    made = mlflow_store.open_store()
    experiment = made.client.get_experiment_by_name(mlflow_store.EXPERIMENT)
    assert made.experiment == experiment.experiment_id
    assert experiment.artifact_location == (tmp_path / "mlartifacts").as_uri()
    assert {name: os.environ[name] for name in mlflow_store.ENVIRONMENT} == mlflow_store.ENVIRONMENT
    before = (tmp_path / "mlflow.db").read_bytes()
    assert mlflow_store.open_store().experiment == made.experiment
    assert (tmp_path / "mlflow.db").read_bytes() == before
    for variable in mlflow_store.ENVIRONMENT:
        monkeypatch.delenv(variable)


def test_a_store_that_is_named_is_used_and_keeps_its_own_addresses(
    store, folder, tmp_path_factory, monkeypatch
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(folder / "mlflow.db", elsewhere / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}/other.db")
    monkeypatch.chdir(elsewhere)
    other = mlflow_store.open_store()
    other.create("there", {}, {})
    experiment = other.client.get_experiment_by_name(mlflow_store.EXPERIMENT)
    assert experiment.artifact_location == (folder / "mlartifacts").as_uri()
    assert [run.info.run_name for run in other.runs()] == ["there"]
    assert store.runs() == []


def test_a_moved_store_keeps_addresses_that_are_not_its_own(store, folder, tmp_path_factory):
    run_id = store.create("foreign", {}, {})
    elsewhere = "s3://bucket/artifacts"
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (elsewhere,))
    connection.close()
    mlflow_database.relocate(folder / "mlflow.db", "striate", "file:///new")
    assert store.client.get_run(run_id).info.artifact_uri == elsewhere


def test_a_database_that_is_no_store_yet_is_left_alone(tmp_path):
    sqlite3.connect(tmp_path / "empty.db").close()
    mlflow_database.relocate(tmp_path / "empty.db", "striate", "file:///new")
    assert (tmp_path / "empty.db").read_bytes() == b""


def test_the_store_is_that_of_the_main_repository_or_the_named_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert addresses.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("DVC_ROOT", "/main")
    assert addresses.tracking_uri() == "sqlite:////main/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    assert addresses.tracking_uri() == "http://localhost:1"


def test_a_store_that_is_no_database_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_text("no database at all, but a text of some length" * 100)
    with pytest.raises(UserError, match=r"MLflow at sqlite:.*mlflow\.db failed: .*not a database"):
        with_reachable(mlflow_store.open_store)


def with_reachable(work):
    with mlflow_store.reachable():
        work()


def test_a_refusal_of_mlflow_is_one_short_line():
    def refuse():
        raise MlflowException("line one\nline two " + "x" * 1000)

    with pytest.raises(UserError) as caught:
        with_reachable(refuse)
    said = str(caught.value)
    assert "failed: line one line two xxx" in said
    assert "\n" not in said
    assert len(said) < 500


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:secret@host:5000/x", "http://***@host:5000/x"),
        ("at postgresql+psycopg2://ann:a%40b@host/db", "at postgresql+psycopg2://***@host/db"),
        ("https://ann:s@cret@host, http://token@host", "https://***@host, http://***@host"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("http://host/a@b, ann@example", "http://host/a@b, ann@example"),
    ],
)  # fmt: skip
def test_no_address_is_shown_with_a_name_and_a_password(text, shown):
    assert addresses.masked(text) == shown


def test_a_failure_does_not_tell_the_password(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:9")
    with pytest.raises(UserError) as caught, mlflow_store.reachable():
        raise MlflowException("API request to http://ann:secret@127.0.0.1:9/api failed")
    assert str(caught.value) == (
        "MLflow at http://***@127.0.0.1:9 failed: API request to http://***@127.0.0.1:9/api failed"
    )


def test_credentials_in_a_servers_address_are_moved_to_variables(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:s%40cret@host:1/path")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    addresses.move_credentials()
    assert addresses.tracking_uri() == "https://host:1/path"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "ann"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "s@cret"
    # A database is no server: its address is the only place for them.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:secret@host/db")
    addresses.move_credentials()
    assert addresses.tracking_uri() == "postgresql+psycopg2://ann:secret@host/db"


class Away:
    """A client whose server answers after so many calls."""

    def __init__(self, times, error):
        self.left, self.error, self.sent = times, error, []

    def log_batch(self, run_id, metrics):
        self.sent.append((run_id, metrics))
        if self.left:
            self.left -= 1
            raise self.error
        return "logged"


def test_a_server_that_is_away_is_sent_the_same_again(monkeypatch):
    monkeypatch.setattr(mlflow_store, "PAUSE_SECONDS", 0)
    client = Away(3, MlflowException("connection refused"))
    metrics = [("loss", 1.0, 123, 1)]
    assert (
        mlflow_store.RetryingClient(client, lambda since: True).log_batch("run", metrics=metrics)
        == "logged"
    )
    assert client.sent == [("run", metrics)] * 4
    client = Away(3, MlflowException("connection refused"))
    with pytest.raises(MlflowException, match="refused"):
        mlflow_store.RetryingClient(client, lambda since: False).log_batch("run", metrics=metrics)
    assert len(client.sent) == 1


@pytest.mark.parametrize(
    "code", ["PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_PARAMETER_VALUE"]
)
def test_a_server_that_refuses_is_not_asked_again(code):
    from mlflow.protos import databricks_pb2

    client = Away(3, MlflowException("no", error_code=getattr(databricks_pb2, code)))
    with pytest.raises(MlflowException):
        mlflow_store.RetryingClient(client, lambda since: True).log_batch("run", metrics=[])
    assert len(client.sent) == 1


def test_a_server_is_asked_for_as_long_as_the_stage_goes_on_and_not_much_longer(
    tmp_path, monkeypatch, capsys
):
    """Nobody listens there; what is sent is read to its end, and the stage is told in two lines."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://a:b@127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setattr(mlflow_store, "RETRY_SECONDS", 0)
        monkeypatch.setattr(mlflow_store, "PAUSE_SECONDS", 0.1)
        say(monkeypatch, ["start", PARAMS, {}], ["end", "FINISHED"])
    said = capsys.readouterr().err
    where = f"MLflow at http://127.0.0.1:{os.environ['MLFLOW_TRACKING_URI'].split(':')[-1]}"
    assert said.startswith(f"note: {where} does not answer; retrying\nwarning: {where} failed")
    assert "a:b" not in said
    assert not (tmp_path / ".dvc").exists()  # no lock is held for a server


def test_a_view_is_written_once_so_that_a_reader_can_open_it(store, monkeypatch):
    keys = [store.save_view(), store.save_view(grouped=True)]
    assert len(set(keys)) == 2
    monkeypatch.delattr(type(store.client), "set_experiment_tag")
    assert [store.save_view(), store.save_view(grouped=True)] == keys


def test_a_process_is_told_from_all_others():
    own = process_tag(os.getpid())
    host, pid, start = own.rsplit(" ", 2)
    assert (host, pid) == (socket.gethostname(), str(os.getpid()))
    parent = process_tag(os.getppid())
    assert parent.endswith(f" {psutil.Process(os.getppid()).create_time():.0f}")
    assert not is_gone(own)
    assert is_gone(f"{host} {pid} {int(start) - 5}")  # a later one has its number
    free = next(number for number in range(10**5, 10**6) if not psutil.pid_exists(number))
    assert is_gone(f"{host} {free} {start}")
    assert not is_gone(f"another-host {free} {start}")  # nobody can tell


def say(monkeypatch, *messages):
    """Run the tracking process on these messages."""
    text = "".join(
        json.dumps(["", method, START + number, *arguments]) + "\n"
        for number, (method, *arguments) in enumerate(messages)
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    mlflow_process.main({})


def test_the_tracking_process_keeps_no_samples_of_trainings_that_are_over(folder, monkeypatch):
    sampler = system_metrics.Sampler()
    sampler.samples = [system_metrics.Sample(START + at, {"use": at}) for at in (0.5, 2.5, 9.5)]
    monkeypatch.setattr(mlflow_process, "Sampler", lambda: sampler)
    monkeypatch.setattr(sampler, "begin", lambda: None)
    say(
        monkeypatch,
        ["start", PARAMS, {}],
        ["log", [["train_loss", 2.0, 1]]],
        ["end", "KILLED"],
        ["start", PARAMS, {}],
        ["log", [["train_loss", 2.0, 1]]],
        ["end", "KILLED"],
    )
    assert [one.at - START for one in sampler.samples] == [9.5]
    runs = mlflow_store.open_store().runs()
    assert [run.data.metrics.get("system/use") for run in runs] == [0.5, None]


def test_messages_are_carried_out_in_their_order(folder, monkeypatch):
    say(
        monkeypatch,
        ["start", PARAMS, {}],
        ["log", [["train_loss", 2.0, 1]]],
        ["trained", {"striate.params": "a"}, [["epochs", 2, 0]]],
        ["end", "FINISHED"],
    )
    (run,) = mlflow_store.open_store().runs()
    assert run.info.status == "FINISHED"
    assert run.data.tags["striate.params"] == "a"
    assert run.data.metrics == {"train_loss": 2.0, "epochs": 2.0}


def test_a_stage_that_falls_silent_was_killed(folder, monkeypatch):
    say(monkeypatch, ["start", PARAMS, {}], ["log", [["train_loss", 2.0, 1]]])
    (run,) = mlflow_store.open_store().runs()
    assert run.info.status == "KILLED"


@pytest.mark.parametrize(
    ("end", "status"), [(SystemExit, "KILLED"), (KeyboardInterrupt, "KILLED"), (OSError, "FAILED")]
)
def test_a_training_that_was_stopped_is_told_from_one_that_failed(monkeypatch, end, status):
    said = []
    pipe = SimpleNamespace(write=said.append, flush=lambda: None, close=lambda: None)
    tracker = SimpleNamespace(stdin=pipe)
    monkeypatch.setattr(
        "striate.tracking.trackers.mlflow.subprocess.Popen", lambda *_, **__: tracker
    )
    monkeypatch.delenv("STRIATE_TRACKING", raising=False)
    with pytest.raises(end), logger.logbook():
        raise end
    name, method, _, *arguments = json.loads("".join(said))
    assert [name, method, *arguments] == ["", "end", status]


def test_a_failure_of_mlflow_is_a_warning_and_the_rest_is_read(folder, monkeypatch, capsys):
    def refuse(*arguments):
        raise MlflowException("no room\nleft")

    monkeypatch.setattr(mlflow_store.Store, "create", refuse)
    say(monkeypatch, ["start", PARAMS, {}], ["end", "FINISHED"])
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: MLflow at sqlite:")
    assert first.endswith("failed, so this run is not logged there: no room left")
    assert "`striate sync` logs it later" in second


@pytest.mark.parametrize("name", ["50%25 done", "what?now", "ü#&+';\\\n"])
def test_a_repository_may_have_any_name(template, tmp_path, monkeypatch, name):
    place = tmp_path / name
    place.mkdir()
    shutil.copy(template / "mlflow.db", place)
    (place / "file").write_text("content")
    monkeypatch.chdir(place)
    store = mlflow_store.open_store()
    run = store.create("run", {}, {})
    store.upload(run, place / "file", "checkpoint")
    moved = tmp_path / "moved%2F"
    place.rename(moved)
    monkeypatch.chdir(moved)
    (back,) = mlflow_store.open_store().runs()
    store.client.download_artifacts(back.info.run_id, "checkpoint", str(moved))
    assert (moved / "checkpoint/file").read_text() == "content"
    studies.open_study("study", studies.default_storage(moved), moved)
    assert studies.masked(studies.default_storage(moved)) == f"sqlite:///{moved}/tune.db"
    assert list(tmp_path.iterdir()) == [moved]
    assert {path.name for path in moved.iterdir()} == {
        ".dvc", "checkpoint", "file", "mlartifacts", "mlflow.db", "tune.db",
    }  # fmt: skip


def test_a_relative_address_counts_from_the_main_repository(template, tmp_path, monkeypatch):
    main, copy = tmp_path / "main", tmp_path / "copy"
    for place in (main, copy):
        place.mkdir()
    shutil.copy(template / "mlflow.db", main / "my.db")
    monkeypatch.setenv("DVC_ROOT", str(main))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///my.db")
    monkeypatch.chdir(copy)
    assert addresses.tracking_uri() == f"sqlite:///{main}/my.db"
    mlflow_store.open_store().create("here", {}, {})
    monkeypatch.chdir(main)
    monkeypatch.delenv("DVC_ROOT")
    assert [run.info.run_name for run in mlflow_store.open_store().runs()] == ["here"]
    assert list(copy.iterdir()) == []
    for kept in ("sqlite://", "sqlite:///:memory:", "sqlite:////a/b.db?timeout=3"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", kept)
        assert addresses.tracking_uri() == kept


def test_a_named_store_keeps_new_artifacts_in_the_main_repository(tmp_path, monkeypatch):
    main, copy = tmp_path / "main", tmp_path / "copy"
    copy.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(main))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///my.db")
    monkeypatch.chdir(copy)
    store = mlflow_store.open_store()
    location = store.client.get_experiment(store.experiment).artifact_location
    assert location == (main / "mlartifacts").as_uri()


def test_an_experiment_that_was_deleted_is_restored_with_its_runs(store, folder, capsys):
    train(store, folder)
    store.client.delete_experiment(store.experiment)
    again = mlflow_store.open_store()
    assert again.experiment == store.experiment
    assert [run.info.status for run in again.runs()] == ["FINISHED"]
    assert capsys.readouterr().err == "note: experiment striate, deleted in MLflow, is restored\n"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mysql://u:secret@host/db", r"No module named 'MySQLdb'; install the driver"),
        ("foo://u:secret@host", r"Can't load plugin.*MLFLOW_TRACKING_URI must be an address"),
        (
            "http://u:secret@[bad",
            r"no host, or no port that can be used.*MLFLOW_TRACKING_URI must be",
        ),
        ("http:///path", "no host"),
        ("http://host:abc", "no host, or no port that can be used"),
        ("http://u:/secret@host:5000", "no host, or no port that can be used"),
        ("http://u:1/secret@host:5000", "write / \\? # @ in a password as %2F %3F %23 %40"),
        ("http://u:1?secret@host:5000", "no host, or no port that can be used"),
        ("http://u:1#secret@host:5000", "no host, or no port that can be used"),
        ("http://u:[secret]@host:5000", "no host, or no port that can be used"),
        ("http://u:\u2100secret@host:5000", "no host, or no port that can be used"),
        ("http://u:secret/secret@host:5000", "no host, or no port that can be used"),
        ("postgresql://u:a@secret@127.0.0.1:1/db", "write @ in a name or a password as %40"),
        ("postgresql://u:a@b:secret@127.0.0.1:1/db", "write @ in a name or a password as %40"),
        ("postgresql://u:secret@host:abc/db", "invalid literal for int"),
        ("postgresql://u:/secret@127.0.0.1:1/db", "Connection refused"),
        ("file:./mlruns", "runs cannot be kept in plain files; MLFLOW_TRACKING_URI must be"),
        ("mlruns", "runs cannot be kept in plain files; MLFLOW_TRACKING_URI must be"),
    ],
)
def test_an_address_of_no_store_is_one_line_without_its_password(
    tmp_path, monkeypatch, capsys, uri, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=f"^MLflow at .* failed: .*{said}") as caught:
        with_reachable(mlflow_store.open_store)
    assert "\n" not in str(caught.value)
    say(monkeypatch, ["start", PARAMS, {}], ["end", "FINISHED"])
    err = capsys.readouterr().err
    assert err.startswith("warning: MLflow at ")
    assert err.count("\n") == 2
    assert "secret" not in str(caught.value) + err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("work", "status", "before", "after"),
    [
        ("mlflow_process.main({})", 0, "warning: ", ", so this run is not logged there: "),
        (
            "with exit_on_error(), mlflow_store.reachable(): mlflow_store.open_store()",
            2,
            "error: ",
            ": ",
        ),
    ],
)
@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("mlflow", "No module named 'mlflow.exceptions'; 'mlflow' is not a package"),
        ("sqlalchemy", "import of sqlalchemy halted; None in sys.modules"),
    ],
)
def test_an_mlflow_that_cannot_be_loaded_is_one_line(
    tmp_path, monkeypatch, module, said, work, status, before, after
):
    monkeypatch.chdir(tmp_path)
    script = (
        f"import sys; sys.modules['{module}'] = None\n"
        "from striate.tracking import mlflow_process, mlflow_store\n"
        f"from striate.errors import exit_on_error\n{work}"
    )
    command = [sys.executable, "-c", script]
    found = subprocess.run(
        command, input='["", "end", 0, "FINISHED"]\n', capture_output=True, text=True
    )
    first, *rest = found.stderr.splitlines()
    assert found.returncode == status
    assert first == f"{before}MLflow at sqlite:///{tmp_path}/mlflow.db failed{after}{said}"
    recorded = "         Nothing is lost: `striate sync` logs it later from DVC's files."
    assert rest == ([] if status else [recorded])


def test_an_mlflow_that_breaks_in_another_way_names_the_fault(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", SimpleNamespace())
    assert mlflow_errors.failures() == (sqlite3.DatabaseError, OSError, ImportError)


def test_a_database_of_a_newer_mlflow_gets_advice_that_helps(folder):
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    newer = "a newer MLflow wrote this database: install that one, or name another database"
    command = [
        sys.executable,
        "-c",
        "from striate.tracking import mlflow_process; mlflow_process.main({})",
    ]
    said = subprocess.run(
        command, input='["", "end", 0, "FINISHED"]', capture_output=True, text=True, check=True
    )
    first, _ = said.stderr.splitlines()
    assert first.endswith(f"failed, so this run is not logged there: {newer}")
    known = next(tracking_versions().glob("*.py")).name.split("_")[0]
    older = f"Detected out-of-date database schema (found version {known}, but expected a1)."
    assert mlflow_errors.reason(MlflowException(older)) == older


def tracking_versions():
    import mlflow

    return Path(mlflow.__file__).parent / "store/db_migrations/versions"


def test_a_fault_of_the_code_is_a_warning_and_its_traceback_is_kept(folder, monkeypatch, capsys):
    def fault(*arguments):
        raise AttributeError("nobody expected this")

    monkeypatch.setattr(mlflow_store.Store, "create", fault)
    say(monkeypatch, ["start", PARAMS, {}], ["end", "FINISHED"])
    log = folder / ".dvc/tmp/striate-tracking.log"
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        f"warning: MLflow at sqlite:///{folder}/mlflow.db failed, so this run is not logged there:"
        f" AttributeError: nobody expected this (traceback in {log})"
    )
    assert "Nothing is lost: `striate sync` logs it later" in second
    assert "in fault" in log.read_text()
    with pytest.raises(AttributeError), mlflow_store.reachable():
        fault()


def test_no_proxy_stands_between_this_machine_and_itself(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "example.org")
    addresses.bypass_proxy()
    addresses.bypass_proxy()
    assert os.environ["no_proxy"] == "example.org,localhost,127.0.0.1,::1"
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for host in ("127.0.0.1", "localhost"):
            address = f"http://{host}:{server.server_port}/"
            with urllib.request.urlopen(address, timeout=5) as answer:
                assert answer.status == 200
            assert requests.get(address, timeout=5).status_code == 200
        server.shutdown()


def test_the_table_is_ordered_by_validation_accuracy_and_test_scores_come_last(store):
    store.save_view()
    tags = store.client.get_experiment(store.experiment).tags
    view = json.loads(tags["mlflow.sharedViewState.striate"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`val_accuracy`", False)
    shown = [name for name in view["selectedColumns"] if name.startswith("metrics.")]
    assert shown[0] == view["orderByKey"]
    assert shown[-2:] == ["metrics.`test_accuracy`", "metrics.`test_loss`"]
    assert "groupBy" not in view


def test_the_view_of_groups_shows_the_mean_of_the_runs_with_one_tag_and_curves_first(store):
    key = store.save_view(grouped=True)
    tags = store.client.get_experiment(store.experiment).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{key}"])
    assert view["groupBy"] == {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": "striate.group"}],
    }
    charts = [(chart["metricKey"], chart["type"]) for chart in view["compareRunCharts"]]
    assert charts[0] == ("val_accuracy", "LINE")
    assert ("test_accuracy", "BAR") in charts
    (section,) = view["compareRunSections"]
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == {section["uuid"]}
