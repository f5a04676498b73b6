"""What tracking costs: the same work with and without it, in turn, medians.

    python benchmarks/tracking_cost.py            digits: a cold `dvc repro`, then `striate sync`
    python benchmarks/tracking_cost.py mnist      the train stage alone, at the default params
                                                  (set STRIATE_MIRROR to a folder with MNIST)

Everything happens in a clone of this repository's last commit, in a temporary folder.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
MADE = (".dvc/cache", ".dvc/tmp", "mlflow.db", "mlartifacts", "data", "models", "predictions",
        "reports", "dvc.lock")  # fmt: skip


def run(folder, tracking, *command):
    """Run a command in `folder`; returns seconds and what it printed."""
    env = os.environ | {"STRIATE_TRACKING": tracking, "PYTHONPATH": "src"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    start = time.perf_counter()
    answer = subprocess.run(
        command, cwd=folder, env=env, check=True, stdout=subprocess.PIPE, text=True
    )
    return time.perf_counter() - start, answer.stdout


def cold_repro(folder, tracking):
    for name in MADE:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    repro, _ = run(folder, tracking, "dvc", "repro", "--quiet")
    sync, _ = run(folder, tracking, sys.executable, "-m", "striate.cli", "sync")
    return {"dvc repro": repro, "striate sync": sync, "together": repro + sync}


# Times every epoch from outside the stage, by the lines that it prints.
EPOCH_TIMER = """
import json, subprocess, sys, time
start = last = time.perf_counter()
stage = subprocess.Popen([sys.executable, "stages/train.py"], stdout=subprocess.PIPE, text=True)
marks = []
for line in stage.stdout:
    marks.append((line, time.perf_counter()))
assert stage.wait() == 0
end = time.perf_counter()
first = next(t for line, t in marks if "parameters" in line)
last = [t for line, t in marks if line.startswith("epoch")][-1]
print(json.dumps({"training": last - first, "whole stage": end - start}))
"""


def train_stage(folder, tracking):
    _, printed = run(folder, tracking, sys.executable, "-c", EPOCH_TIMER)
    return json.loads(printed.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", nargs="?", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores,"
        f" Python {platform.python_version()}, torch {torch.__version__},"
        f" {arguments.rounds} rounds, on and off in turn"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "striate")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        measure = cold_repro
        if arguments.work == "mnist":
            measure = train_stage
            params = folder / "params.yaml"
            params.write_text(params.read_text().replace("name: digits", "name: mnist"))
            run(folder, "off", sys.executable, "stages/download.py")
        seconds = {"on": [], "off": []}
        for _ in range(arguments.rounds):
            for tracking, measured in seconds.items():
                measured.append(measure(folder, tracking))
    print(f"\n| {arguments.work}, median seconds | on | off | difference | share |")
    print("|---|--:|--:|--:|--:|")
    for name in seconds["on"][0]:
        on, off = (statistics.median(m[name] for m in seconds[t]) for t in ("on", "off"))
        print(f"| {name} | {on:.2f} | {off:.2f} | {on - off:+.2f} | {(on - off) / off:+.1%} |")
    print(f"\nall rounds: {json.dumps(seconds)}")


if __name__ == "__main__":
    main()
