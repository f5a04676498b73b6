"""Whether params give the same bytes on other processors, and what portable arithmetic costs.

    python benchmarks/processors.py                              digits, here and on emulated ones
    python benchmarks/processors.py -S training.optimizer=muon   the same with other params
    python benchmarks/processors.py --price mnist cifar10        seconds of training, in turn

The emulated processors need qemu-x86_64 (Debian: qemu-user). Set STRIATE_MIRROR for --price.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from common import ROOT, header, table

EMULATED = ("Haswell", "EPYC", "Skylake-Client")  # Intel 2013, AMD 2017, Intel 2015: AVX2
MODES = ("portable", True)


def run(folder, stage, emulator=()):
    """Run a stage without DVC and MLflow; returns the seconds."""
    clean = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS",)}
    settings = {"STRIATE_TRACKING": "off", "PYTHONPATH": "src"}
    start = time.monotonic()
    done = subprocess.run(
        [*emulator, sys.executable, f"stages/{stage}.py"],
        cwd=folder, env=clean | settings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{stage} failed: {done.stderr}")
    return time.monotonic() - start


def prepare(folder, changes):
    """A copy of the code, and data for the changed params, in a folder."""
    for name in ("src", "stages", "weights"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "metrics").mkdir()
    write(folder, changes)
    run(folder, "download")


def write(folder, changes):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        (values[section] if section else values)[name] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def outcome(folder, changes, emulator):
    """Train and score; returns the first digits of the hashes of weights and predictions."""
    write(folder, changes)
    for stage in ("train", "evaluate"):
        run(folder, stage, emulator)
    made = ("models/cnn_trained.ckpt", "predictions/logits.npy")
    return [hashlib.sha256((folder / path).read_bytes()).hexdigest()[:12] for path in made]


def compare(changes):
    emulators = {"this one": ()} | {
        f"{name}, emulated": ("qemu-x86_64", "-cpu", name)
        for name in EMULATED
        if shutil.which("qemu-x86_64")
    }
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, changes)
        for mode in MODES:
            for name, emulator in emulators.items():
                found = outcome(folder, changes | {"training.deterministic": mode}, emulator)
                rows.append([str(mode).lower(), name, *found])
    table(["deterministic", "processor", "weights", "predictions"], rows)


def price(names, rounds):
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            changes = {"data.name": name} | ({} if name == "digits" else {"training.epochs": 1})
            prepare(folder, changes)
            found = {mode: [] for mode in MODES}
            for _ in range(rounds):
                for mode, seconds in found.items():
                    write(folder, changes | {"training.deterministic": mode})
                    seconds.append(run(folder, "train"))
        rows += [
            [name, str(mode).lower(), f"{statistics.median(seconds):.1f}"]
            for mode, seconds in found.items()
        ]
    table(["data", "deterministic", "seconds of the stage train"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-S", metavar="KEY=VALUE", action="append", default=[], dest="changes")
    parser.add_argument("--price", metavar="DATA", nargs="+", help="time the stage train instead")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(header() + "\n")
    if arguments.price:
        price(arguments.price, arguments.rounds)
    else:
        pairs = (change.split("=", 1) for change in arguments.changes)
        compare({key: yaml.safe_load(value) for key, value in pairs})


if __name__ == "__main__":
    main()
