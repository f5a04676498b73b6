"""MLflow, through a pipe to a background process.

Loading MLflow takes seconds, and a server may hang or be gone. In a process of its own neither
delays the stage, and if the stage is killed, the other end of the pipe notices. That process logs
the training while it runs; the rest it takes from DVC's files once DVC has ended.
"""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO, Any

import psutil

from striate.data import files
from striate.tracking import background
from striate.tracking.points import Point


class MLflow:
    """Sends each call to the background process; returns at once."""

    def __init__(self, pipe: IO[str] | None) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def start(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Create a run, tagged with this process."""
        process = {background.PROCESS: background.process_tag(os.getpid())}
        self._send("start", params, tags | process)

    def log(self, points: list[Point]) -> None:
        """Log metrics."""
        self._send("log", points)

    def trained(self, identity: dict[str, str], summary: list[Point]) -> None:
        """Add the tags by which the run is found."""
        self._send("trained", identity, summary)

    def end(self, status: str) -> None:
        """Terminate the run."""
        self._send("end", status)
        self.close()

    def relay(self, experiment: str, call: list[Any]) -> None:
        """Pass on a call that a stage made to the tracker `_relay`: a method and its arguments."""
        self._send(*call, session=experiment)

    def close(self) -> None:
        """No call will follow."""
        if self._pipe is not None:
            with suppress(OSError):
                self._pipe.close()

    def _send(self, method: str, *arguments: Any, session: str = "") -> None:
        # With its time: the other end reads it once it has loaded MLflow.
        # Several threads relay the calls of several stages.
        with self._lock:
            if self._pipe is None:
                return
            try:
                self._pipe.write(json.dumps([session, method, time.time(), *arguments]) + "\n")
                self._pipe.flush()
            except OSError:
                self._pipe = None  # the background process has said why it ended


def tracker(pid: int | None = None) -> MLflow:
    """Start the background process for a training.

    Args:
        pid: of the process after whose end it syncs; that of DVC, unless given.
    """
    process = _start(subprocess.PIPE, pid)
    return MLflow(process.stdin if process else None)


def sync_after_dvc() -> None:
    """Start the background process without a training, if no earlier stage has started it."""
    _start(subprocess.DEVNULL)


def _start(stdin: int, pid: int | None = None) -> subprocess.Popen[str] | None:
    """Start the background process, which nothing waits for."""
    root = files.repository()
    background.print_messages(root)
    claim = None
    try:
        claim = background.claim(root, pid)
    except (OSError, psutil.Error) as error:
        print(
            f"warning: MLflow is not updated after this run ({error}); `striate sync` does it",
            file=sys.stderr,
        )
    if claim is None and stdin == subprocess.DEVNULL:
        return None
    command = [sys.executable, "-m", "striate.tracking.mlflow_process"]
    try:
        # A session of its own: an interrupt of the stage does not reach it before the run is
        # terminated, and the terminal may be closed.
        process = subprocess.Popen(
            [*command, str(claim.path)] if claim else command,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            pass_fds=[claim.descriptor] if claim else [],
        )
    except OSError as error:
        print(
            f"warning: MLflow cannot be started ({error.strerror}); `striate sync` logs this run"
            " later from DVC's files",
            file=sys.stderr,
        )
        return None
    finally:
        if claim:
            os.close(claim.descriptor)  # the background process has inherited it
    process.returncode = 0  # else Python warns that nothing has waited for it
    return process
