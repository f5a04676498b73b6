"""Kill workers of a study at random instants, and count what became of their trials.

usage: python tests/helpers/tuning_kills.py FOLDER COUNT

Makes a repository of this tree's files in FOLDER, which must not exist. A study of digits runs
there on two workers, as a person would start it; every 10 to 45 seconds one worker is killed, COUNT
times. Then the study runs to its end. Prints a JSON object.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml
from clones import Clone

from striate.training.resume_files import RESUME_DIR
from striate.tuning import studies

SECONDS = (10, 45)  # between two kills
SPACE = {
    "training.learning_rate": {"low": 0.0003, "high": 0.1, "log": True},
    "training.batch_size": {"low": 20, "high": 200},
    "training.epochs": 60,
}


def workers(command):
    return [one for one in psutil.Process(command.pid).children()
            if "striate.tuning.workers" in " ".join(one.cmdline())]  # fmt: skip


def processes_in(folder):
    """Processes that still run in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            pass
    return found


def main(folder, count):
    clone = Clone.unrun(folder)
    (folder / "tune.yaml").write_text(yaml.safe_dump(SPACE))
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "Start.")
    trials = max(count // 2, 3)  # or more, where the last of them ends before the last kill
    drawn, kills, begin = random.Random(0), 0, time.monotonic()
    while True:
        options = ("--workers", "2", "--trials", str(trials))
        command = subprocess.Popen(
            [sys.executable, "-m", "striate.cli", "tune", *options],
            cwd=folder, env=clone.env, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while kills < count and command.poll() is None:
            time.sleep(drawn.uniform(*SECONDS))
            if command.poll() is None and (found := workers(command)):
                drawn.choice(found).kill()
                kills += 1
        assert command.wait() == 0
        if kills == count:
            break
        trials += 2
    seconds = time.monotonic() - begin
    time.sleep(5)
    study = studies.open_study("tune", studies.default_storage(folder), folder)
    states = [trial.state.name for trial in study.trials]
    again = [trial for trial in study.trials if trial.system_attrs.get("failed_trial") is not None]
    done = studies.finished(study.trials)
    names = {trial.user_attrs["experiment"] for trial in done if trial.state.name == "COMPLETE"}
    kept = set(clone.run("dvc", "exp", "list", "--name-only").split())
    clone.striate("sync")
    print(
        json.dumps(
            {
                "kills": kills,
                "trials marked failed": states.count("FAIL"),
                "tried again": len(again),
                "of these complete": sum(trial in done for trial in again),
                "asked for": trials,
                "complete": states.count("COMPLETE"),
                "cut": states.count("PRUNED"),
                "experiments as the study says": kept == names,
                "processes left": len(processes_in(folder)),
                "states left": len(list((folder / RESUME_DIR).glob("*.state"))),
                "folders left": len(list((folder / ".dvc/tmp/exps/standalone").glob("tmp*"))),
                "git status": clone.run("git", "status", "--porcelain"),
                "verify": clone.striate("verify", status=None).strip(),
                "seconds": round(seconds),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
