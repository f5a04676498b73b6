"""DVC's record and MLflow's agree, whichever way an experiment came about."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from clones import Clone

from striate.tracking import mlflow_store

pytestmark = pytest.mark.walk

SMALL = {"training__epochs": 1, "model__width": 4}


def statuses(clone):
    """Of all runs, read afresh: MLflow keeps connections to a database that was removed."""
    address = f"file:{clone.folder}/mlflow.db?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=60)) as connection:
        rows = connection.execute("SELECT status FROM runs WHERE lifecycle_stage = 'active'")
        return [status for (status,) in rows]


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


@contextmanager
def server(folder, command, port):
    """Run a server on the loopback address until the block ends."""
    env = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def answers():
        assert process.poll() is None, (folder / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return True
        except OSError:
            return False

    try:
        wait_for(answers)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Step(NamedTuple):
    """What a step of the scenario printed, then `striate verify`; the runs of MLflow after it."""

    said: str
    verified: str
    statuses: list[str]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """A repository whose experiments come about in every way, and are recorded; its steps by name.

    The names are those of EXPERIMENTS. `again` holds what further calls of `sync` said.
    """
    folder = tmp_path_factory.mktemp("agreement")
    clone = Clone.of_this_tree(folder / "first", **SMALL)
    steps, again = {}, []

    def done(name, said="", current=clone):
        steps[name] = Step(said, current.striate("verify", status=None), statuses(current))

    def run(*arguments):
        return clone.run("dvc", "exp", *arguments)

    done("dvc repro, committed")
    run("run", "-n", "deep", "-S", "model.layers=3")
    done("dvc exp run")
    clone.go_back()
    run("run", "-f", "-n", "deep", "-S", "model.layers=3")
    done("the same again, from the cache")
    clone.go_back()
    run("run", "--temp", "-n", "wide", "-S", "model.width=8")
    done("dvc exp run --temp")
    run("run", "--queue", "-S", "seed=1,2,3,4")
    run("run", "--run-all", "-j", "2")
    done("a queue of 4 with 2 workers, sync", clone.striate("sync"))
    again.append(clone.striate("sync"))
    run("run", "-n", "batches", "-S", "evaluate.batch_size=7")
    done("an evaluation of a cached checkpoint")
    clone.go_back()
    run("apply", "deep")
    done("dvc exp apply of an older experiment")
    clone.go_back()
    run("branch", "wide", "wide-branch")
    done("dvc exp branch")
    (clone.folder / "mlflow.db").unlink()
    shutil.rmtree(clone.folder / "mlartifacts")
    done("removal of the database, sync", clone.striate("sync"))
    again.append(clone.striate("sync"))
    copy = copied(clone, folder / "second")
    done("a copy of the repository, sync there", copy.striate("sync"), copy)
    kill_training(clone)
    done("kill -9 of a trainer, sync", clone.striate("sync"))
    again.append(clone.striate("sync"))
    return SimpleNamespace(by_name=steps, again=again, copy=copy)


def copied(clone, folder):
    shutil.copytree(clone.folder, folder, symlinks=True)
    (folder / ".dvc/tmp/striate-synced.json").unlink()
    return Clone(folder)


def kill_training(clone):
    """Begin an experiment, kill all of its processes, and put the working tree back."""
    trainer = subprocess.Popen(
        ["dvc", "exp", "run", "-n", "killed", "-S", "training.epochs=5000"],
        cwd=clone.folder, env=clone.env, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: "RUNNING" in statuses(clone))
    for process in [*psutil.Process(trainer.pid).children(recursive=True), trainer]:
        process.kill()
    trainer.wait()
    # Its curves are there, which DVC does not know.
    clone.go_back("--force", "dvc.yaml")


EXPERIMENTS = {  # after each step
    "dvc repro, committed": 1,
    "dvc exp run": 2,
    "the same again, from the cache": 2,
    "dvc exp run --temp": 3,
    "a queue of 4 with 2 workers, sync": 7,
    "an evaluation of a cached checkpoint": 8,
    "dvc exp apply of an older experiment": 8,
    "dvc exp branch": 8,
    "removal of the database, sync": 8,
    "a copy of the repository, sync there": 8,
    "kill -9 of a trainer, sync": 8,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), EXPERIMENTS.items(), ids=EXPERIMENTS)
def test_one_experiment_one_run_the_same_numbers(steps, name, count):
    step = steps.by_name[name]
    assert f"MLflow agrees with DVC on {count} experiment" in step.verified
    assert step.statuses.count("FINISHED") == count


@pytest.mark.slow
def test_a_second_sync_has_nothing_to_do(steps):
    assert all("nothing to do" in said for said in steps.again)


@pytest.mark.slow
def test_every_run_of_a_removed_database_is_replayed(steps):
    assert steps.by_name["removal of the database, sync"].said.count("replayed") == 8


@pytest.mark.slow
def test_the_runs_of_a_copy_have_their_files_in_the_copy(steps, monkeypatch):
    folder = steps.copy.folder
    monkeypatch.chdir(folder)
    store = mlflow_store.open_store()
    for run in store.runs():
        assert run.info.artifact_uri.startswith((folder / "mlartifacts").as_uri())
        paths = {artifact.path for artifact in store.client.list_artifacts(run.info.run_id)}
        assert paths == {"checkpoint", "figures", "report", "card"}


@pytest.mark.slow
def test_the_run_of_a_killed_training_is_closed(steps):
    step = steps.by_name["kill -9 of a trainer, sync"]
    assert "terminated: its process is gone" in step.said
    assert step.statuses.count("KILLED") == 1
    assert "RUNNING" not in step.statuses


def create_stores(barrier, folders, failures):
    """Open one new store after another, at the same moment as the other processes."""
    for folder in folders:
        os.environ["DVC_ROOT"] = str(folder)
        barrier.wait(120)
        try:
            store = mlflow_store.open_store()
            store.create("run", {"key": 1}, {"tag": "value"})
        except Exception as error:
            failures.put(repr(error))


@pytest.mark.slow
def test_four_processes_may_create_the_store_at_once(tmp_path, monkeypatch):
    folders = [tmp_path / str(number) for number in range(20)]
    for folder in folders:
        folder.mkdir()
    context = multiprocessing.get_context("spawn")
    barrier, failures = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=create_stores, args=(barrier, folders, failures)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * 4
    assert failures.empty(), failures.get()
    for folder in folders:
        monkeypatch.setenv("DVC_ROOT", str(folder))
        assert len(mlflow_store.open_store().runs()) == 4


@pytest.fixture(scope="module")
def outage(tmp_path_factory):
    """A training whose MLflow server is killed in its 20th epoch, and comes back after it.

    Has the `clone`, the server's `address`, the `status` of the training and what was said: by the
    training, by `verify` without the server, and by `sync` and `verify` with it.
    """
    folder = tmp_path_factory.mktemp("outage")
    clone = Clone.of_this_tree(folder / "repository", **SMALL)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = ["server", "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db",
               "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    clone.env["MLFLOW_TRACKING_URI"] = address
    with server(folder, command, port):
        training = subprocess.Popen(
            ["dvc", "exp", "run", "-n", "cut", "-S", "training.epochs=150"],
            cwd=clone.folder, env=clone.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        seen = ""
        for line in training.stdout:
            seen += line
            if "epoch 20/150" in line:
                break
    seen += training.communicate()[0]  # the server is gone by now
    verified = clone.striate("verify", status=2)
    with server(folder, command, port):
        synced, verified_then = clone.striate("sync"), clone.striate("verify", status=None)
    return SimpleNamespace(
        clone=clone, address=address, status=training.returncode, trained=seen, verified=verified,
        synced=synced, verified_then=verified_then,
    )  # fmt: skip


@pytest.mark.slow
def test_a_training_survives_the_server_it_is_recorded_on(outage):
    assert outage.status == 0, outage.trained
    assert "Traceback" not in outage.trained
    said = f"note: MLflow at {outage.address} does not answer; retrying"
    assert said in outage.trained
    assert outage.clone.json("metrics/train.json")["epochs"] == 150
    assert outage.clone.json("metrics/test.json")["n"] == 360


@pytest.mark.slow
def test_that_the_server_is_gone_is_told_once_and_verify_fails(outage):
    # What was said behind the prompt is told by whatever comes next; then, what this command found.
    said = outage.trained + outage.verified
    warning = f"warning: MLflow at {outage.address} failed, so this run is not logged there"
    assert said.count(warning) == 1
    assert outage.verified.count(f"error: MLflow at {outage.address} failed") == 1
    assert "Traceback" not in outage.verified


@pytest.mark.slow
def test_sync_records_what_a_killed_server_missed(outage):
    assert "replayed" in outage.synced
    assert "MLflow agrees with DVC on" in outage.verified_then


@pytest.mark.slow
def test_the_champion_is_served_and_answers_as_evaluate_did(tmp_path, monkeypatch):
    clone = Clone.of_this_tree(tmp_path / "repository", **SMALL)
    clone.run("dvc", "exp", "run", "--temp", "-n", "better", "-S", "training.epochs=4")
    assert "version 1: better" in clone.striate("promote", "better")
    assert "refused" in clone.striate("promote", "main", status=1)
    assert "there is no experiment, branch or commit 'x'" in clone.striate("promote", "x", status=2)
    clone.striate("verify")
    port = free_port()
    clone.run("dvc", "exp", "apply", "better")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{clone.folder}/mlflow.db")
    pixels = np.load(clone.folder / "data/test/images.npy")
    logits = np.load(clone.folder / "predictions/logits.npy")
    command = ["models", "serve", "-m", "models:/striate@champion", "--env-manager", "local"]
    with server(clone.folder, command, port):
        for count in (1, 64):
            body = f'{{"inputs": {pixels[:count].tolist()}}}'.encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                served = np.array(json.loads(answer.read())["predictions"], np.float32)
            assert served.shape == (count, 10)
            assert (served.argmax(1) == logits[:count].argmax(1)).all()
            np.testing.assert_allclose(served, logits[:count], rtol=1e-5, atol=1e-5)
    clone.go_back()
    assert "version 2: main" in clone.striate("promote", "main", "--force")
