"""`striate doctor`: what it tells of a machine, also of a broken one, and what it never tells."""

import re
import shutil
import subprocess
import sys

import commands
import pytest
import torch
from paths import ROOT

from striate.cli import doctor
from striate.models import devices
from striate.training import selfcheck, selfcheck_single


def rows(text):
    """The table of the output, by name."""
    heading, rule, *lines = text.splitlines()
    assert re.fullmatch(r"what +found", heading)
    width = rule.index(" ") + 2
    return {line[:width].rstrip(): line[width:] for line in lines}


def test_every_row_is_told(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    out, err = commands.run(monkeypatch, capsys, "doctor")
    found = rows(out)
    assert err == ""
    assert list(found) == list(doctor.ROWS)
    assert all(found.values())
    assert not any(text.startswith(("unknown", "not there")) for text in found.values()), found
    assert found["params.yaml"] == "valid"
    assert re.match(r"[\d.]+, commit [0-9a-f]{12}", found["Striate"])
    assert re.match(r"(cpu|cuda|mps): training.device is auto", found["device"])
    assert re.match(r"[\d.]+ of [\d.]+ GiB available", found["memory"])
    assert found["MLflow's store"].startswith("sqlite:///")


def test_a_broken_machine_is_told_row_by_row(tmp_path, monkeypatch, capsys):
    (tmp_path / "params.yaml").write_text("seed: [")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "sees_gpu", lambda: True)
    monkeypatch.setattr(devices, "cuda_fault", lambda: "it is too old")
    out, err = commands.run(monkeypatch, capsys, "doctor")
    found = rows(out)
    assert err == ""
    assert list(found) == list(doctor.ROWS)
    assert found["Striate"] == "unknown: git is not installed, or not on PATH"
    assert found["params.yaml"].startswith("unknown: params.yaml, line 1, column")
    told = "cpu: auto, as params.yaml cannot be read; CUDA: it is too old"
    assert found["device"].startswith(told)
    assert found["GPU"].endswith("; it is too old")
    assert found["DVC remotes"] == f"unknown: {tmp_path} is not the root of a DVC repository"
    assert found["MLflow's store"] == f"sqlite:///{tmp_path}/mlflow.db, not there yet"


def test_without_pytorch_the_other_rows_are_told(tmp_path):
    code = "import sys; sys.modules['torch'] = None; from striate import cli; cli.main()"
    found = subprocess.run(
        [sys.executable, "-c", code, "doctor"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (found.returncode, found.stderr) == (0, "")
    table = rows(found.stdout)
    missing = {name for name, text in table.items() if text.startswith("not there: import of")}
    assert {"torch", "threads", "device"} <= missing
    assert {"Striate", "Python", "numpy", "memory", "disk", "variables"} & missing == set()


def test_no_password_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(
        "[core]\n    remote = team\n['remote \"other\"']\n    url = /srv/dvc\n"
        "['remote \"team\"']\n    url = https://ann:secret@host/dvc?token=secret\n"
        "    password = secret\n"
    )
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for uri, shown in (
        ("https://ann:secret@host:5000", "https://***@host:5000"),
        (
            "postgresql://host/db?user=ann&password=secret",
            "postgresql+psycopg2://host/db?…",
        ),
        ("http://secret@[broken", "http://***@[broken"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        out, err = commands.run(monkeypatch, capsys, "doctor")
        assert "secret" not in out + err
        assert rows(out)["MLflow's store"] == shown
        assert rows(out)["DVC remotes"] == "team: https://***@host/dvc?… | other: /srv/dvc"


def test_the_params_choose_device_and_precision(tmp_path, monkeypatch, capsys):
    text = (ROOT / "params.yaml").read_text()
    text = text.replace("  device: auto ", "  device: cpu ")
    (tmp_path / "params.yaml").write_text(text.replace("precision: auto ", "precision: bfloat16 "))
    monkeypatch.chdir(tmp_path)
    found = rows(commands.run(monkeypatch, capsys, "doctor")[0])
    assert found["device"] == "cpu: training.device is cpu"
    assert found["precision"] == "bfloat16, channels_last: training.precision is bfloat16"


def passes(device):
    return f"well on {device.type}"


def skips(device):
    raise selfcheck_single.SkippedError("it needs two cards, and there is none")


def fails(device):
    raise selfcheck_single.CheckError("3 of 9 weights differ")


def breaks(device):
    raise ZeroDivisionError("by\nzero")


@pytest.mark.parametrize("broken", [False, True])
def test_the_self_check_is_a_table_and_a_status(monkeypatch, capsys, broken):
    checks = {"repeat": passes, "killed-process": skips}
    if broken:
        checks |= {"capture-adam": fails, "syncs": breaks}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(selfcheck, "CHECKS", checks)
    monkeypatch.setattr(devices, "pick_device", lambda *_: torch.device("cpu"))
    monkeypatch.setattr(sys, "argv", ["striate", "doctor", "--gpu"])
    with pytest.raises(SystemExit) as caught:
        commands.cli.main()
    assert caught.value.code == int(broken)
    table, _, lines = capsys.readouterr().out.partition("\n\n")
    assert list(rows(table)) == list(doctor.ROWS)
    assert (
        re.sub(r" +\d+\.\d s", " 0 s", lines).splitlines()
        == [
            "repeat          passed 0 s  well on cpu",
            "killed-process  skipped 0 s  it needs two cards, and there is none",
            "capture-adam    failed 0 s  3 of 9 weights differ",
            "syncs           failed 0 s  ZeroDivisionError: by zero",
        ][: 4 if broken else 2]
    )


def test_variables_that_change_the_arithmetic_are_told(monkeypatch):
    for name in doctor.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert doctor.ROWS["variables"]() == "none of those that matter"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert doctor.ROWS["variables"]() == "OMP_NUM_THREADS=3"
