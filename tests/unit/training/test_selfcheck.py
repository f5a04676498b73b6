"""The self-check of a device: on the CPU, on a GPU if there is one, and where something broke."""

import subprocess
import sys
import warnings

import pytest
import torch

from striate.config import params
from striate.models import devices
from striate.training import loop, selfcheck, selfcheck_group, selfcheck_single

CPU = torch.device("cpu")
ON_CPU = (
    "residency",
    "repeat",
    "resume",
    "plain-loop",
    "kernels",
    "interrupt",
    "speed",
    "whitening",
)
GROUP = ("left-over-image", "failing-process", "killed-process")
CAPTURE = tuple(f"capture-{name}" for name in ("adam", "adamw", "sgd", "muon"))


@pytest.fixture
def small(monkeypatch):
    """Fewer images and steps, for the logic of a check."""
    monkeypatch.setattr(selfcheck_single, "IMAGES", 40)
    monkeypatch.setitem(selfcheck_single.TRAINING, "batch_size", 16)


@pytest.fixture
def cuda(monkeypatch, small):
    """The checks that want CUDA take the CPU."""
    monkeypatch.setattr(selfcheck_single, "require_cuda", lambda *_: None)


@pytest.mark.gpu
@pytest.mark.parametrize("name", selfcheck.CHECKS)
def test_the_gpu_keeps_its_promise(name):
    device = devices.pick_device("auto")
    if device.type == "cpu":
        pytest.skip(f"no GPU: {devices.cuda_fault()}")
    result = selfcheck.run_one(name, device)
    if result.status == "skipped":
        pytest.skip(result.remark)
    assert result.status == "passed", result.remark


@pytest.mark.slow
@pytest.mark.parametrize("name", selfcheck.CHECKS)
def test_the_cpu_keeps_its_promise(name):
    result = selfcheck.run_one(name, CPU)
    assert result.status == ("passed" if name in ON_CPU else "skipped"), result.remark
    assert result.remark or result.status == "passed"
    assert torch.get_deterministic_debug_mode() == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUP)
def test_two_processes_on_the_cpu_keep_their_promise(name, monkeypatch):
    monkeypatch.setattr(selfcheck_group, "_require_two", lambda _: None)
    monkeypatch.setattr(selfcheck_group, "TOLD_SECONDS", 120.0)  # the tests share the cores
    result = selfcheck.run_one(name, CPU)
    assert result.status == "passed", result.remark


@pytest.mark.parametrize("name", [*CAPTURE, "syncs"])
def test_what_needs_cuda_passes_where_nothing_is_captured_and_nobody_waits(name, cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda _: None)
    result = selfcheck.run_one(name, CPU)
    assert (result.status, result.remark) == (
        "passed", "0 waits an epoch" if name == "syncs" else "6 cases",
    )  # fmt: skip


@pytest.fixture
def drifting(monkeypatch):
    """A training whose bytes differ each time."""
    fit, calls = loop.fit, []

    def drift(model, task, **options):
        yield from fit(model, task, **options)
        calls.append(1)
        with torch.no_grad():
            next(model.parameters()).flatten()[0] += len(calls)

    monkeypatch.setattr(loop, "fit", drift)


@pytest.mark.parametrize(
    ("name", "cases"),
    [("residency", 4), ("repeat", 3), ("resume", 4), ("capture-muon", 6), ("plain-loop", 0)],
)
def test_other_bytes_fail_and_are_counted(name, cases, cuda, drifting):
    result = selfcheck.run_one(name, CPU)
    assert result.status == "failed"
    assert "1 of" in result.remark
    assert "weights differ" in result.remark
    if cases:
        assert result.remark.startswith(f"{cases} of {cases} cases; ")


def test_a_step_that_waits_fails(cuda, monkeypatch):
    forward = torch.nn.Conv2d.forward

    def waiting(self, inputs):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return forward(self, inputs)

    prototype = ["Synchronization debug mode does not yet detect all synchronizing operations."]

    def choose(_):
        if prototype:  # PyTorch warns once in a process
            warnings.warn(prototype.pop(), stacklevel=1)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", choose)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", waiting)
    result = selfcheck.run_one("syncs", CPU)
    # Each of three parts of a step has the whitening layer and two layers of two convolutions.
    assert (result.status, result.remark) == ("failed", "150 waits in 10 steps, 600 in 40")


@pytest.mark.parametrize(
    ("raised", "status", "remark"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "passed", "there is too little mem"),
        (RuntimeError("an illegal memory access"), "failed", "RuntimeError: an illegal memory acc"),
        (None, "failed", "3 MiB were free, and a limit of 128 MiB was not kept"),
    ],
)
def test_want_of_memory_must_be_told(cuda, monkeypatch, raised, status, remark):
    limits = []

    def train(*_, **__):
        if raised:
            raise raised

    monkeypatch.setattr(selfcheck_single, "train", train)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 << 20, 2**30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    def limit(part, index):  # as PyTorch, which refuses a device without a number
        limits.append(part + index)

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
    result = selfcheck.run_one("memory", CPU)
    assert result.status == status
    assert result.remark.startswith(remark)
    assert limits == [0.125, 1.0]


def test_the_plain_params_have_the_keys_of_the_schema():
    assert selfcheck_single.TRAINING.keys() == params.Training.model_fields.keys()
    assert selfcheck_single.AUGMENT.keys() == params.Augment.model_fields.keys()
    assert selfcheck_single.EVERYTHING.keys() == params.Augment.model_fields.keys()


ALONE = """
import sys
for name in ("pydantic", "yaml", "dvc", "mlflow", "torchvision", "psutil", "sklearn"):
    sys.modules[name] = None
from striate.training import selfcheck, selfcheck_single
for name in list(selfcheck_single.CHECKS):
    if name not in ("gpu", "whitening"):
        del selfcheck_single.CHECKS[name]
sys.argv[1:] = [ARGUMENT]
selfcheck.main()
"""


@pytest.mark.parametrize(("argument", "status"), [("cpu", 0), ("mps", 2)])
def test_it_runs_where_there_is_only_pytorch(argument, status):
    found = subprocess.run(
        [sys.executable, "-c", ALONE.replace("ARGUMENT", repr(argument))],
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == status
    if status:
        assert found.stderr.startswith("error: DEVICE is mps, which this machine does not have; ")
    else:
        assert [line.split()[:2] for line in found.stdout.splitlines()] == [
            ["gpu", "skipped"], ["whitening", "passed"],
        ]  # fmt: skip
