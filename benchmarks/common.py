"""What the benchmarks share: params, a training in this process, and tables."""

import copy
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).parent.parent
WARM_UP_STEPS = 16  # enough to record steps of both sizes of image
sys.path.insert(0, str(ROOT / "src"))

from striate.config import params as schema
from striate.data import arrays, tensors
from striate.datasets import fetch
from striate.models import checkpoint, devices, normalization, prediction, registry
from striate.training import distributed, loop
from striate.training.task import Task


def params(*layers, **changes):
    """params.yaml with recipes (by name) and keys such as `data__name` laid over it."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name in layers:
        for section, keys in yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text()).items():
            values[section] |= keys
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values[section][name] = value
        else:
            values[key] = value
    return values


def stored(name):
    """The folder in which a data set lies as arrays, made in the temporary folder if need be."""
    folder = Path(tempfile.gettempdir()) / "striate-benchmarks" / name
    if not (folder / "manifest.json").exists():
        fetch.prepare(name, folder, os.environ.get("STRIATE_MIRROR"))
    return folder


def train(values, images_used=None, group=distributed.SINGLE_PROCESS):
    """Train and score as the stages do; returns what was measured.

    `seconds` begins where the images lie on the device and the network is built, and holds the
    whitening; `epochs` are the seconds of each epoch; `accuracy` is of the test images. On a GPU
    neither holds `warm_up`, a few steps of another network before the clock starts, in which
    libraries load, nor `recording`, in which steps are recorded as CUDA graphs.
    """
    settings = schema.check(values)
    devices.keep_freed_memory()
    device = devices.pick_device(settings.training.device)
    devices.set_deterministic(settings.training.deterministic is not False)
    folder = stored(values["data"]["name"])
    manifest = arrays.load_manifest(folder)
    normalize = normalization.pick_normalization(manifest, settings.data.normalize)
    torch.manual_seed(values["seed"])
    model = checkpoint.build(checkpoint.describe(values["model"], manifest, normalize)).to(device)
    split = tensors.load_split(folder, "train", device)
    if images_used:
        repeats = -(-images_used // len(split.labels))
        split = tensors.Split(*(part.repeat(repeats, *[1] * (part.dim() - 1))[:images_used]
                               for part in split))  # fmt: skip
    task = Task(split, None, settings, normalize)
    warm_up = 0.0
    if device.type == "cuda":
        warm_up = _warm_up(model, task, group)
        torch.manual_seed(values["seed"])
        torch.cuda.reset_peak_memory_stats()
    recordings = []

    def now():
        wait(device)
        return time.perf_counter() - sum(recordings)

    marks = [now()]
    model.fit_to_data(normalize(split.images[: registry.FIT_IMAGES]))
    with _timed_recordings(recordings):
        for _ in loop.fit(model, task, group=group):
            marks.append(now())
    peak, device_peak = memory(), device_memory(device)
    test = tensors.load_split(folder, "test", device)
    logits = prediction.predict(
        model, test.images, normalize, batch_size=values["evaluate"]["batch_size"],
        tta=values["evaluate"]["tta"],
    )  # fmt: skip
    return {
        "seconds": marks[-1] - marks[0],
        "epochs": [after - before for before, after in pairwise(marks)],
        "images": len(split.labels),
        "memory": peak,
        "device_memory": device_peak,
        "warm_up": warm_up,
        "recording": sum(recordings),
        "accuracy": prediction.accuracy(logits, test.labels.cpu()),
    }


def _warm_up(model, task, group):
    """Train a copy for a few steps, of which some are recorded; returns the seconds."""
    begin = time.perf_counter()
    training = task.params.training
    few = tensors.Split(*(part[: WARM_UP_STEPS * training.batch_size] for part in task.train_set))
    once = training.model_copy(update={"epochs": 1, "keep": "last", "patience": 0})
    settings = task.params.model_copy(update={"training": once})
    list(loop.fit(copy.deepcopy(model), Task(few, None, settings, task.normalize), group=group))
    torch.cuda.synchronize()
    return time.perf_counter() - begin


@contextmanager
def _timed_recordings(seconds):
    """Append to a list how long each recording of a CUDA graph takes."""
    plain = torch.cuda.graph

    class Timed(plain):
        def __enter__(self):
            torch.cuda.synchronize()
            self.begin = time.perf_counter()
            return super().__enter__()

        def __exit__(self, *failure):
            super().__exit__(*failure)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.begin)

    torch.cuda.graph = Timed
    try:
        yield
    finally:
        torch.cuda.graph = plain


def wait(device):
    """Let a device that computes by itself finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


