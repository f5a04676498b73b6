"""DVC's record and MLflow's agree, whichever way an experiment came about."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager

import numpy as np
import psutil
import pytest
from clones import Clone

from striate.tracking import mlflow_store

pytestmark = pytest.mark.walk

SMALL = {"training__epochs": 1, "model__width": 4}


def agree(clone):
    """Verify must pass; returns the number of experiments, which is that of finished runs."""
    said = clone.striate("verify")
    count = int(re.search(r"on (\d+) experiment", said)[1])
    assert statuses(clone).count("FINISHED") == count
    return count


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


@pytest.mark.slow
def test_one_experiment_one_run_the_same_numbers(tmp_path):
    clone = Clone.of_this_tree(tmp_path / "first", **SMALL)
    table = [("dvc repro, committed", agree(clone))]

    def step(name, expected, current=clone):
        table.append((name, agree(current)))
        print(f"{name:<55} {table[-1][1]} experiments, as many runs, verify 0")
        assert table[-1][1] == expected, name

    clone.run("dvc", "exp", "run", "-n", "deep", "-S", "model.layers=3")
    step("dvc exp run -S model.layers=3", 2)
    clone.go_back()
    clone.run("dvc", "exp", "run", "-f", "-n", "deep", "-S", "model.layers=3")
    step("the same again, from the cache", 2)
    clone.go_back()
    clone.run("dvc", "exp", "run", "--temp", "-n", "wide", "-S", "model.width=8")
    step("dvc exp run --temp", 3)
    clone.run("dvc", "exp", "run", "--queue", "-S", "seed=1,2,3,4")
    clone.run("dvc", "exp", "run", "--run-all", "-j", "2")
    clone.striate("sync")
    step("a queue of 4 with 2 workers, sync", 7)
    assert "nothing to do" in clone.striate("sync")
    clone.run("dvc", "exp", "run", "-n", "batches", "-S", "evaluate.batch_size=7")
    step("an evaluation of a cached checkpoint", 8)
    clone.go_back()
    clone.run("dvc", "exp", "apply", "deep")
    step("dvc exp apply of an older experiment", 8)
    clone.go_back()
    clone.run("dvc", "exp", "branch", "wide", "wide-branch")
    step("dvc exp branch", 8)
    (clone.folder / "mlflow.db").unlink()
    shutil.rmtree(clone.folder / "mlartifacts")
    assert clone.striate("sync").count("replayed") == 8
    step("removal of the database, sync", 8)
    assert "nothing to do" in clone.striate("sync")

    shutil.copytree(clone.folder, tmp_path / "second", symlinks=True)
    copy = Clone(tmp_path / "second")
    (copy.folder / ".dvc/tmp/striate-synced.json").unlink()
    copy.striate("sync")
    step("a copy of the repository, sync there", 8, copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy.folder)
        store = mlflow_store.open_store()
        for run in store.runs():
            assert run.info.artifact_uri.startswith((copy.folder / "mlartifacts").as_uri())
            paths = {artifact.path for artifact in store.client.list_artifacts(run.info.run_id)}
            assert paths == {"checkpoint", "figures", "report", "card"}
    shutil.rmtree(copy.folder)

    trainer = subprocess.Popen(
        ["dvc", "exp", "run", "-n", "killed", "-S", "training.epochs=5000"],
        cwd=clone.folder, env=clone.env, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: "RUNNING" in statuses(clone))
    for process in [*psutil.Process(trainer.pid).children(recursive=True), trainer]:
        process.kill()
    trainer.wait()
    clone.go_back()
    assert "terminated: its process is gone" in clone.striate("sync")
    step("kill -9 of a trainer, sync", 8)
    assert statuses(clone).count("KILLED") == 1
    assert "RUNNING" not in statuses(clone)
    assert "nothing to do" in clone.striate("sync")


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


@pytest.mark.slow
def test_a_server_that_is_killed_costs_no_work(tmp_path):
    clone = Clone.of_this_tree(tmp_path / "repository", **SMALL)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = ["server", "--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db",
               "--artifacts-destination", str(tmp_path / "artifacts")]  # fmt: skip
    clone.env["MLFLOW_TRACKING_URI"] = address
    with server(tmp_path, command, port):
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
    assert training.returncode == 0, seen
    assert "Traceback" not in seen
    assert f"note: MLflow at {address} does not answer; retrying" in seen
    assert clone.json("metrics/train.json")["epochs"] == 150
    assert clone.json("metrics/test.json")["n"] == 360
    said = clone.striate("verify", status=2)
    # What was said behind the prompt is told by whatever comes next; then, what this command found.
    assert (seen + said).count(
        f"warning: MLflow at {address} failed, so this run is not logged there"
    ) == 1
    assert said.count(f"error: MLflow at {address} failed") == 1
    assert "Traceback" not in said
    with server(tmp_path, command, port):
        assert "replayed" in clone.striate("sync")
        clone.striate("verify")


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
