"""Images a second in each regime of `data.residency`, as the data outgrow the memory.

    python benchmarks/residency.py

The default network on images of CIFAR-10's shape, from a quarter of the memory to four times as
much. Each training is a process of its own, PyTorch included, whose memory a control group of Linux
(v1 or v2) limits; that needs the rights of root, and without them nothing is limited. The files are
put out of the system's cache before each training, and what that caches anew counts. A regime that
cannot hold the data shows it: the training refuses, or the system kills it. Where all fits, the
regimes take turns, three times.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
FACTORS = (0.25, 0.5, 1, 2, 4)
ROUNDS = 3  # where all fits
SHAPE = (3, 32, 32)
CLASSES = 10
WARM_UP, COUNTED = 10_000, 60_000  # images


class EnoughError(Exception):
    """As many images were seen as are counted."""


def one(folder, residency):
    """Train on some images; returns how many a second, and what `auto` would have chosen."""
    import torch
    from common import params

    from striate import errors
    from striate.config import params as schema
    from striate.data import arrays
    from striate.models import checkpoint, devices, normalization
    from striate.training import lazy_images, loop, memory
    from striate.training.task import Task

    values = params(training__epochs=1000, augment__translate=2, augment__flip=True)
    settings = schema.check(values)
    devices.keep_freed_memory()
    device = devices.pick_device("auto")
    manifest = arrays.load_manifest(folder)
    normalize = normalization.pick_normalization(manifest, "unit")
    torch.manual_seed(0)
    model = checkpoint.build(checkpoint.describe(values["model"], manifest, normalize)).to(device)
    split = lazy_images.load(folder, "train", device)
    size = split.images.pixels.nbytes
    auto = memory.pick_residency("auto", size, device)
    try:
        where = memory.pick_residency(residency, size, device)
    except errors.UserError as error:
        return {"auto": auto, "refused": str(error)}
    memory_format = devices.pick_precision(settings.training.precision, device).memory_format
    train_set = lazy_images.reside(split, where, memory_format)
    counter = Counter(len(train_set.labels), settings.training.batch_size, device)
    task = Task(train_set, None, settings, normalize)
    with suppress(EnoughError):
        list(loop.fit(model, task, checkpointer=counter))
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0
    return {"auto": auto, "speed": counter.speed, "device_memory": peak}


class Counter:
    """Counts images where a training asks, after each step, whether to save its state.

    What runs inside of a step runs once only where a GPU replays the step.
    """

    snapshot, stop_requested = None, False

    def __init__(self, count, batch, device):
        self.count, self.batch, self.device = count, batch, device
        self.steps, self.begin, self.first, self.speed = 0, None, 0, 0.0

    def is_due(self):
        from common import wait

        self.steps += 1
        epochs, steps = divmod(self.steps, -(-self.count // self.batch))
        seen = epochs * self.count + steps * self.batch
        if self.begin is None and seen >= WARM_UP:
            wait(self.device)
            self.begin, self.first = time.perf_counter(), seen
        if seen >= WARM_UP + COUNTED:
            wait(self.device)
            self.speed = (seen - self.first) / (time.perf_counter() - self.begin)
            raise EnoughError
        return False

    def save(self, snapshot, label):
        pass


def write(folder, size):
    """Store noise of so many bytes as a data set."""
    import hashlib

    import numpy as np

    from striate.data.framing import frame

    count = size // int(np.prod(SHAPE)) // CLASSES * CLASSES
    noise = np.random.default_rng(0).integers(0, 256, (2000, *SHAPE), np.uint8)
    part = folder / "train"
    part.mkdir(parents=True)
    np.save(part / "labels.npy", np.arange(count) % CLASSES)
    with (part / "images.npy").open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *SHAPE)}
        np.lib.format.write_array_header_1_0(stream, header)
        for first in range(0, count, len(noise)):
            stream.write(noise[: count - first].data)
    sha256 = {}
    for path in part.iterdir():
        with path.open("rb") as stream:
            sha256[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    described = {"count": count, "per_class": [count // CLASSES] * CLASSES, "sha256": sha256}
    manifest = {
        "name": "noise", "shape": SHAPE, "classes": [str(k) for k in range(CLASSES)], "peak": 255,
        "mean": [0.5] * 3, "std": [0.3] * 3, "frame": frame(noise, 255),
        "train": described, "test": described,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


def forget(path):
    """Put a file out of the system's cache."""
    with path.open("rb") as stream:
        os.fsync(stream)
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def limited(size):
    """A control group of so many bytes; yields the file into which its processes are written.

    Yields None, and says why, where there can be none.
    """
    if (CGROUPS / "cgroup.controllers").exists():
        group, limits = CGROUPS / f"striate-{os.getpid()}", {"memory.max": size}
        limits["memory.swap.max"] = 0
    else:
        group = CGROUPS / "memory" / f"striate-{os.getpid()}"
        limits = {"memory.limit_in_bytes": size}
    try:
        group.mkdir()
        for name, value in limits.items():
            (group / name).write_text(str(value))
    except OSError as error:
        print(f"memory is not limited: {error}\n")
        yield None
        return
    try:
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def measure(folder, residency, limit):
    """What `one` found, in a process below the limit; what a process that was killed left."""
    forget(folder / "train/images.npy")
    with limited(limit) as members:
        answer = subprocess.run(
            [sys.executable, __file__, "--one", residency, str(folder)],
            stdout=subprocess.PIPE, text=True,
            preexec_fn=lambda: members and members.write_text("0"),
        )  # fmt: skip
    if answer.returncode == -9:
        return {"killed": True}
    answer.check_returncode()
    return json.loads(answer.stdout.splitlines()[-1])


