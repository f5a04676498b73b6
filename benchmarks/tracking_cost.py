"""What tracking costs MNIST's stage train, on and off in turn, and the process behind the prompt.

    python benchmarks/tracking_cost.py --rounds 3

At the default params but for `--epochs`, in a clone of this repository's last commit. That process
loads MLflow, samples system metrics and logs the epochs while the network is trained; its processor
seconds by the end of the last epoch are those it may take from the training. What tracking costs a
whole `dvc repro` of digits is in latency.py. Set STRIATE_MIRROR to a folder with MNIST.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from common import Clone, header, spread, table

# Run in a clone with one experiment, whose run is made anew: seconds by what is written, as JSON.
OF_ONE_RUN = """
import json, time
from collections import defaultdict
from pathlib import Path
from striate.tracking import mlflow_store, records, sync, system_metrics

spent, begin = defaultdict(float), time.perf_counter()
store = mlflow_store.open_store()
spent["loading MLflow, opening the database"] = time.perf_counter() - begin
for run in store.runs():
    store.delete_run(run)

def measured(name, words):
    method = getattr(mlflow_store.Store, name)
    def call(*arguments, **options):
        begin = time.perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            spent[words] += time.perf_counter() - begin
    setattr(mlflow_store.Store, name, call)

for name, words in {
    "create": "run and params", "log": "curves and scores",
    "upload": "checkpoint, report, pictures", "log_inputs": "data sets", "add_model": "model",
    "tag": "description, colour, other tags",
}.items():
    measured(name, words)
sync.sync(Path(), store, records.find(Path()).records)
sampler = system_metrics.Sampler()
sampler.begin()
system_metrics.LEAST, begin = 0.0, time.process_time()
for _ in range(1000):
    sampler.sample()
spent["one sample of processor and memory"] = (time.process_time() - begin) / 1000
print(json.dumps(spent))
"""


def one_run(clone):
    """Milliseconds of what the process behind a training writes of one run."""
    clone.seconds("dvc", "repro", "--quiet")
    clone.striate("sync")
    found = subprocess.run(
        [sys.executable, "-c", OF_ONE_RUN], cwd=clone.folder, env=clone.env, check=True,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    spent = json.loads(found.stdout.splitlines()[-1])
    return [[name, f"{1000 * seconds:,.2f}"] for name, seconds in spent.items()]


def train_stage(clone, tracking):
    """Seconds of the training, by the lines that the stage prints, and of the whole stage."""
    start = time.perf_counter()
    stage = subprocess.Popen(
        [sys.executable, "stages/train.py"], cwd=clone.folder,
        env=clone.env | {"STRIATE_TRACKING": tracking}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    marks, behind = [], 0.0
    for line in stage.stdout:
        marks.append((line, time.perf_counter()))
        if line.startswith("epoch"):
            behind = processor_seconds(clone)
    if stage.wait():
        sys.exit("the stage train failed")
    end = time.perf_counter()
    first = next(seconds for line, seconds in marks if "parameters" in line)
    last = [seconds for line, seconds in marks if line.startswith("epoch")][-1]
    return {
        "training": last - first,
        "whole stage": end - start,
        "processor, behind the prompt": behind,
    }


def processor_seconds(clone):
    """Those of the process that tracks a training of a clone, with its children's."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        found = process.info["cwd"], (process.info["cmdline"] or [])[1:3]
        if found == (str(clone.folder), ["-m", "striate.tracking.mlflow_process"]):
            return sum(process.cpu_times()[:4])
    return 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--epochs", type=int, default=0, help="of the training; those of the params"
    )
    arguments = parser.parse_args()
    print(f"{header()}, {arguments.rounds} rounds, on and off in turn\n")
    found = {"on": [], "off": []}
    with tempfile.TemporaryDirectory() as scratch:
        clone = Clone(Path(scratch, "striate"), "HEAD")
        params = clone.folder / "params.yaml"
        text = params.read_text().replace("name: digits ", "name: mnist ")
        if arguments.epochs:
            text = re.sub(r"(?m)^  epochs: \d+", f"  epochs: {arguments.epochs}", text)
        params.write_text(text)
        clone.seconds(sys.executable, "stages/download.py")
        for _ in range(arguments.rounds):
            for tracking, measured in found.items():
                measured.append(train_stage(clone, tracking))
        written = one_run(clone)
    rows = []
    for name in found["on"][0]:
        seconds = {tracking: [one[name] for one in runs] for tracking, runs in found.items()}
        on, off = (statistics.median(seconds[tracking]) for tracking in ("on", "off"))
        cells = [spread(seconds["on"]), spread(seconds["off"])]
        rows.append([name, *cells, f"{on - off:+.2f}", f"{(on - off) / off:+.1%}" if off else ""])
    table(["MNIST, seconds", "on", "off", "difference", "part"], rows)
    print()
    table(["one run, behind the prompt", "milliseconds"], written)


if __name__ == "__main__":
    main()
