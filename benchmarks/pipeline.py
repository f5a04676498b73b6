"""The whole tracked pipeline on MNIST against the notebook's whole script, in turn.

    python benchmarks/pipeline.py --rounds 2

One side is `dvc repro` at the notebook's settings in a clone of this repository's last commit:
download from the mirror, train, evaluate, visualise, all tracked in MLflow, with nothing cached;
then `striate sync`. The other is a script that trains as the notebook does, tests, draws images,
filters and predictions, and saves the weights. Set STRIATE_MIRROR to a folder with the data.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, Clone, header, spread, table


def notebook(folder):
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, ROOT / "benchmarks/script.py", folder], check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clone, folder = Clone(Path(name, "clone"), "HEAD"), Path(name, "script")
        folder.mkdir()
        text = (clone.folder / "params.yaml").read_text()
        text = text.replace("name: digits ", "name: mnist ").replace("val_size: 0.1", "val_size: 0")
        (clone.folder / "params.yaml").write_text(text)
        theirs, ours = [], []
        for _ in range(arguments.rounds):
            theirs.append(notebook(folder))
            ours.append(sum(clone.reproduce(STRIATE_TRACKING="on")))
    print(header() + "\n")
    ratio = statistics.median(ours) / statistics.median(theirs)
    table(["MNIST, 5 epochs", "seconds", "ratio"], [
        ["the notebook's script", spread(theirs, digits=1), "1"],
        ["dvc repro and striate sync", spread(ours, digits=1), f"{ratio:.2f}"],
    ])  # fmt: skip


if __name__ == "__main__":
    main()
