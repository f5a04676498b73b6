"""What tracking costs the stage train: MNIST with and without it, in turn, medians.

    python benchmarks/tracking_cost.py --rounds 3

At the default params, in a clone of this repository's last commit. What it costs a whole `dvc
repro` of digits is in latency.py. Set STRIATE_MIRROR to a folder with MNIST.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Clone, header, spread, table


def train_stage(clone, tracking):
    """Seconds of the training, by the lines that the stage prints, and of the whole stage."""
    start = time.perf_counter()
    stage = subprocess.Popen(
        [sys.executable, "stages/train.py"], cwd=clone.folder,
        env=clone.env | {"STRIATE_TRACKING": tracking}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    marks = [(line, time.perf_counter()) for line in stage.stdout]
    if stage.wait():
        sys.exit("the stage train failed")
    end = time.perf_counter()
    first = next(seconds for line, seconds in marks if "parameters" in line)
    last = [seconds for line, seconds in marks if line.startswith("epoch")][-1]
    return {"training": last - first, "whole stage": end - start}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{header()}, {arguments.rounds} rounds, on and off in turn\n")
    found = {"on": [], "off": []}
    with tempfile.TemporaryDirectory() as scratch:
        clone = Clone(Path(scratch, "striate"), "HEAD")
        params = clone.folder / "params.yaml"
        params.write_text(params.read_text().replace("name: digits ", "name: mnist "))
        clone.seconds(sys.executable, "stages/download.py")
        for _ in range(arguments.rounds):
            for tracking, measured in found.items():
                measured.append(train_stage(clone, tracking))
    rows = []
    for name in found["on"][0]:
        seconds = {tracking: [one[name] for one in runs] for tracking, runs in found.items()}
        on, off = (statistics.median(seconds[tracking]) for tracking in ("on", "off"))
        cells = [spread(seconds["on"]), spread(seconds["off"])]
        rows.append([name, *cells, f"{on - off:+.2f}", f"{(on - off) / off:+.1%}"])
    table(["MNIST, seconds", "on", "off", "difference", "part"], rows)


if __name__ == "__main__":
    main()