def said(runs):
    """One cell: a speed, the range of several, or why there is none."""
    from common import spread

    if "speed" not in runs[0]:
        return "does not fit: " + ("refused" if "refused" in runs[0] else "killed")
    speeds = [run["speed"] for run in runs]
    device = max(run["device_memory"] for run in runs)
    beside = f"; {device:,.0f} MiB on the device" if device else ""
    return (f"{speeds[0]:,.0f}" if len(speeds) == 1 else spread(speeds, digits=0)) + beside


def draw(found, limit, path):
    """The curves; a cross at the bottom is a size that does not fit."""
    import statistics

    from striate.reporting.figures import style

    figure = style.chart(7, 4)
    axes = figure.subplots()
    highest = 0.0
    for (regime, sizes), color in zip(found.items(), style.PALETTE, strict=False):
        curve = {
            factor: statistics.median(run["speed"] for run in runs)
            for factor, runs in sizes.items()
            if "speed" in runs[0]
        }
        missing = [factor for factor in sizes if factor not in curve]
        axes.plot(list(curve), list(curve.values()), color=color, marker="o", markersize=4,
                  label=regime)  # fmt: skip
        axes.plot(missing, [0] * len(missing), color=color, marker="x", linestyle="", clip_on=False,
                  label=f"{regime}: does not fit" if missing else None)  # fmt: skip
        highest = max(highest, *curve.values(), 0)
    style.style_axes(axes)
    axes.set_xscale("log", base=2)
    axes.set_xticks(FACTORS, [f"{factor:g}" for factor in FACTORS])
    axes.set_ylim(0, 1.25 * highest)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    style.set_title(axes, "images a second, by data.residency")
    label = f"size of the data, as a multiple of the memory ({limit / 2**30:g} GiB)"
    axes.set_xlabel(label, **style.text_style())
    style.add_legend(axes, "upper right", ncols=3)
    style.save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=1024, help="memory of a training, in MiB")
    parser.add_argument("--one", nargs=2, help="one regime and a folder; print JSON")
    arguments = parser.parse_args()
    if arguments.one:
        # Nothing has been imported before, so that all of it counts.
        print(json.dumps(one(Path(arguments.one[1]), arguments.one[0])))
        return
    import torch
    from common import ROOT, header, table

    limit = arguments.limit << 20
    regimes = ("device", "host", "disk") if torch.cuda.is_available() else ("device", "disk")
    print(f"{header()}; {arguments.limit:,} MiB for each training\n", flush=True)
    found = {regime: {} for regime in regimes}
    rows = []
    for factor in FACTORS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "data")
            write(folder, int(factor * limit))
            for number in range(ROUNDS if factor == FACTORS[0] else 1):
                for regime in regimes[:: -1 if number % 2 else 1]:
                    run = measure(folder, regime, limit)
                    found[regime].setdefault(factor, []).append(run)
        cells = [said(found[regime][factor]) for regime in regimes]
        rows.append([f"{factor:g}", *cells, found["disk"][factor][0]["auto"]])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    table(["data / memory", *regimes, "auto takes"], rows)
    draw(found, limit, ROOT / "docs/images/residency.png")


if __name__ == "__main__":
    main()
