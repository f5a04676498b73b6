"""How busy the machine is while a network is trained, under MLflow's names for it.

Sampled in the background process, whose priority is the lowest, and logged with each epoch.
MLflow's own sampler would start seconds later, with MLflow, and needs another package for GPUs.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from typing import Any, NamedTuple

import psutil

PREFIX = "system/"  # by which MLflow's pages find them
SECONDS = 1.0  # between two samples, at first
PART = 0.01  # of the time so far, between two samples: some 700 in ten hours
LEAST = 0.1  # seconds, below which the use of the processor means nothing
GPU_SECONDS = 5.0  # between two runs of NVIDIA's program, which takes some 50 ms of a processor
GPU_QUERY = "index,utilization.gpu,memory.used,memory.total,power.draw"
MEBIBYTE = 1.048576  # megabytes


class Sample(NamedTuple):
    """What was measured, and when, in seconds since the epoch."""

    at: float
    values: dict[str, float]


class Sampler:
    """Samples in a thread, from `begin` until `end`."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._lock = threading.Lock()
        self._ended = False
        self._woken = threading.Event()  # a training starts, or none follows
        self._program = shutil.which("nvidia-smi")
        self._processor = psutil.cpu_times()
        self._last = self._last_gpu = self._began = 0.0  # by the monotonic clock
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """A training starts; others may be running.

        The reading and the interval start anew, as in a process of its own.
        """
        with self._lock:
            self._processor, self._last = psutil.cpu_times(), time.monotonic()
            self._began = self._last
            self._woken.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def sample(self, at: float | None = None) -> None:
        """Measure now, as at the end of a training, however short it was.

        Args:
            at: the time to note, in seconds since the epoch; now unless given.
        """
        with self._lock:
            now = time.monotonic()
            if self._thread is None or now - self._last < LEAST:
                return
            self._last = now
            before, self._processor = self._processor, psutil.cpu_times()
            values = {"cpu_utilization_percentage": _busy(before, self._processor)} | _memory()
            if self._program and now - self._last_gpu >= GPU_SECONDS:
                self._last_gpu = now
                values |= _gpus(self._program)
            self.samples.append(Sample(at or time.time(), values))

    def between(self, start: float, end: float) -> list[Sample]:
        """The samples after one time, until another, in seconds since the epoch."""
        with self._lock:
            return [one for one in self.samples if start < one.at <= end]

    def forget(self, until: float) -> None:
        """Drop the samples until a time, in seconds since the epoch, which nobody asks for."""
        with self._lock:
            self.samples = [one for one in self.samples if one.at > until]

    def end(self) -> None:
        """No training follows."""
        self._ended = True
        self._woken.set()

    def _run(self) -> None:
        while not self._ended:
            if not self._woken.wait(max(SECONDS, PART * (time.monotonic() - self._began))):
                self.sample()
            self._woken.clear()


def _busy(before: Any, after: Any) -> float:
    """How busy all processors were between two readings, in percent.

    `psutil.cpu_percent` compares with the last call of the same thread, and there are two here.
    """
    spent = {name: getattr(after, name) - getattr(before, name) for name in after._fields}
    # Linux counts the time of guests as the user's, too.
    total = sum(spent.values()) - spent.get("guest", 0.0) - spent.get("guest_nice", 0.0)
    idle = spent["idle"] + spent.get("iowait", 0.0)
    return round(min(max(100 * (1 - idle / total), 0.0), 100.0), 1) if total > 0 else 0.0


def _memory() -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "system_memory_usage_megabytes": round(memory.used / 1e6, 1),
        "system_memory_usage_percentage": memory.percent,
    }


def _gpus(program: str) -> dict[str, float]:
    """The use of each GPU; empty if the program fails."""
    command = [program, f"--query-gpu={GPU_QUERY}", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values: dict[str, float] = {}
    for line in found.stdout.splitlines():
        index, *cells = [cell.strip() for cell in line.split(",")]
        use, used, total, power = [_number(cell) for cell in (*cells, "", "", "", "")[:4]]
        own = {
            "utilization_percentage": use,
            "memory_usage_megabytes": used and round(used * MEBIBYTE, 1),
            "memory_usage_percentage": used and total and round(100 * used / total, 1),
            "power_usage_watts": power,
        }
        values |= {f"gpu_{index}_{name}": one for name, one in own.items() if one is not None}
    return values


def _number(cell: str) -> float | None:
    """A cell of the program's table; None where it says, in some way, that it does not know."""
    try:
        return float(cell)
    except ValueError:
        return None
