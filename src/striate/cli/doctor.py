"""Check the machine."""

from __future__ import annotations

import io
import os
import platform
import re
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from striate.cli.table import argument, command
from striate.console import columns, waiting
from striate.errors import UserError, one_line

if TYPE_CHECKING:
    import torch

PACKAGES = ("torchvision", "numpy", "dvc", "mlflow")
# Of /proc/cpuinfo: what PyTorch chooses its code by, on x86-64 and on Arm.
FEATURES = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve",
    "bf16",
)  # fmt: skip
# That change how or where PyTorch computes.
VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA",
    "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK", "NCCL_DEBUG", "STRIATE_TRACKING",
    "MLFLOW_TRACKING_URI",
)  # fmt: skip
QUERY = re.compile(r"(://[^\s?]*)\?\S*")  # of an address; it may hold a password
GIB = 1 << 30
NO_LIMIT = 1 << 60  # bytes; what a control group without a limit says is near 2⁶³


@command(
    argument(
        "--gpu", action="store_true",
        help="also check what a training promises on this device; up to five minutes",
    )
)  # fmt: skip
def doctor(gpu: bool) -> None:
    """Describe this machine and this installation, for a bug report.

    Shows versions, processor, the device and why it is used, memory, disk and stores, without
    passwords. --gpu tries small trainings on the device, or on the CPU if there is no GPU; exit
    status 1 if a check fails.

    Example: striate doctor --gpu
    """
    with waiting("loading PyTorch"):
        rows = [(name, _told(find)) for name, find in ROWS.items()]
    print(columns([("what", "found"), *rows]), flush=True)
    if gpu:
        print(flush=True)
        sys.exit(_self_check())


def _self_check() -> int:
    """Print a line for each check of the device; returns the exit status."""
    from striate.models import devices
    from striate.training import selfcheck

    def stop(*_: object) -> None:
        raise KeyboardInterrupt  # so that temporary folders are removed

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    return selfcheck.report(devices.pick_device("auto"))


def _told(find: Callable[[], str]) -> str:
    """What a function finds, or why it cannot, without passwords."""
    from striate.tracking.addresses import masked

    try:
        with redirect_stderr(io.StringIO()):  # notes, which the rows say too
            text = find()
    except ImportError as error:
        text = f"not there: {one_line(error)}"
    except Exception as error:  # whatever is broken, the other rows are still told
        text = f"unknown: {one_line(error)}"
    return QUERY.sub(r"\1?…", masked(text))


def _striate() -> str:
    from striate.tracking.git import commit_of, git

    version, code = _version("striate"), Path(__file__).parents[1]
    commit = commit_of(code, "HEAD")
    if commit is None or not git(code, "ls-files", "--", "errors.py"):
        return f"{version}, not in a Git repository: {code}"
    changed = ", with changes" if git(code, "status", "--porcelain", "--", ".") else ""
    return f"{version}, commit {commit[:12]}{changed}"


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _torch() -> str:
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    if torch.version.cuda:
        built += f" for {', '.join(torch.cuda.get_arch_list())}"
        built += f"; cuDNN {torch.backends.cudnn.version()}"
    return f"{torch.__version__}, built with {built}"


def _cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().lower().splitlines()
    return next(
        (set(line.split()) for line in lines if line.startswith(("flags", "features"))), set()
    )


def _torch_cpu() -> str:
    import torch

    onednn = "oneDNN" if torch.backends.mkldnn.is_available() else "no oneDNN"
    return f"{torch.backends.cpu.get_cpu_capability()} code, {onednn}"


def _processor() -> str:
    from striate.models import devices

    return devices.processor_name()


def _cores() -> str:
    from striate.data.processors import cores

    return f"{cores()} of {os.cpu_count()} for this process"


def _threads() -> str:
    import torch

    return str(torch.get_num_threads())


def _memory() -> str:
    import psutil

    found = psutil.virtual_memory()
    return f"{found.available / GIB:.1f} of {found.total / GIB:.1f} GiB available"


def _memory_limit() -> str:
    from striate.training import memory

    found = [limit for limit in memory.limits() if limit[0] < NO_LIMIT]
    if not found:
        return "none"
    most, left = min(found, key=lambda limit: limit[1])
    return f"{left / GIB:.1f} of {most / GIB:.1f} GiB left in this control group"


