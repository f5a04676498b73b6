"""Kill trainings at random instants, resume each one, and compare the outputs.

usage: python kills.py FOLDER COUNT

FOLDER holds params.yaml and data/. A training is a fork of this process, which has loaded PyTorch
already, and runs stages/train.py from its first line to its end. Instants are uniform between the
fork and the time that an uninterrupted training takes; a training that ends before its instant is
no kill and is drawn anew. Every third training is killed a second time, when it goes on. Prints a
JSON object.
"""

import json
import os
import random
import runpy
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path

from paths import ROOT

import striate.config.params
import striate.data.json_csv
import striate.models.checkpoint
import striate.pipeline.stage
import striate.training.loop  # noqa: F401  # all for the forks
from striate.training import resume

STAGE = ROOT / "stages" / "train.py"
RESUME_DIR = Path(".dvc/tmp/striate")


def start():
    """Fork a training; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        sink = os.open("train.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        runpy.run_path(str(STAGE), run_name="__main__")
        status = 0
    finally:
        os._exit(status)


def finish():
    """Train to the end; returns the seconds taken."""
    begin = time.perf_counter()
    _, status = os.waitpid(start(), 0)
    assert status == 0, Path("train.log").read_text()
    return time.perf_counter() - begin


def kill(seconds):
    """Start a training and kill it after `seconds`; returns whether it was still running."""
    pid = start()
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def clear():
    for name in ("models", "metrics", RESUME_DIR):
        shutil.rmtree(name, ignore_errors=True)


def outputs():
    return {
        str(path): path.read_bytes()
        for name in ("models", "metrics")
        for path in Path(name).iterdir()
    }


def main(count):
    finish()  # the first one is slower
    times = []
    for _ in range(3):
        clear()
        times.append(finish())
    expected, usual = outputs(), statistics.median(times)
    drawn = random.Random(0)
    equal = kills = resumed = within = 0
    while kills < count:
        clear()
        if not kill(drawn.uniform(0, usual)):
            continue
        kills += 1
        states = [resume.read(path) for path in RESUME_DIR.glob("*.state")]
        resumed += bool(states)
        within += any(state["steps_done"] for state in states)
        if kills % 3 == 0:
            kill(drawn.uniform(0, usual))
        finish()
        equal += outputs() == expected and not list(RESUME_DIR.iterdir())
    print(
        json.dumps(
            {"kills": kills, "equal": equal, "resumed": resumed, "within": within, "usual": usual}
        )
    )


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    main(int(sys.argv[2]))
