"""Device, precision, determinism and memory of the arithmetic."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from striate.errors import UserError, is_out_of_memory

# Parameters of mallopt, from <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MAX_KEPT_BYTES = 2**30  # of a block
PROBE_SECONDS = 30  # for a process that loads PyTorch and asks a card


class Precision(NamedTuple):
    """The type of a network's arithmetic, and the memory format of its images."""

    dtype: torch.dtype
    memory_format: torch.memory_format


# The arithmetic of a plain PyTorch loop, to the last bit.
REFERENCE = Precision(torch.float32, torch.contiguous_format)


def pick_device(name: str, option: str = "training.device") -> torch.device:
    """The device of that name; `auto` takes the first that works of CUDA, MPS and the CPU.

    If `auto` passes a GPU over, a note on standard error says why, once a process.

    Args:
        name: `auto`, `cpu`, `cuda` or `mps`.
        option: what the user set, for the message.

    Raises:
        UserError: this machine has no such device, or it cannot be used.
    """
    fault = cuda_fault() if name in ("auto", "cuda") and sees_gpu() else None
    available = {
        "cuda": sees_gpu() and fault is None,
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, present in available.items() if present)
        if fault is not None:
            note(f"this runs on {name}, as the GPU cannot be used: {fault}")
    if not available[name]:
        reason = "which this machine does not have"
        raise UserError(
            f"{option} is {name}, {f'which cannot be used: {fault}' if fault else reason}; "
            f"it must be one of auto, {', '.join(d for d in available if available[d])}"
        )
    return torch.device(name)


@cache
def note(text: str) -> None:
    """Print a note on standard error, once a process, and by one of several that train together."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {text}", file=sys.stderr, flush=True)


def count_gpus() -> int:
    """How many CUDA devices there are for processes that this one launches.

    0 if there are several and the first is unusable; a single one is tried by the process that
    trains. Another process tries the first: a context of this one would take memory, and the whole
    card where one process may have it.
    """
    if not sees_gpu():
        return 0
    if torch.cuda.device_count() == 1:
        return 1
    fault = _fault_in_child()
    if fault:
        note(f"the GPU cannot be used: {fault}")
    return 0 if fault else torch.cuda.device_count()


@cache
def _fault_in_child() -> str:
    """What `cuda_fault` finds in another process; nothing if there is no fault."""
    code = f"from {__name__} import cuda_fault; print(cuda_fault() or '')"
    try:
        probe = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True,
            timeout=PROBE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it does not answer for {PROBE_SECONDS} s"
    return probe.stdout.strip()  # nothing for want of memory, which the launched ones report


def sees_gpu() -> bool:
    """Whether there is a CUDA device, usable or not: too old a driver still counts its cards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the probe says the same
        return torch.cuda.is_available() or torch.cuda.device_count() > 0


@cache
def cuda_fault() -> str | None:
    """Why this process's CUDA device cannot be used; None if a small kernel ran on it.

    PyTorch also counts cards whose driver is too old, or for which it has no code. Of several
    processes that train together each tries its own, as it takes memory on the card.

    Raises:
        RuntimeError: other processes have taken all of its memory.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.init()
            rank = os.environ.get("LOCAL_RANK", "")
            own = int(rank) if rank.isdigit() and int(rank) < torch.cuda.device_count() else 0
            (torch.ones(2, device=torch.device("cuda", own)) + 1).sum().item()
    # An assertion fails if PyTorch was built without CUDA.
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        if is_out_of_memory(error):
            raise
        return _shortened(str(error))
    return None


def _shortened(message: str) -> str:
    """What matters of PyTorch's error about a GPU, on one line."""
    if "no kernel image" in message:
        major, minor = torch.cuda.get_device_capability()
        return (
            f"PyTorch {torch.__version__} has no code for its architecture, sm_{major}{minor}, only"
            f" for {', '.join(torch.cuda.get_arch_list())}"
        )
    first = message.strip().splitlines()[0] if message.strip() else "it fails without a reason"
    return first.removeprefix("CUDA error: ").partition(". ")[0][:200]


def pick_precision(name: str, device: torch.device) -> Precision:
    """The precision of that name on a device.

    `float32` is the reference. `bfloat16` multiplies in bfloat16, with weights, sums and updates
    in float32. `auto` takes bfloat16 where the device computes in it, and else float32 with
    channels last, which is faster and rounds differently; MPS takes neither by itself.
    """
    if name == "float32":
        return REFERENCE
    use_bfloat16 = name == "bfloat16" or _has_bfloat16(device)
    layout = torch.contiguous_format if needs_contiguous(device) else torch.channels_last
    return Precision(torch.bfloat16 if use_bfloat16 else torch.float32, layout)


def needs_contiguous(device: torch.device) -> bool:
    """Whether training on a device is wrong with channels last.

    On MPS the gradients of batch norm are wrong, or raise, in PyTorch 2.11 and 2.12
    (github.com/pytorch/pytorch/issues/175189).
    """
    return device.type == "mps"


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


def cuda_driver() -> str:
    """Which CUDA the installed driver supports, whether or not PyTorch can use it."""
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return "no CUDA driver"
    return f"driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def describe_gpu(device: torch.device) -> str:
    """What is to be known of a GPU and its driver, on one line."""
    if device.type != "cuda":
        return f"{platform.machine()}, macOS {platform.mac_ver()[0]}"
    found = torch.cuda.get_device_properties(device)
    bfloat16 = "bfloat16" if _has_bfloat16(device) else "no bfloat16"
    return (
        f"{found.name}, sm_{found.major}{found.minor}, {found.total_memory >> 20:,} MiB,"
        f" {cuda_driver()}, {bfloat16}"
    )


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
    # The same as use_deterministic_algorithms, which imports the compiler: three seconds. On MPS,
    # PyTorch would refuse max pooling for sums whose order is open where windows overlap; those of
    # the networks here do not.
    checked = deterministic and not torch.backends.mps.is_available()
    torch.set_deterministic_debug_mode("error" if checked else "default")
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