def _disk(folder: Path) -> str:
    found = shutil.disk_usage(folder)
    return f"{found.free / GIB:.1f} of {found.total / GIB:.1f} GiB free in {folder.resolve()}"


def _params() -> str:
    from striate.config import params

    params.load()
    return "valid"


def _training() -> Any:
    """The section `training` of params.yaml; None if it cannot be read."""
    from striate.config import params

    try:
        return params.load().training
    except UserError:
        return None


def _device_name() -> str:
    training = _training()
    return str(training.device) if training else "auto"


def _pick() -> torch.device:
    from striate.models import devices

    return devices.pick_device(_device_name())


def _device() -> str:
    import torch

    from striate.models import devices

    chosen, name = _pick(), _device_name()
    if name != "auto":
        return f"{chosen}: training.device is {name}"
    others = "" if chosen.type == "cuda" else f"; CUDA: {devices.cuda_fault()}"
    if chosen.type == "cpu":
        built = "" if torch.backends.mps.is_built() else ", PyTorch was built without it"
        others += f"; MPS: not available{built}"
    told = "training.device is auto" if _training() else "auto, as params.yaml cannot be read"
    return f"{chosen}: {told}{others}"


def _gpu() -> str:
    import torch

    from striate.models import devices

    if torch.backends.mps.is_available():
        return devices.describe_gpu(torch.device("mps"))
    if (fault := devices.cuda_fault()) is not None:
        return f"{devices.cuda_driver()}; {fault}"
    free, total = torch.cuda.mem_get_info()
    return (
        f"{torch.cuda.device_count()} × {devices.describe_gpu(torch.device('cuda'))};"
        f" {free / GIB:.1f} of {total / GIB:.1f} GiB free"
    )


def _precision() -> str:
    from striate.models import devices, portable

    device, training = _pick(), _training()
    name = training.precision if training else "auto"
    if training and device.type == "cpu" and portable.is_wanted(training, Path("data")):
        return f"float32 for training, portable: training.deterministic is {training.deterministic}"
    found = devices.pick_precision(name, device)
    dtype, layout = (str(part).removeprefix("torch.") for part in found)
    return f"{dtype}, {layout}: training.precision is {name}"


def _dvc_remote() -> str:
    from striate.tracking import addresses, dvc_cache

    found = dvc_cache.remotes(_dvc_root(addresses.root()))
    return " | ".join(f"{name}: {url}" for name, url in found.items()) or "none"


def _dvc_cache() -> str:
    from striate.tracking import addresses, dvc_cache

    folder = Path(dvc_cache.folder(_dvc_root(addresses.root())))
    return _disk(folder) if folder.exists() else f"{folder}, which is not there yet"


def _dvc_root(root: Path) -> Path:
    if not (root / ".dvc/config").is_file():
        raise UserError(f"{root} is not the root of a DVC repository")
    return root


def _mlflow_store() -> str:
    from striate.tracking import addresses

    there = ""
    if addresses.is_own():
        file = addresses.database()
        there = f", {file.stat().st_size >> 10:,} KiB" if file.exists() else ", not there yet"
    return f"{addresses.tracking_uri()}{there}"


def _trackers() -> str:
    from striate.tracking import logger

    return ", ".join(logger.switched_on()) or "none"


def _variables() -> str:
    found = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return " ".join(found) or "none of those that matter"


ROWS: dict[str, Callable[[], str]] = {
    "Striate": _striate,
    "Python": lambda: f"{platform.python_version()}, {sys.executable}",
    "torch": _torch,
    **{name: partial(_version, name) for name in PACKAGES},
    "system": lambda: platform.platform(),
    "processor": _processor,
    "its features": lambda: " ".join(name for name in FEATURES if name in _cpu_flags()) or "none",
    "PyTorch on it": _torch_cpu,
    "cores": _cores,
    "threads": _threads,
    "GPU": _gpu,
    "params.yaml": _params,
    "device": _device,
    "precision": _precision,
    "memory": _memory,
    "memory limit": _memory_limit,
    "disk": lambda: _disk(Path()),
    "DVC remotes": _dvc_remote,
    "DVC cache": _dvc_cache,
    "MLflow's store": _mlflow_store,
    "trackers": _trackers,
    "variables": _variables,
}
