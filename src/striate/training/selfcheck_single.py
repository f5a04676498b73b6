"""The checks of `striate.training.selfcheck` that need one process.

They train small networks on random images.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from striate.data.tensors import Split
from striate.errors import describe, one_line
from striate.models import devices, registry
from striate.models.normalization import Normalization
from striate.training import loop
from striate.training.lazy_images import Stored
from striate.training.resume import Checkpointer
from striate.training.task import Task

IMAGES, SIDE, CLASSES = 700, 28, 10
NORMALIZE = Normalization(255, None, None)
TRAINING: dict[str, Any] = {
    "epochs": 2, "batch_size": 96, "optimizer": "adam", "learning_rate": 0.002, "bias_rate": 1.0,
    "head_rate": 1.0, "momentum": 0.9, "weight_decay": 0.01, "schedule": "linear", "warmup": 0.1,
    "label_smoothing": 0.1, "clip": 0.0, "accumulate": 1, "ema": 0.0, "class_weights": "none",
    "device": "auto", "processes": 1, "precision": "auto", "capture": "auto",
    "deterministic": True, "log_every": 1000, "keep": "last", "patience": 0,
    "checkpoint_minutes": 10, "init_from": "weights/random", "freeze": "none",
}  # fmt: skip
AUGMENT: dict[str, Any] = {
    "translate": 0, "flip": False, "rotate": 0, "zoom": 0.0, "cutout": 0, "shrink": 0,
    "shrink_until": 0.0, "mixup": 0.0, "cutmix": 0.0,
}  # fmt: skip
EVERYTHING = {
    "translate": 2, "flip": True, "rotate": 10, "zoom": 0.1, "cutout": 4, "shrink": 20,
    "shrink_until": 0.5, "mixup": 0.2, "cutmix": 1.0,
}  # fmt: skip
CONVNET: dict[str, Any] = {
    "arch": "convnet", "layers": 2, "width": 8, "kernel_size": 5, "convs_per_layer": 1,
    "norm": "batch", "activation": "relu", "dropout": 0.0,
}  # fmt: skip
SPEEDRUN: dict[str, Any] = {
    "arch": "speedrun", "layers": 2, "width": 16, "kernel_size": 3, "convs_per_layer": 2,
    "norm": "batch", "activation": "gelu", "dropout": 0.1, "whiten": 2,
}  # fmt: skip
PLAIN: dict[str, Any] = {"architecture": CONVNET, "augment": AUGMENT}
# All that a training does only if it is asked to.
AUGMENTED: dict[str, Any] = {
    "architecture": SPEEDRUN, "augment": EVERYTHING, "clip": 1.0, "accumulate": 3, "ema": 0.99,
}  # fmt: skip
RATES = {"adam": 0.002, "adamw": 0.002, "sgd": 0.05, "muon": 0.1}
PRECISIONS = ("auto", "float32", "bfloat16")
KERNELS, CHANNELS = (1, 3, 5, 31), (1, 3)
STOP_SECONDS = 10.0  # for a training that is interrupted


class SkippedError(Exception):
    """A check that cannot be made here; the message says why."""


class CheckError(Exception):
    """A promise is broken; the message says which."""


class Trained(NamedTuple):
    """What a training ends with: weights on the CPU, and the rows of its epochs."""

    weights: dict[str, Tensor]
    rows: list[dict[str, Any]]


CHECKS: dict[str, Callable[[torch.device], str]] = {}  # by name, in the order in which they run


def check(function: Callable[[torch.device], str]) -> Callable[[torch.device], str]:
    """Add a check: a device → a remark, or a `SkippedError`, or any other error if it fails."""
    CHECKS[function.__name__.replace("_", "-")] = function
    return function


def params(augment: dict[str, Any], **training: Any) -> Any:
    """All of params.yaml that a training reads, as plain values; keywords are of `training`."""
    return SimpleNamespace(
        seed=0,
        augment=SimpleNamespace(**AUGMENT | augment),
        training=SimpleNamespace(**TRAINING | training),
    )


def random_images(device: torch.device, count: int = 0, channels: int = 1) -> Split[Tensor]:
    """Noise with a row that is brighter, at the height of the class; 0 means IMAGES."""
    count = count or IMAGES
    generator = torch.Generator().manual_seed(0)
    size = (count, channels, SIDE, SIDE)
    images = torch.randint(0, 120, size, generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % CLASSES
    images[torch.arange(count), :, 2 * labels + 3] += 100
    return Split(images.to(device), labels.to(device))


def build(device: torch.device, architecture: dict[str, Any], images: Tensor) -> registry.Network:
    """A network with the same random weights at each call."""
    torch.manual_seed(0)
    shape = (images.shape[1], SIDE, SIDE)
    model = registry.build(shape, CLASSES, architecture).to(device)
    model.fit_to_data(NORMALIZE(images[:100]))
    return model


def train(
    device: torch.device,
    train_set: Split[Any] | None = None,
    checkpointer: Checkpointer | None = None,
    *,
    architecture: dict[str, Any] = CONVNET,
    augment: dict[str, Any] = AUGMENT,
    **training: Any,
) -> Trained:
    """Train a small network; keywords are those of the section `training`."""
    images = train_set or random_images(device)
    first = images.images[:100]
    model = build(device, architecture, first if isinstance(first, Tensor) else first.read())
    task = Task(images, None, params(augment, **training), NORMALIZE)
    rows = list(loop.fit(model, task, checkpointer=checkpointer))
    return Trained({name: value.cpu() for name, value in model.state_dict().items()}, rows)


def require_equal(expected: Trained, found: Trained, what: str) -> None:
    """Fail unless two trainings end with the same bytes."""
    differing = sum(
        int((value != found.weights[name]).sum()) for name, value in expected.weights.items()
    )
    if differing or expected.rows != found.rows:
        total = sum(value.numel() for value in expected.weights.values())
        raise CheckError(
            f"{what}: {differing:,} of {total:,} weights differ; last training loss"
            f" {expected.rows[-1]['train_loss']!r} and {found.rows[-1]['train_loss']!r}"
        )


def require_cuda(device: torch.device, why: str) -> None:
    """Skip a check elsewhere than on CUDA."""
    if device.type != "cuda":
        raise SkippedError(f"{why} on CUDA only")


def all_of(cases: dict[str, Callable[[], None]]) -> str:
    """Run cases of one check, all of them; fail with the errors of those that fail."""
    failures = []
    for name, case in cases.items():
        try:
            case()
        except Exception as error:
            failures.append(f"{name}: {one_line(error)}")
    if failures:
        raise CheckError(f"{len(failures)} of {len(cases)} cases; {'; '.join(failures)}")
    return f"{len(cases)} cases"


@check
def gpu(device: torch.device) -> str:
    """The card runs a kernel, and this PyTorch has code for it."""
    fault = None if device.type == "mps" else devices.cuda_fault()
    if fault is not None and devices.sees_gpu():
        raise CheckError(fault)
    if device.type == "cpu":
        raise SkippedError(f"no GPU: {fault}")
    return devices.describe_gpu(device)


def _capture(device: torch.device, optimizer: str) -> str:
    """A captured step computes what an ordinary one does."""
    require_cuda(device, "steps are captured")

    def case(options: dict[str, Any]) -> None:
        ordinary, captured = (train(device, capture=way, **options) for way in ("never", "auto"))
        require_equal(ordinary, captured, "captured")

    return all_of(
        {
            f"{precision} {name}": partial(
                case,
                setting | {"optimizer": optimizer, "learning_rate": RATES[optimizer],
                           "precision": precision},
            )
            for precision in PRECISIONS
            for name, setting in (("plain", PLAIN), ("augmented", AUGMENTED))
        }
    )  # fmt: skip


for _optimizer in RATES:
    CHECKS[f"capture-{_optimizer}"] = partial(_capture, optimizer=_optimizer)


@check
def residency(device: torch.device) -> str:
    """Images in device memory, in host memory and on disk give the same bytes."""

    def case(folder: Path, options: dict[str, Any]) -> None:
        images = random_images(device)
        pixels = images.images.cpu().numpy()
        np.save(folder / "images.npy", pixels)
        mapped = np.lib.format.open_memmap(folder / "images.npy", mode="r")
        expected = train(device, images, **options)
        for name, stored in (("host", pixels), ("disk", mapped)):
            split = Split(Stored(stored, np.arange(IMAGES), device), images.labels)
            require_equal(expected, train(device, split, **options), f"device and {name}")

    with tempfile.TemporaryDirectory() as folder:
        return all_of(
            {
                f"{optimizer} {precision}": partial(
                    case, Path(folder),
                    AUGMENTED | {"optimizer": optimizer, "learning_rate": RATES[optimizer],
                                 "precision": precision},
                )
                for optimizer in ("adam", "muon")
                for precision in ("auto", "float32")
            }
        )  # fmt: skip


@check
def repeat(device: torch.device) -> str:
    """The same training gives the same bytes again."""

    def case(precision: str) -> None:
        first, second = (train(device, precision=precision, **AUGMENTED) for _ in range(2))
        require_equal(first, second, "the first and the second time")

    return all_of({precision: partial(case, precision) for precision in PRECISIONS})


class StopAt(Checkpointer):
    """Asks a training to stop after so many steps."""

    def __init__(self, path: Path, steps: int) -> None:
        super().__init__(path, minutes=60)
        self.left = steps

    def is_due(self) -> bool:
        """Whether it is time to save a state within an epoch."""
        self.left -= 1
        self.stop_requested |= self.left == 0
        return super().is_due()


@check
def resume(device: torch.device) -> str:
    """A training that was stopped and resumed ends with the bytes of one that was not."""
    expected = train(device, **AUGMENTED)
    steps = 2 * -(-IMAGES // TRAINING["batch_size"])

    def case(stop: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "state")
            try:
                train(device, None, StopAt(path, stop), **AUGMENTED)
            except KeyboardInterrupt:
                found = train(device, None, Checkpointer(path, minutes=60), **AUGMENTED)
                require_equal(expected, found, "resumed")
            else:
                raise CheckError("it did not stop")

    return all_of({f"step {stop}": partial(case, stop) for stop in (2, 4, 5, steps)})


@check
def plain_loop(device: torch.device) -> str:
    """`float32` is the arithmetic of a plain PyTorch loop, to the last bit."""
    options: dict[str, Any] = {
        "schedule": "constant",
        "warmup": 0.0,
        "label_smoothing": 0.0,
        "weight_decay": 0.0,
    }
    ours = train(device, precision="float32", **options)
    images, labels = random_images(device)
    model = build(device, CONVNET, images).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=TRAINING["learning_rate"])
    generator = torch.Generator(device).manual_seed(0)
    for _ in range(TRAINING["epochs"]):
        order = torch.randperm(IMAGES, generator=generator, device=device)
        for chosen in order.split(TRAINING["batch_size"]):
            loss = nn.functional.cross_entropy(model(images[chosen].float() / 255), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    theirs = {name: value.cpu() for name, value in model.state_dict().items()}
    require_equal(Trained(theirs, ours.rows), ours, "the plain loop and ours")
    return ""


@check
def kernels(device: torch.device) -> str:
    """Every size of filter has a deterministic algorithm."""

    def case(kernel: int, channels: int, precision: str) -> None:
        images = random_images(device, 40, channels)
        train(
            device, images, architecture=CONVNET | {"kernel_size": kernel}, epochs=1,
            batch_size=20, precision=precision,
        )  # fmt: skip

    return all_of(
        {
            f"kernel {kernel}, {channels} channels, {precision}": partial(
                case, kernel, channels, precision
            )
            for kernel in KERNELS
            for channels in CHANNELS
            for precision in PRECISIONS
        }
    )


@check
def syncs(device: torch.device) -> str:
    """More steps make the host wait no more often."""
    require_cuda(device, "the host runs ahead")

    def count(images: int) -> int:
        before = torch.cuda.get_sync_debug_mode()
        split = random_images(device, images)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                train(device, split, epochs=1, batch_size=20, capture="never", **AUGMENTED)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        # Also the first use of this mode warns, of what it does not notice.
        return sum("called a synchronizing CUDA" in str(warning.message) for warning in caught)

    few, many = count(200), count(800)
    if few != many:
        raise CheckError(f"{few} waits in 10 steps, {many} in 40")
    return f"{few} waits an epoch"


@check
def memory(device: torch.device) -> str:
    """Too little memory gives a one-line error."""
    require_cuda(device, "memory can be limited")
    free, total = torch.cuda.mem_get_info(device)
    torch.cuda.empty_cache()
    card = torch.cuda.current_device()
    torch.cuda.set_per_process_memory_fraction(min(0.9, 2**27 / total), card)
    try:
        train(device, architecture=CONVNET | {"width": 512}, batch_size=IMAGES)
    except RuntimeError as error:
        text = describe(error)
        if text is None or "memory" not in text:
            raise
        return text
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, card)
        torch.cuda.empty_cache()
    raise CheckError(f"{free >> 20:,} MiB were free, and a limit of 128 MiB was not kept")


class Starts(Checkpointer):
    """Starts a timer once the first epoch is saved, and all that loads late is loaded."""

    def __init__(self, path: Path, timer: threading.Timer) -> None:
        super().__init__(path, minutes=60)
        self.timer = timer

    def save(self, snapshot: dict[str, Any], label: str) -> None:
        """Replace the checkpoint."""
        if not self.label:
            self.timer.start()
        super().save(snapshot, label)


@check
def interrupt(device: torch.device) -> str:
    """Ctrl-C in mid-epoch saves the state, and says so."""
    if threading.current_thread() is not threading.main_thread():
        raise SkippedError("it needs the main thread")
    sent = []

    def send() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    with tempfile.TemporaryDirectory() as folder:
        timer = threading.Timer(0.5, send)
        timer.daemon = True
        checkpointer = Starts(Path(folder, "state"), timer)
        try:
            with checkpointer.delayed_interrupts():
                train(device, None, checkpointer, epochs=1_000_000, schedule="constant")
        except KeyboardInterrupt as stopped:
            said, waited = str(stopped), time.perf_counter() - sent[0]
        finally:
            timer.cancel()
        if "resumes after" not in said or not Path(folder, "state").exists():
            raise CheckError(f"it said: {said}")
    if waited > STOP_SECONDS:
        raise CheckError(f"it took {waited:.1f} s to stop")
    return f"stopped after {waited:.1f} s: {said}"


@check
def speed(device: torch.device) -> str:
    """How long a step takes, and how much memory; nothing is promised."""
    found = []
    for way in ("auto", "never"):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        model = build(device, CONVNET, random_images(device).images)
        task = Task(random_images(device), None, params(AUGMENT, epochs=12, capture=way), NORMALIZE)
        start, steps = 0.0, 0
        for row in loop.fit(model, task):
            if row["epoch"] == 2:  # the first two warm up, and capture
                start = time.perf_counter()
            steps = (row["epoch"] - 2) * -(-IMAGES // task.params.training.batch_size)
        text = f"capture {way}: {1000 * (time.perf_counter() - start) / steps:.2f} ms a step"
        if device.type == "cuda":
            text += f", {torch.cuda.max_memory_allocated(device) >> 20:,} MiB"
        found.append(text)
    return "; ".join(found[:1] if device.type == "cpu" else found)


@check
def cpu_agreement(device: torch.device) -> str:
    """The device learns what the CPU does, but for rounding."""
    if device.type == "cpu":
        raise SkippedError("this is the CPU")
    options: dict[str, Any] = {
        "precision": "float32",
        "batch_size": IMAGES,
        "epochs": 8,
        "schedule": "constant",
    }
    here, there = (
        train(where, **options).rows[-1]["train_loss"] for where in (device, torch.device("cpu"))
    )
    if abs(here - there) > 0.01 * there:
        raise CheckError(f"training loss {here:.5f} here, {there:.5f} on the CPU")
    return f"training loss {here:.5f}, and {there:.5f} on the CPU"


@check
def whitening(device: torch.device) -> str:
    """The whitening filters make patches uncorrelated."""
    images = random_images(device).images[:100]
    layer = build(device, SPEEDRUN, images).layers()["whiten"]
    filters = next(layer.parameters()).detach().cpu().double().flatten(1)
    filters = filters[: len(filters) // 2]
    patches = nn.functional.unfold(NORMALIZE(images.cpu()).double(), SPEEDRUN["whiten"])
    patches = patches.transpose(1, 2).flatten(0, 1)
    found = filters @ (patches.T @ patches / len(patches)) @ filters.T
    furthest = float((found - torch.diag(found.diag())).abs().max())
    if not furthest < 1e-3 or not bool(((found.diag() > 0.5) & (found.diag() < 1.01)).all()):
        raise CheckError(f"the covariance of their outputs is {furthest:.2g} off a diagonal")
    return ""
