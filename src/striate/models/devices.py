"""Where the arithmetic happens and the images lie, and in which precision."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from striate.errors import UserError

# Of <malloc.h>: parameters of mallopt, and the largest block that is kept.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 2**30


class Precision(NamedTuple):
    """What a network computes in, and how its images lie in memory."""

    dtype: torch.dtype
    memory_format: torch.memory_format


# The arithmetic of a plain PyTorch loop, to the last bit.
REFERENCE = Precision(torch.float32, torch.contiguous_format)


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: this machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, present in available.items() if present)
    if not available[name]:
        raise UserError(
            f"training.device is {name}, which this machine does not have; "
            f"it must be one of auto, {', '.join(d for d in available if available[d])}"
        )
    return torch.device(name)


def count_gpus() -> int:
    """How many CUDA devices this process can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def pick_precision(name: str, device: torch.device) -> Precision:
    """The precision of that name on a device.

    `float32` is the reference. `bfloat16` multiplies in bfloat16, with weights, sums and updates
    in float32. `auto` takes bfloat16 where the device computes in it, and else float32 with the
    channels of a pixel side by side, which is faster and rounds differently.
    """
    if name == "float32":
        return REFERENCE
    wanted = name == "bfloat16" or _has_bfloat16(device)
    return Precision(torch.bfloat16 if wanted else torch.float32, torch.channels_last)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # A processor that is held to AVX2, as in `striate.models.portable`, would emulate it.
    held = torch.backends.cpu.get_cpu_capability() == "AVX2"
    if device.type == "cpu" and not held and hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False


def processor_name() -> str:
    """The model of the processor, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe(device: torch.device) -> dict[str, str]:
    """What the last bits of a result depend on, beside what went into it."""
    return {
        "torch.version": torch.__version__,
        "torch.device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else device.type,
        "torch.processor": torch.backends.cpu.get_cpu_capability(),
        "torch.threads": str(torch.get_num_threads()),
    }


def set_deterministic(chosen: bool) -> None:
    """Make equal inputs give equal bytes on this machine, or let libraries take what is fastest.

    On a CPU nothing changes. On CUDA, cuDNN and cuBLAS keep to algorithms whose sums have a fixed
    order; otherwise they try several and take the fastest.
    """
    if chosen:
        # Read by cuBLAS when it starts; it refuses deterministic work without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Every new tensor would be filled, to show a read of what was never written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # The same as use_deterministic_algorithms, which imports the compiler: three seconds.
    torch.set_deterministic_debug_mode("error" if chosen else "default")
    torch.backends.cudnn.benchmark = not chosen


def keep_freed_memory() -> None:
    """Let the C library keep large blocks that were freed, instead of giving them back.

    Every step of a training frees and asks for the same blocks. Where glibc returns them to the
    system in between, each one comes back as pages that must be zeroed and mapped anew, which
    takes up to 40 % of a step with large batches on a CPU.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(M_MMAP_THRESHOLD, KEPT)
            library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
