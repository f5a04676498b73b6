"""What every stage does around its work; tests/integration/test_survival.py sees it under DVC."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from striate.errors import UserError
from striate.pipeline import stage
from striate.training.resume_files import RESUME_DIR

PIPELINE = """
stages:
  make:
    cmd: python make.py
    deps: [make.py]
    outs: [folder, file]
    metrics:
      - metric.json: {cache: false}
"""
PROGRAM = """
import pathlib
pathlib.Path("folder").mkdir()
for name in ("folder/inner", "file", "metric.json"):
    pathlib.Path(name).write_text(name)
"""
OUTPUTS = {"folder/inner": "folder/inner", "file": "file", "metric.json": "metric.json"}


def content(folder):
    """Those of the outputs that are there."""
    return {name: (folder / name).read_text() for name in OUTPUTS if (folder / name).exists()}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A DVC repository whose one stage has run, committed."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "make.py").write_text(PROGRAM)
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    for command in (
        ["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "repro", "-q"], ["git", "add", "-A"],
        ["git", *identity, "commit", "-qm", "Run."],
    ):  # fmt: skip
        subprocess.run(command, cwd=folder, env=env, check=True)
    return folder


@pytest.fixture
def removed(ran, tmp_path, monkeypatch):
    """A copy of it whose outputs DVC has removed to start the stage again."""
    folder = tmp_path / "copy"
    shutil.copytree(ran, folder, symlinks=True)
    shutil.rmtree(folder / "folder")
    for name in ("file", "metric.json"):
        (folder / name).unlink()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_STAGE", "make")
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setattr(stage, "_end_with_parent", lambda: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)


def fail(error):
    with stage.stage():
        raise error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("wrong"), 2),
        (OSError(28, "No space left on device"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_outputs_are_put_back_whatever_ends_a_stage(removed, error, status, capsys):
    Path("file").write_text("half of a new one")
    with pytest.raises(SystemExit) as caught:
        fail(error)
    assert caught.value.code == status
    assert content(removed) == OUTPUTS
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_fault_of_the_code_keeps_its_traceback_and_the_outputs(removed):
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError())
    assert content(removed) == OUTPUTS


def test_metrics_come_from_git_where_the_cache_has_none(removed):
    shutil.rmtree(removed / ".dvc/cache")
    stage.restore_outputs("make")
    assert content(removed) == {"metric.json": "metric.json"}


def test_metrics_that_are_not_those_of_the_lock_stay_away(removed):
    shutil.rmtree(removed / ".dvc/cache")
    lock = removed / "dvc.lock"
    text = lock.read_text()
    md5 = text.split("path: metric.json")[1].split("md5: ")[1].split()[0]
    lock.write_text(text.replace(md5, "a" * 32))
    stage.restore_outputs("make")
    assert content(removed) == {}


def test_a_stage_that_never_ran_has_nothing_to_put_back(removed):
    (removed / "dvc.lock").unlink()
    stage.restore_outputs("make")
    assert content(removed) == {}


def test_in_a_temporary_copy_and_without_dvc_nothing_is_put_back(removed, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(removed.parent))
    with pytest.raises(SystemExit):
        fail(UserError("wrong"))
    monkeypatch.delenv("DVC_STAGE")
    with pytest.raises(SystemExit):
        fail(UserError("wrong"))
    assert content(removed) == {}


def test_outputs_that_cannot_be_put_back_are_said_with_what_helps(removed, capsys, monkeypatch):
    def full(name):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage, "restore_outputs", full)
    with pytest.raises(SystemExit):
        fail(UserError("wrong"))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: wrong"
    assert "could not be restored (No space left on device); try `dvc checkout" in second
    assert "try `dvc checkout --force dvc.yaml` and `git checkout metrics`" in second


def test_a_termination_is_an_interrupt(removed):
    with pytest.raises(SystemExit) as caught:
        terminate()
    assert caught.value.code == 130


def terminate():
    with stage.stage():
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def states(tmp_path, monkeypatch):
    """Three trainings whose outputs were written, one of which DVC has recorded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "dvc.lock").write_text("stages: {train: {outs: [{path: models, md5: a.dir}]}}")
    folder = tmp_path / RESUME_DIR
    folder.mkdir(parents=True)
    for name, models in (("one", "a.dir"), ("two", "b.dir"), ("three", None)):
        (folder / f"{name}.state").write_text("state")
        if models:
            (folder / f"{name}.done").write_text(models)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_state_of_a_recorded_training_is_removed_when_a_stage_starts(states):
    with stage.stage():
        assert names(states) == ["three.state", "two.done", "two.state"]


def test_another_stage_may_remove_it_first(states):
    (states / "gone.done").symlink_to("nowhere")  # listed, and not there when it is read
    with stage.stage():
        assert {"one.done", "one.state"}.isdisjoint(names(states))


@pytest.mark.parametrize("lock", [None, "", "[", "stages: {}", "stages: {train: {outs: 3}}"])
def test_without_a_record_states_stay(states, lock):
    Path("dvc.lock").unlink()
    if lock is not None:
        Path("dvc.lock").write_text(lock)
    before = names(states)
    with stage.stage():
        assert names(states) == before


def test_a_stage_whose_parent_is_no_dvc_ends(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setattr(os, "getppid", lambda: 0)  # has no program
    with pytest.raises(SystemExit) as caught, stage.stage():
        raise AssertionError("it began")
    assert caught.value.code == 130


@pytest.mark.parametrize(("value", "status"), [("banana", 2), ("Off", 0), ("ON", 0), ("", 0)])
def test_a_faulty_switch_of_the_tracking_ends_a_stage_before_its_work(
    tmp_path, monkeypatch, capsys, value, status
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRIATE_TRACKING", value)
    worked = False
    with pytest.raises(SystemExit) if status else nullcontext() as caught, stage.stage():
        worked = True
    assert worked is not bool(status)
    if status:
        assert caught.value.code == status
        said = "error: STRIATE_TRACKING is 'banana'; it must be on, off, or trackers separated by"
        said += " commas: mlflow\n"
        assert capsys.readouterr().err == said
