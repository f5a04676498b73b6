"""The self-check of a device: what a training promises, tried with small networks.

`striate doctor --gpu` and `pytest -m gpu` run it; `python -m striate.training.selfcheck [DEVICE]`
needs nothing but PyTorch and NumPy. A new check is a function with `@check`.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import NamedTuple

import torch

from striate.errors import exit_on_error, one_line
from striate.models import devices
from striate.training import selfcheck_group  # noqa: F401  it adds its checks
from striate.training.selfcheck_single import CHECKS, CheckError, SkippedError


class Result(NamedTuple):
    """The outcome of a check: `passed`, `failed` or `skipped`, how long it took, and a remark."""

    name: str
    status: str
    seconds: float
    remark: str


def run(device: torch.device) -> Iterator[Result]:
    """Run all checks on a device, one after another, with deterministic algorithms."""
    for name in CHECKS:
        yield run_one(name, device)


def run_one(name: str, device: torch.device) -> Result:
    """Run one check with deterministic algorithms; an error of any kind is its failure."""
    start = time.perf_counter()
    try:
        with deterministic(), redirect_stderr(io.StringIO()):  # progress bars go there
            status, remark = "passed", CHECKS[name](device)
    except SkippedError as error:
        status, remark = "skipped", str(error)
    except Exception as error:
        status, remark = "failed", one_line(error)
        if not isinstance(error, CheckError):
            remark = f"{type(error).__name__}: {remark}"
    return Result(name, status, time.perf_counter() - start, remark)


@contextmanager
def deterministic() -> Iterator[None]:
    """Make equal inputs give equal bytes within the block."""
    before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    devices.set_deterministic(True)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        torch.backends.cudnn.benchmark = before[1]


def main() -> None:
    """Print a line for each check; exit with status 1 if one failed."""
    with exit_on_error():
        device = devices.pick_device(sys.argv[1] if sys.argv[1:] else "auto", "DEVICE")
        sys.exit(report(device))


def report(device: torch.device) -> int:
    """Print a line for each check; returns the exit status: 1 if one failed."""
    failed = False
    for result in run(device):
        print(line(result), flush=True)
        failed |= result.status == "failed"
    return int(failed)


def line(result: Result) -> str:
    """A row of the table of results."""
    width = max(map(len, CHECKS))
    remark = f"  {result.remark}" if result.remark else ""
    return f"{result.name:<{width}}  {result.status:<7}  {result.seconds:5.1f} s{remark}"


if __name__ == "__main__":
    main()
