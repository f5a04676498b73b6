"""Coordinate the background processes that sync MLflow once DVC has ended.

A stage cannot sync, because DVC records an experiment after its last stage. So the first stage of a
`dvc repro` or `dvc exp run` starts a process and claims the sync for it. That process waits for
DVC's end, and holds a lock until it is done, on which commands that read the runs wait.
"""

import fcntl
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

PROCESS = "striate.process"  # tag of a run: the process that logs it, as `process_tag` has it
PENDING = Path(".dvc/tmp/striate-pending")  # a file for each DVC process with a sync to follow
MESSAGES = Path(".dvc/tmp/striate-tracking.txt")  # for the next command to print


class Claim(NamedTuple):
    """A claimed sync; a process holds it as long as the file is open in it."""

    path: Path
    descriptor: int


def process_tag(pid: int) -> str:
    """Identifies a process, also among later ones with the same process id."""
    return f"{socket.gethostname()} {pid} {psutil.Process(pid).create_time():.0f}"


def is_gone(tag: str) -> bool:
    """Whether the process of a tag ran on this machine and has ended."""
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
    """The outermost DVC process among the parents of this one: a queue worker runs another DVC."""
    if "DVC_STAGE" not in os.environ:
        return None
    outermost = None
    for process in psutil.Process().parents():
        try:
            if is_dvc(process.cmdline()):
                outermost = process.pid
        except psutil.Error:
            continue  # it has ended, or is another user's
    return outermost


def is_dvc(command: list[str]) -> bool:
    """Whether a command line runs DVC: as a program, a Python script, or a module."""
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


def claim(root: Path, pid: int | None = None) -> Claim | None:
    """Claim the sync after the DVC that runs this stage; None without DVC, or if it is claimed.

    Args:
        root: the repository.
        pid: of the process after whose end to sync, where it is not DVC.

    Raises:
        OSError: the file cannot be created, or this file system has no locks.
    """
    pid = pid or dvc_process()
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


def wait(root: Path) -> None:
    """Wait for the syncs of DVC processes that have ended; print the messages meanwhile."""
    waited = False
    for path in (root / PENDING).glob("* * *"):
        if not is_gone(path.name):
            continue
        # The file may be removed meanwhile, or be another user's.
        with suppress(FileNotFoundError, PermissionError), path.open("r+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    print(
                        "waiting for the process that writes to MLflow ...",
                        file=sys.stderr,
                    )
                waited = True
                fcntl.flock(stream, fcntl.LOCK_EX)
            path.unlink()
    print_messages(root)


def print_messages(root: Path) -> None:
    """Print the new messages of background processes."""
    # Do not delete the file: a running process holds it open.
    with suppress(OSError), (root / MESSAGES).open("r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        text = stream.read()
        stream.truncate(0)
        print(text, end="", file=sys.stderr)


def redirect_stderr(root: Path) -> None:
    """Send standard error to a file, so that a pipe from the stage's output is closed."""
    path = root / MESSAGES
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def lower_priority() -> None:
    """Run at a low priority. Not at that of idle time: other processes wait for its locks."""
    os.nice(19)
