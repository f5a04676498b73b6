"""The command `striate`, beyond the gate."""

import fcntl
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import commands
import pytest
from paths import ROOT

from striate import cli
from striate.cli import workspace
from striate.config import params
from striate.data import json_csv
from striate.reporting import seeds
from striate.tracking import records

NOTE_OTHER_CODE = workspace.note_other_code  # before a fixture hides it


def test_summary_without_a_run_is_one_line_and_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["striate", "summary"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: params.yaml cannot be read")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"accuracy": "x"}', "metrics/test.json: accuracy is 'x'; it must be a number"),
        ('{"accuracy": true}', "metrics/test.json: accuracy is True; it must be a number"),
        ('{"accuracy": 1}', "metrics/test.json: n is missing; it must be a number"),
        ('{"accuracy": 1, "n": 1, "x": null}', "metrics/test.json: x is None; it must be"),
        ("[1]", "metrics/test.json must hold a JSON object"),
        ("{", "metrics/test.json is not valid JSON"),
    ],
)
def test_summary_names_what_is_wrong_with_metrics(tmp_path, capsys, monkeypatch, content, said):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    (tmp_path / "metrics/test.json").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["striate", "summary"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")


@pytest.mark.parametrize("where", ["experiments", "table", "nowhere"])
def test_summary_states_the_mean_over_seeds(tmp_path, capsys, monkeypatch, where):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    train, test = (
        json_csv.read_metrics(tmp_path / f"metrics/{name}.json") for name in ("train", "test")
    )
    values = params.flatten(params.load(tmp_path / "params.yaml").model_dump())
    found = [
        records.Record(
            [records.Name(f"e{seed}")], {records.DATA: "d", "x": seed}, values | {"seed": seed},
            train | {"val_accuracy": train["val_accuracy"] - seed / 100},
            test | {"accuracy": test["accuracy"] - seed / 100}, None, {}, [],
        )
        for seed in range(3)
    ]  # fmt: skip
    here = found[0]
    rows = [seeds.row(seed, one.train, one.test) for seed, one in enumerate(found)]
    seeds.write(tmp_path / seeds.FILE, rows if where == "table" else rows[:1])
    found = found if where == "experiments" else found[:1]
    monkeypatch.setattr(records, "named", lambda *_: here)
    monkeypatch.setattr(records, "find", lambda _: records.Found(found, [], here))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["striate", "summary"])
    cli.main()
    shown = capsys.readouterr().out
    expected = (
        "  over 3 seeds         validation accuracy 96.22% ± 1.00% (mean 93.74 to 98.71%)\n"
        "                       test accuracy 96.50% ± 1.00% (mean 94.02 to 98.98%)\n"
    )
    assert (expected in shown) == (where != "nowhere")
    assert "over 1" not in shown
    assert "\n      repeat with seeds  striate repeat --seeds 5\n" in shown


def make_dvc_root(folder):
    (folder / ".dvc").mkdir(exist_ok=True)
    (folder / ".dvc/config").touch()


@pytest.mark.parametrize("place", ["nothing", "git", "dvc", "dvc and git"])
@pytest.mark.parametrize("command", ["sync", "verify", "promote x", "gate", "summary", "recipe"])
def test_a_command_in_the_wrong_place_is_one_line_and_makes_nothing(
    tmp_path, capsys, monkeypatch, command, place
):
    if "git" in place:
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
    if "dvc" in place:
        make_dvc_root(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["striate", *command.split()])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_ui_on_a_taken_port_or_outside_a_repository_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["striate", "ui", "--port", port])
        for said in ("is not the root of a DVC repository", f"port {port} cannot be used"):
            with pytest.raises(SystemExit) as caught:
                cli.main()
            assert caught.value.code == 2
            assert said in capsys.readouterr().err
            make_dvc_root(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / ".dvc"]


