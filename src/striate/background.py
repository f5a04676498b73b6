"""What is left to do behind the prompt once DVC has ended: give its experiments their runs.

A stage cannot do it, as DVC records an experiment after its last stage. So the first stage of a
`dvc repro` or `dvc exp run` claims the job for a process that it starts; it waits for DVC's end and
holds a lock until it is done, by which a command that reads the runs knows what to wait for.
"""

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

PROCESS = "striate.process"  # tag of a run that is being logged: host, process id, its start
PENDING = Path(".dvc/tmp/striate-pending")  # a file for each DVC process that is waited for
SAID = Path(".dvc/tmp/striate-tracking.txt")  # what nobody was there to be told


class Claim(NamedTuple):
    """The job that is one process's, as long as the file is open in it."""

    path: Path
    descriptor: int


def process_tag(pid: int) -> str:
    """What tells a process from all others, also from a later one with its number."""
    return f"{socket.gethostname()} {pid} {psutil.Process(pid).create_time():.0f}"


def is_gone(tag: str) -> bool:
    """Whether the process that a tag names ran on this machine and runs no more."""
    host, pid, start = tag.rsplit(" ", 2)
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(pid))
        return f"{process.create_time():.0f}" != start or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def dvc_process() -> int | None:
    """The outermost DVC process that runs this one, as a worker runs an experiment's."""
    if "DVC_STAGE" not in os.environ:
        return None
    found = None
    for process in psutil.Process().parents():
        try:
            if any(Path(argument).name == "dvc" for argument in process.cmdline()[:3]):
                found = process.pid
        except psutil.Error:
            continue  # it is gone, or another user's
    return found


def claim(root: Path) -> Claim | None:
    """Take the job for the DVC that runs this stage; None without DVC, or where it is taken."""
    pid = dvc_process()
    if pid is None:
        return None
    path = root / PENDING / process_tag(pid)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return Claim(path, descriptor)


def settle(root: Path) -> None:
    """Wait for the jobs of DVC processes that have ended; tell what was said meanwhile."""
    told = False
    for path in _ended(root):
        with path.open() as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if not told:
                    print("MLflow is being written to; waiting for it ...", file=sys.stderr)
                told = True
                fcntl.flock(stream, fcntl.LOCK_EX)
            path.unlink(missing_ok=True)
    tell(root)


def _ended(root: Path) -> Iterator[Path]:
    for path in (root / PENDING).glob("* * *"):
        if is_gone(path.name) and path.exists():
            yield path


def tell(root: Path) -> None:
    """Print what was said after everybody had gone."""
    path = root / SAID
    try:
        text = path.read_text()
        path.unlink()
    except OSError:
        return
    if text:
        print(text, end="", file=sys.stderr)


def listen_no_more(root: Path) -> None:
    """Let go of the terminal, or whatever reads the stage's output until it is closed."""
    path = root / SAID
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 2)


def yield_cores() -> None:
    """Take only the time that nobody else wants."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        os.nice(19)
