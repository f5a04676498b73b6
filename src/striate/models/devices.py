"""Device, precision, determinism and memory of the arithmetic."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from striate.errors import UserError

# Parameters of mallopt, from <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MAX_KEPT_BYTES = 2**30  # of a block


class Precision(NamedTuple):
    """The type of a network's arithmetic, and the memory format of its images."""

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


def pick_precision(name: str, device: torch.device) -> Precision:
    """The precision of that name on a device.

    `float32` is the reference. `bfloat16` multiplies in bfloat16, with weights, sums and updates
    in float32. `auto` takes bfloat16 where the device computes in it, and else float32 with
    channels last, which is faster and rounds differently.
    """
    if name == "float32":
        return REFERENCE
    use_bfloat16 = name == "bfloat16" or _has_bfloat16(device)
    return Precision(torch.bfloat16 if use_bfloat16 else torch.float32, torch.channels_last)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # A processor limited to AVX2, as by `striate.models.portable`, would emulate it.
    limited = torch.backends.cpu.get_cpu_capability() == "AVX2"
    if device.type == "cpu" and not limited and hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False


def processor_name() -> str:
    """The model of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe(device: torch.device) -> dict[str, str]:
    """What the last bits of a result depend on, besides its inputs."""
    return {
        "torch.version": torch.__version__,
        "torch.device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else device.type,
        "torch.processor": torch.backends.cpu.get_cpu_capability(),
        "torch.threads": str(torch.get_num_threads()),
    }


def set_deterministic(deterministic: bool) -> None:
    """Make equal inputs give equal bytes on this machine, or let libraries pick the fastest way.

    On a CPU nothing changes. On CUDA, cuDNN and cuBLAS use algorithms whose sums have a fixed
    order; otherwise they try several and take the fastest.
    """
    if deterministic:
        # cuBLAS reads it when it starts, and refuses deterministic work without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Else every new tensor is filled, to expose reads of uninitialised memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # The same as use_deterministic_algorithms, which imports the compiler: three seconds.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.backends.cudnn.benchmark = not deterministic


def keep_freed_memory() -> None:
    """Let the C library keep large freed blocks instead of returning them to the system.

    Each training step frees and allocates the same blocks. If glibc returns them in between, their
    pages are zeroed and mapped anew, which takes up to 40 % of a step with large batches on a CPU.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(M_MMAP_THRESHOLD, MAX_KEPT_BYTES)
            library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