def test_ui_on_a_database_that_is_none_is_one_line(tmp_path, capsys, monkeypatch):
    make_dvc_root(tmp_path)
    (tmp_path / "mlflow.db").write_text("rubbish")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["striate", "ui", "--port", "0"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: MLflow at sqlite:")
    assert (tmp_path / "mlflow.db").read_text() == "rubbish"


def test_a_second_ui_on_a_port_whose_server_starts_is_one_line(tmp_path, capsys, monkeypatch):
    make_dvc_root(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lock = tmp_path / ".dvc/tmp" / f"striate-ui-{port}.lock"
    lock.parent.mkdir()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.chdir(tmp_path)
        out, err = commands.run(monkeypatch, capsys, "ui", "--port", port, status=2)
    assert out == ""
    assert err.startswith(f"error: another `striate ui` is starting on port {port}; ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("compare a b --page FILE", "--page is FILE; it must be the name of a page, such as "),
        ("pareto --picture FILE", "--picture is FILE; it must be the name of a picture, such as "),
        ("pareto --picture x.jpg", "--picture is x.jpg; it must be the name of a picture, such as"),
        ("data --to FILE", "--to is FILE; it must be the name of a page, such as data.html"),
        ("export --format onnx --to FILE", "FILE is not a folder"),
        ("data https://x.y/z.zip", "PATH: https://x.y/z.zip is an address; name a path on this "),
    ],
)
def test_a_file_of_another_kind_is_never_replaced(tmp_path, capsys, monkeypatch, command, said):
    make_dvc_root(tmp_path)
    (tmp_path / "params.yaml").write_text("seed: 0")
    monkeypatch.chdir(tmp_path)
    words = command.replace("FILE", "params.yaml").split()
    _, err = commands.run(monkeypatch, capsys, *words, status=2)
    assert err.startswith(f"error: {said.replace('FILE', 'params.yaml')}")
    assert err.count("\n") == 1
    assert (tmp_path / "params.yaml").read_text() == "seed: 0"


@pytest.mark.parametrize("command", ["sync", "compare a b", "gate", "summary", "recipe none"])
def test_in_a_folder_inside_the_repository_the_line_names_the_root(
    tmp_path, capsys, monkeypatch, command
):
    make_dvc_root(tmp_path)
    (tmp_path / "deep/er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/er")
    _, err = commands.run(monkeypatch, capsys, *command.split(), status=2)
    assert err.startswith("error: ")
    assert err.endswith(f"; commands run at the root of the repository: cd {tmp_path}\n")
    assert err.count("commands run at the root") == err.count("\n") == 1


def test_the_code_of_another_copy_of_the_project_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "src/striate").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workspace, "note_other_code", NOTE_OTHER_CODE)
    _, err = commands.run(monkeypatch, capsys, "recipe", "none", status=2)
    note, _ = err.splitlines()
    assert note.startswith("note: ")
    assert str(ROOT / "src/striate") in note
    assert str(tmp_path / "src/striate") in note
    monkeypatch.chdir(ROOT)
    assert commands.run(monkeypatch, capsys, "recipe")[1] == ""


@pytest.mark.slow
def test_ui_serves_the_addresses_that_it_prints_on_loopback_only(tmp_path):
    make_dvc_root(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "striate.cli", "ui", "--port", str(port)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        printed = [server.stdout.readline().partition(":") for _ in range(3)]
        assert [title for title, _, _ in printed] == ["Runs", "Comparison", "Over seeds"]
        addresses = [address.strip() for _, _, address in printed]
        assert all(address.startswith(f"http://127.0.0.1:{port}/#/") for address in addresses)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(addresses[0], timeout=5) as answer:
                    assert b"MLflow" in answer.read()
                break
            except (ConnectionError, urllib.error.URLError):
                time.sleep(1)
        else:
            pytest.fail("the server did not answer within two minutes")
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("recipe >&-", 0, ""),
        ("recipe <&- >&-", 0, ""),
        ("recipe <&- >&- 2>&-", 0, ""),
        ("recipe >/dev/full", 2, "error: No space left on device\n"),
        ("recipe nothing 2>/dev/full", 2, ""),
        ("recipe nothing 2>&-", 2, ""),
    ],
)
def test_a_standard_stream_that_is_closed_or_full_is_no_traceback(arguments, status, said):
    command = f"exec {shlex.quote(sys.executable)} -m striate.cli {arguments}"
    found = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (status, said)
    assert "error" not in found.stdout


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("raise UserError('it is wrong')", 2, "error: it is wrong\n"),
        ("raise PermissionError(13, 'Permission denied', 'a')", 2, "error: a: Permission denied\n"),
        ("raise KeyboardInterrupt('go on later')", 130, "interrupted: go on later\n"),
        ("sys.exit(3)", 1, ""),
        ("pass", 1, ""),
    ],
)
def test_a_reader_that_has_enough_hides_no_failure(end, status, said):
    script = (
        f"import sys\nfrom striate.errors import *\nwith exit_on_error():\n    print(1)\n    {end}"
    )
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run(
        [sys.executable, "-c", script],
        stdout=writer, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    os.close(writer)
    assert (found.returncode, found.stderr) == (status, said)


def test_an_interrupt_that_python_drops_is_repeated():
    script = """
import signal, time, weakref
from striate.errors import exit_on_error

class Thing:
    pass

def freed(_):
    signal.raise_signal(signal.SIGINT)  # raises here, where Python drops it

signal.signal(signal.SIGINT, signal.default_int_handler)
with exit_on_error():
    thing = Thing()
    reference = weakref.ref(thing, freed)
    del thing
    time.sleep(60)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (130, "")
    assert found.stderr == "interrupted: give the same command again\n"


def test_an_error_after_an_interrupt_that_was_caught_is_the_interrupt():
    script = """
import signal
from striate.errors import exit_on_error

signal.signal(signal.SIGINT, signal.default_int_handler)
with exit_on_error():
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        pass
    raise RecursionError
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (130, "")
    assert found.stderr == "interrupted: give the same command again\n"


def test_no_file_takes_the_number_of_a_closed_stream_and_any_character_is_written(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom striate.errors import exit_on_error\nwith exit_on_error():\n"
        "    print('caf\\u00e9', os.open('/dev/null', 0) > 2)"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = f"exec {shlex.join([sys.executable, str(script)])} <&-"
    found = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
    assert (found.stdout, found.stderr) == ("caf\\xe9 True\n", "")
