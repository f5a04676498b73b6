"""Kill processes of two-process trainings at random instants, and compare the outputs.

usage: python kills_of_groups.py FOLDER COUNT

FOLDER holds params.yaml with `training.processes: 2`, and data/. Of each training one process, or
two one after the other, are drawn and killed, at instants that are uniform between the start of the
training and the time of an uninterrupted one; the second instant counts from the first. torchrun
has to restart both. Prints a JSON object.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
from paths import ROOT

RESUME_DIR = Path(".dvc/tmp/striate")


def start():
    command = [sys.executable, str(ROOT / "stages/train.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    with Path("train.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def clear():
    for name in ("models", "metrics", RESUME_DIR):
        shutil.rmtree(name, ignore_errors=True)
    Path("train.log").unlink(missing_ok=True)


def outputs():
    return {str(p): p.read_bytes() for name in ("models", "metrics") for p in Path(name).iterdir()}


def kill_one(launcher, drawn):
    """Kill one process of the group; returns whether there was one."""
    try:
        members = psutil.Process(launcher.pid).children()
        drawn.choice(members).kill()
    except (psutil.NoSuchProcess, IndexError):
        return False
    return True


def train(drawn=None, instants=()):
    """Train to the end with a kill after each of these times; returns seconds, kills and status."""
    clear()
    begin = time.perf_counter()
    launcher = start()
    kills = 0
    for seconds in instants:
        time.sleep(seconds)
        kills += launcher.poll() is None and kill_one(launcher, drawn)
    status = launcher.wait()
    return time.perf_counter() - begin, kills, status


def main(count):
    usual = statistics.median(train()[0] for _ in range(2))
    expected = outputs()
    drawn = random.Random(0)
    found = []
    while len(found) < count:
        wanted = 1 + len(found) % 2
        instants = [drawn.uniform(0, usual) for _ in range(wanted)]
        seconds, kills, status = train(drawn, instants)
        if kills < wanted:  # the training was over, or torchrun was about to start its processes
            continue
        survived = status == 0
        equal = survived and outputs() == expected and not list(RESUME_DIR.iterdir())
        resumed = "resuming after" in Path("train.log").read_text()
        found.append({"kills": kills, "survived": survived, "equal": equal, "resumed": resumed,
                      "seconds": round(seconds, 1)})  # fmt: skip
        print(found[-1], file=sys.stderr, flush=True)
    for kills in (1, 2):
        of_them = [one for one in found if one["kills"] == kills]
        counts = {key: sum(one[key] for one in of_them) for key in ("survived", "equal", "resumed")}
        seconds = statistics.median(one["seconds"] for one in of_them)
        print(json.dumps({"kills": kills, "attempts": len(of_them), **counts,
                          "seconds": seconds, "usual": round(usual, 1)}))  # fmt: skip


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    main(int(sys.argv[2]))
