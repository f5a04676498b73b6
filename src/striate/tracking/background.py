"""Sync MLflow in the background, once DVC has ended.

A stage cannot do it, as DVC records an experiment after its last stage. So the first stage of a
`dvc repro` or `dvc exp run` claims the job for a process that it starts; it waits for DVC's end and
holds a lock until it is done, by which a command that reads the runs knows what to wait for.
"""

import fcntl
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

PROCESS = "striate.process"  # tag of a run that is being logged: host, process id, its start
PENDING = Path(".dvc/tmp/striate-pending")  # a file for each DVC process that is waited for
MESSAGES = Path(".dvc/tmp/striate-tracking.txt")  # to be printed by the next command


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
    except psutil.AccessDenied:
        return False


def dvc_process() -> int | None:
    """The outermost DVC process that runs this one, as a worker runs an experiment's."""
    if "DVC_STAGE" not in os.environ:
        return None
    found = None
    for process in psutil.Process().parents():
        try:
            if is_dvc(process.cmdline()):
                found = process.pid
        except psutil.Error:
            continue  # it is gone, or another user's
    return found


def is_dvc(command: list[str]) -> bool:
    """Whether a command runs DVC: as a program, as a script of Python's, or as a module."""
    program, *arguments = [Path(argument).name for argument in command] or [""]
    if not program.startswith("python"):
        return program == "dvc"
    for option, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if option == "-m":
            return following == "dvc"
        if option == "dvc":
            return True
        if not option.startswith("-") and option.endswith(".py"):
            return False
    return False


def claim(root: Path) -> Claim | None:
    """Take the job for the DVC that runs this stage; None without DVC, or where it is taken.

    Raises:
        OSError: the file cannot be made, or this file system has no locks.
    """
    pid = dvc_process()
    if pid is None:
        return None
    path = root / PENDING / process_tag(pid)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return Claim(path, descriptor)


def settle(root: Path) -> None:
    """Wait for the jobs of DVC processes that have ended; tell what was said meanwhile."""
    waited = False
    for path in (root / PENDING).glob("* * *"):
        if not is_gone(path.name):
            continue
        # It may be removed meanwhile; what is another user's is left to them.
        with suppress(FileNotFoundError, PermissionError), path.open("r+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    print("MLflow is being written to; waiting for it ...", file=sys.stderr)
                waited = True
                fcntl.flock(stream, fcntl.LOCK_EX)
            path.unlink()
    tell(root)


def tell(root: Path) -> None:
    """Print the messages of background processes that have not been printed yet."""
    # The file stays: a process that goes on holds it open.
    with suppress(OSError), (root / MESSAGES).open("r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        text = stream.read()
        stream.truncate(0)
        print(text, end="", file=sys.stderr)


def redirect_stderr(root: Path) -> None:
    """Send standard error to a file, so that whoever reads the stage's output sees it close."""
    path = root / MESSAGES
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def lower_priority() -> None:
    """Leave the processor to others; a little is left, as locks are held meanwhile."""
    os.nice(19)
