"""Which device and which precision is taken."""

import ctypes
import os
from types import SimpleNamespace

import conftest
import pytest
import torch

from striate.errors import UserError
from striate.models import devices

CPU = torch.device("cpu")


def test_an_absent_device_is_refused_with_those_that_are_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.pick_device("auto").type == "cpu"
    with pytest.raises(UserError, match="training.device is cuda.*one of auto, cpu$"):  # noqa: RUF043
        devices.pick_device("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.pick_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.pick_device("auto").type == "cuda"


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
