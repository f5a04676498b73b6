"""Arithmetic that gives the same bytes on every x86-64 processor with AVX2.

PyTorch and its libraries choose their code by the vendor, the vector width and the number of cores
of the processor, all of which change how sums are rounded. Limited to one choice, they agree. The
price is speed: one thread, float32 and no AVX-512.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from striate.config.params import Training

# Each library reads its own variable at its first use.
VARIABLES = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # AVX2 would still treat vendors differently
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
PRELOADED = "STRIATE_PYTHON"  # the folder of a `python` whose packages are loaded, where it is set
AUTO_BYTES = 1 << 20  # of training images: up to here, one thread costs a few seconds at most


def is_wanted(training: Training, data: Path) -> bool:
    """Whether a training on the data in `data` should be portable.

    Args:
        training: the section `training` of params.yaml.
        data: the folder that the stage download wrote.
    """
    if training.deterministic != "auto":
        return training.deterministic == "portable"
    if training.precision != "auto":
        return False
    try:
        manifest = json.loads((data / "manifest.json").read_text())
        sizes = [*manifest["shape"], manifest["train"]["count"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False  # reading the images will report the fault of the manifest
    return all(type(size) is int for size in sizes) and math.prod(sizes) <= AUTO_BYTES


def is_used() -> bool:
    """Whether the arithmetic of this process is portable; loads torch."""
    import torch

    limited = os.environ.get("MKL_CBWR") == VARIABLES["MKL_CBWR"] and torch.get_num_threads() == 1
    return limited and torch.backends.cpu.get_cpu_capability() == "AVX2"


def use(training: Training, data: Path) -> None:
    """Make the arithmetic of this process portable if it should be; call before torch loads.

    Where torch was loaded before the process began, the process begins anew. It changes nothing on
    a GPU.
    """
    # A loaded library keeps the code that it has chosen.
    if not is_wanted(training, data) or VARIABLES.items() <= os.environ.items():
        return
    if "torch" not in sys.modules:
        os.environ.update(VARIABLES)
    elif PRELOADED in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | VARIABLES)  # noqa: S606
