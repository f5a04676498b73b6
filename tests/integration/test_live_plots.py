"""The learning curves can be drawn while a training goes on."""

import os
import signal
import subprocess
import time

import pytest
from clones import Clone

from striate.data import json_csv
from striate.errors import UserError

PATIENCE = 120  # seconds for an epoch, on a busy machine


def rows_beyond(path, count):
    """The columns of a history once it has more than `count` rows."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            history = json_csv.read_history(path)
        except UserError:  # not there yet
            history = {"epoch": []}
        if len(history["epoch"]) > count:
            return history
        time.sleep(0.1)
    raise AssertionError(f"{path} has no more than {count} rows")


@pytest.mark.slow
def test_the_history_grows_while_a_training_runs_and_dvc_draws_it(tmp_path):
    clone = Clone.unrun(tmp_path / "striate", training__epochs=100_000, model__width=2)
    clone.env["STRIATE_TRACKING"] = "off"
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "Start.")
    with (tmp_path / "log").open("wb") as sink:
        running = subprocess.Popen(
            ["dvc", "repro", "train"], cwd=clone.folder, env=clone.env, stdout=sink, stderr=sink
        )
    try:
        path = clone.folder / "metrics/history.csv"
        first = rows_beyond(path, 0)
        later = rows_beyond(path, len(first["epoch"]))
        clone.run("dvc", "plots", "show", "--out", "plots")
        assert running.poll() is None
    finally:
        os.kill(running.pid, signal.SIGTERM)
        running.wait(PATIENCE)
    for name, column in first.items():
        assert later[name][: len(column)] == column
    assert later["epoch"] == list(range(1, len(later["epoch"]) + 1))
    page = (clone.folder / "plots/index.html").read_text()
    assert "val_accuracy" in page
    assert f'"epoch": "{len(first["epoch"])}"' in page
