"""Which device and which precision is taken."""

import ctypes
import os
import subprocess
from types import SimpleNamespace

import conftest
import pytest
import torch

from striate import errors
from striate.errors import UserError
from striate.models import devices

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Stand-ins for what PyTorch says of a machine: `machine(cuda=…, cards=…, mps=…, fault=…)`.

    `fault` is what the first kernel raises; None lets it run.
    """
    for function in (devices.cuda_fault, devices._fault_in_child, devices.note):
        function.cache_clear()

    def ones(*_, device):
        if state["fault"] is not None:
            raise state["fault"]
        return torch.zeros(2)

    state = {}

    def describe(cuda=False, cards=0, mps=False, fault=None):
        devices.cuda_fault.cache_clear()
        state["fault"] = fault
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cuda, "init", lambda: None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
        monkeypatch.setattr(torch, "ones", ones)

    yield describe
    for function in (devices.cuda_fault, devices._fault_in_child, devices.note):
        function.cache_clear()


def test_an_absent_device_is_refused_with_those_that_are_there(machine, capsys):
    machine()
    assert devices.pick_device("auto").type == "cpu"
    with pytest.raises(UserError, match="training.device is cuda.*one of auto, cpu$"):  # noqa: RUF043
        devices.pick_device("cuda")
    with pytest.raises(UserError, match=r"^--device is mps, which this machine does not have; "):
        devices.pick_device("mps", "--device")
    machine(mps=True)
    assert devices.pick_device("auto").type == "mps"
    machine(mps=True, cuda=True, cards=1)
    assert devices.pick_device("auto").type == "cuda"
    assert capsys.readouterr() == ("", "")


TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU"
    " driver by downloading and installing a new version from the URL: http://www.nvidia.com"
)


@pytest.mark.parametrize(
    ("cuda", "fault", "reason"),
    [
        (
            True,
            "CUDA error: no kernel image is available for execution on the device\nCUDA kernel"
            " errors might be asynchronously reported at some other API call.",
            f"PyTorch {torch.__version__} has no code for its architecture, sm_61, only for sm_75,"
            " sm_90",
        ),
        (False, TOO_OLD, "The NVIDIA driver on your system is too old (found version 11040)"),
        (
            True,
            "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nSearch for it",
            "CUDA-capable device(s) is/are busy or unavailable",
        ),
        (True, "", "it fails without a reason"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_passed_over_with_one_note_or_refused(
    machine, capsys, monkeypatch, cuda, fault, reason
):
    machine(cuda=cuda, cards=1, fault=RuntimeError(fault))
    assert [devices.pick_device("auto").type for _ in range(2)] == ["cpu", "cpu"]
    note = f"note: this runs on cpu, as the GPU cannot be used: {reason}\n"
    assert capsys.readouterr() == ("", note)
    with pytest.raises(UserError) as caught:
        devices.pick_device("cuda", "--device")
    said = f"--device is cuda, which cannot be used: {reason}; it must be one of auto, cpu"
    assert str(caught.value) == said
    assert devices.count_gpus() == 1  # which the process that trains tries
    # The other processes of a group are silent.
    monkeypatch.setenv("RANK", "1")
    devices.note.cache_clear()
    assert devices.pick_device("auto").type == "cpu"
    assert capsys.readouterr() == ("", "")


def test_a_gpu_is_probed_once_and_not_for_the_cpu(machine, monkeypatch):
    asked = []
    machine(cuda=True, cards=1)
    monkeypatch.setattr(torch.cuda, "init", lambda: asked.append(1))
    devices.pick_device("cpu")
    assert asked == []
    for name in ("auto", "cuda", "auto"):
        assert devices.pick_device(name).type == "cuda"
    assert asked == [1]
    assert devices.count_gpus() == 1


def test_a_gpu_without_free_memory_is_no_reason_to_compute_elsewhere(machine):
    machine(cuda=True, cards=1, fault=torch.OutOfMemoryError("CUDA out of memory. Tried to"))
    with pytest.raises(torch.OutOfMemoryError) as caught:
        devices.pick_device("auto")
    assert "on the GPU" in errors.describe(caught.value)


@pytest.mark.parametrize(
    ("fault", "expected", "line"),
    [
        ("\n", 4, ""),
        ("too old\n", 0, "note: the GPU cannot be used: too old\n"),
        (None, 0, "note: the GPU cannot be used: it does not answer for 30 s\n"),
    ],
)
def test_several_gpus_are_probed_once_by_another_process(
    machine, monkeypatch, capsys, fault, expected, line
):
    commands = []

    def run(command, *, timeout, **_):
        commands.append(command)
        if fault is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 0, fault)

    machine(cuda=True, cards=4)
    monkeypatch.setattr(devices.subprocess, "run", run)
    monkeypatch.setattr(torch.cuda, "init", lambda: pytest.fail("it took a context"))
    assert [devices.count_gpus() for _ in range(2)] == [expected] * 2
    assert capsys.readouterr() == ("", line)
    (command,) = commands
    monkeypatch.undo()
    # On this machine the real command says why there is no card that works.
    probed = subprocess.run(command, capture_output=True, text=True)
    assert (probed.returncode, probed.stderr) == (0, "")
    assert bool(probed.stdout.strip()) != torch.cuda.is_available()


def test_a_machine_without_a_gpu_has_none(machine):
    machine()
    assert devices.count_gpus() == 0


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
    ],
)
def test_auto_takes_bfloat16_where_the_processor_computes_in_it(
    capabilities, expected, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    precision = devices.pick_precision("auto", CPU)
    assert precision == (expected, torch.channels_last)
    assert devices.pick_precision("float32", CPU) == devices.REFERENCE
    assert devices.pick_precision("bfloat16", CPU).dtype == torch.bfloat16


def test_freed_memory_is_kept(monkeypatch):
    asked = []

    class Library:
        def mallopt(self, parameter, value):
            asked.append((parameter, value))

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(devices.sys, "platform", "linux")
    devices.keep_freed_memory()
    assert asked == [(-3, 2**30), (-1, 2**31 - 1)]
    monkeypatch.setattr(devices.sys, "platform", "darwin")
    devices.keep_freed_memory()
    assert len(asked) == 2


def test_mps_trains_with_channels_outermost():
    mps = torch.device("mps")
    assert devices.pick_precision("auto", mps) == devices.REFERENCE
    assert devices.pick_precision("bfloat16", mps) == (torch.bfloat16, torch.contiguous_format)


@pytest.mark.parametrize(
    ("mps", "deterministic", "mode"), [(False, True, 2), (True, True, 0), (False, False, 0)]
)
def test_algorithms_are_checked_except_on_mps(monkeypatch, mps, deterministic, mode):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    devices.set_deterministic(deterministic)
    assert torch.get_deterministic_debug_mode() == mode


@pytest.mark.parametrize(
    ("asked", "hidden"),
    [
        ("", True),
        ("not walk", True),
        ("not gpu", True),
        ("gpu", False),
        ("gpu and not walk", False),
    ],
)
def test_gpus_are_hidden_from_tests_that_do_not_ask_for_them(monkeypatch, asked, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    conftest.pytest_configure(SimpleNamespace(option=SimpleNamespace(markexpr=asked)))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ("" if hidden else "0")


@pytest.mark.parametrize("chosen", [False, True])
def test_a_test_leaves_determinism_as_it_found_it(chosen):
    assert not torch.backends.cudnn.benchmark
    assert torch.get_deterministic_debug_mode() == 0
    devices.set_deterministic(chosen)
    assert torch.backends.cudnn.benchmark != chosen
