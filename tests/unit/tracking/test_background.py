"""What is done behind the prompt: by one process for each DVC, which a command can wait for."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from striate.tracking import background, logger

# A DVC in which three processes, one after another, claim the job as stages do.
DVC = """
import subprocess, sys
stage = '''
import os, sys
from pathlib import Path
from striate.tracking import background
claim = background.claim(Path.cwd())
print(claim is not None, flush=True)
if claim:
    os.set_inheritable(claim.descriptor, True)
    os.spawnl(os.P_NOWAIT, sys.executable, sys.executable, "-c", "import time; time.sleep(3)")
'''
for _ in range(3):
    subprocess.run([sys.executable, "-c", stage], check=True)
"""


@pytest.fixture
def dvc(tmp_path, monkeypatch):
    """A program whose name is that of DVC, and a folder to run it in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train")
    (tmp_path / "dvc").write_text(DVC)
    return [sys.executable, str(tmp_path / "dvc"), "repro"]


def test_of_all_stages_of_one_dvc_the_first_has_the_job_and_a_command_waits_for_it(
    dvc, tmp_path, capsys
):
    running = subprocess.Popen(dvc, stdout=subprocess.PIPE, text=True)
    tag = background.process_tag(running.pid)
    assert [running.stdout.readline() for _ in range(3)] == ["True\n", "False\n", "False\n"]
    assert [path.name for path in (tmp_path / background.PENDING).iterdir()] == [tag]
    running.stdout.close()
    running.wait()
    begin = time.monotonic()
    background.wait(tmp_path)
    assert 1 < time.monotonic() - begin < 30
    assert capsys.readouterr().err == "waiting for the process that writes to MLflow ...\n"
    assert list((tmp_path / background.PENDING).iterdir()) == []
    background.wait(tmp_path)
    assert capsys.readouterr().err == ""


def test_a_dvc_that_goes_on_is_not_waited_for(tmp_path):
    path = tmp_path / background.PENDING / background.process_tag(os.getpid())
    path.parent.mkdir(parents=True)
    path.touch()
    background.wait(tmp_path)
    assert path.exists()


def test_outside_dvc_there_is_no_job(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert background.claim(tmp_path) is None
    monkeypatch.setenv("DVC_STAGE", "train")  # as where a program calls DVC's own functions
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: ["python", "notebook"])
    assert background.claim(tmp_path) is None
    assert not (tmp_path / background.PENDING).exists()


def test_the_outermost_dvc_is_waited_for(monkeypatch):
    lines = iter(
        [["dvc", "exp", "exec-run"], ["python", "/x/bin/dvc", "exp", "queue-worker"], ["make"]]
    )
    parents = [psutil.Process(), psutil.Process(os.getppid()), psutil.Process()]
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setattr(psutil.Process, "parents", lambda self: parents)
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: next(lines))
    assert background.dvc_process() == os.getppid()


def test_a_process_that_nobody_has_asked_about_is_gone():
    child = subprocess.Popen([sys.executable, "-c", ""])
    tag = background.process_tag(child.pid)
    end = time.monotonic() + 30
    while not background.is_gone(tag):  # it has ended, and its parent has not noticed
        assert time.monotonic() < end
    child.wait()


def test_what_was_said_to_nobody_is_told_once(tmp_path, capsys):
    said = f"""
import sys
from pathlib import Path
from striate.tracking import background
print("heard", file=sys.stderr)
background.redirect_stderr(Path({str(tmp_path)!r}))
print("not heard", file=sys.stderr)
"""
    run = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert run.stderr == "heard\n"
    for expected in ("not heard\n", ""):
        background.print_messages(tmp_path)
        assert capsys.readouterr().err == expected


def test_whatever_is_behind_the_prompt_keeps_no_pipe_open(tmp_path):
    """Else `dvc repro | tee log` would end only when MLflow does."""
    stage = """
from striate.tracking.logger import logbook
with logbook() as log:
    log.start({"seed": 0, "data.name": "digits", "model.layers": 1, "model.width": 1}, {})
"""
    env = os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    env.pop(logger.SWITCH, None)
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", stage], cwd=tmp_path, env=env, capture_output=True)
    assert time.monotonic() - begin < 10  # a server that does not answer is asked for 15 s


def test_it_takes_little_of_the_processor():
    ask = "import os; from striate.tracking import background; background.lower_priority(); "
    ask += "print(os.nice(0))"
    run = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert run.stdout == "19\n"


def test_messages_that_come_after_others_were_told_are_told_too(tmp_path, capfd):
    with (tmp_path / "stderr").open("w") as kept:
        saved = os.dup(2)
        try:
            os.dup2(kept.fileno(), 2)
            background.redirect_stderr(tmp_path)
            background.print_messages(tmp_path)
            os.write(2, b"late\n")
        finally:
            os.dup2(saved, 2)
            os.close(saved)
    background.print_messages(tmp_path)
    assert capfd.readouterr().err == "late\n"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["/x/bin/python", "/x/bin/dvc", "exp", "run"], True),
        (["python3.11", "-X", "utf8", "-m", "dvc", "repro"], True),
        (["dvc", "repro"], True),
        (["bash", "p.sh", "dvc"], False),
        (["screen", "-S", "dvc"], False),
        (["python", "-m", "striate.cli", "tune"], False),
        (["python", "tool.py", "dvc"], False),
        ([], False),
    ],
)
def test_dvc_is_told_from_other_programs(command, expected):
    assert background.is_dvc(command) is expected


def test_where_the_job_cannot_be_claimed_it_is_said(dvc, tmp_path, monkeypatch, capsys):
    def refuse(root, pid):
        raise NotADirectoryError(20, "Not a directory", ".dvc/tmp/striate-pending")

    monkeypatch.setattr(background, "claim", refuse)
    monkeypatch.delenv(logger.SWITCH, raising=False)
    logger.record_later()
    said = capsys.readouterr().err
    assert said.startswith("warning: MLflow is not updated after this run ([Errno 20]")
    assert "`striate sync` does it" in said