MADE = (".dvc/cache", ".dvc/tmp", "mlflow.db", "mlartifacts", "data", "models", "predictions",
        "reports", "dvc.lock")  # fmt: skip


class Clone:
    """A clone of a commit of this repository, and the seconds of commands in it."""

    def __init__(self, folder, revision):
        self.folder = folder
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        subprocess.run(["git", "-C", folder, "checkout", "--quiet", "-B", "main", revision],
                       check=True)  # fmt: skip
        self.env = os.environ | {
            "PYTHONPATH": str(folder / "src"), "DVC_NO_ANALYTICS": "true",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip

    def seconds(self, *command, first=False, **variables):
        """Run a command; returns its seconds, or those until its first line."""
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.env | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        line = process.stdout.readline() if first else ""
        found = time.perf_counter() - start
        out, err = process.communicate()
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed: {line}{out}{err}")
        return found if first else time.perf_counter() - start

    def reproduce(self, **variables):
        """Remove all results and make them anew; returns the seconds of `dvc repro` and `sync`."""
        for name in MADE:
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return self.seconds("dvc", "repro", "--quiet", **variables), self.striate("sync")

    def striate(self, *arguments, **options):
        return self.seconds(sys.executable, "-m", "striate.cli", *arguments, **options)

    def git(self, *arguments, given=None):
        return subprocess.run(
            ["git", *arguments], cwd=self.folder, env=self.env, input=given, check=True,
            stdout=subprocess.PIPE,
        ).stdout.decode().strip()  # fmt: skip

    def commit(self, message):
        self.git("add", "--all")
        self.git("-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "-qm", message)


def memory():
    """The largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def device_memory(device):
    """The most that PyTorch's tensors took on a GPU so far, in MiB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0


def on_the_device(name, runs):
    """Print what a GPU adds to measured trainings: memory there, and what the clock leaves out."""
    if any(run["device_memory"] for run in runs):
        found = [
            spread([run.get(key, 0) for run in runs])
            for key in ("device_memory", "warm_up", "recording")
        ]
        print("{}: {} MiB on the device; not counted: {} s of warm-up and {} s of recording".format(
            name, *found))  # fmt: skip


def measured(script, *arguments):
    """What a script of this folder prints as JSON in its last line, run in a process of its own."""
    answer = subprocess.run(
        [sys.executable, str(Path(__file__).parent / script), *map(str, arguments)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return json.loads(answer.stdout.splitlines()[-1])


def header():
    """The machine and the versions, in one line."""
    if torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    else:
        where = f"{torch.get_num_threads()} cores of {devices.processor_name()}"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{where}; bfloat16 {_bfloat16()}; {versions}"


def _bfloat16():
    device = devices.pick_device("auto")
    return "yes" if devices.pick_precision("auto", device).dtype == torch.bfloat16 else "no"


def table(columns, rows):
    """Print a Markdown table: names of columns, then rows of texts."""
    print("| " + " | ".join(columns) + " |")
    print("|---|" + "--:|" * (len(columns) - 1))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def spread(values, unit="", digits=2):
    """Median, and the range in brackets."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f}{unit} ({low:,.{digits}f}–{high:,.{digits}f})"
