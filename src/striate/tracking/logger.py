"""A stage's end of the tracking: a pipe to a process that talks to MLflow beside it.

Loading MLflow takes seconds and a server may hang or be gone. In a process of its own neither costs
the stage anything, and when the stage is killed, the other side of the pipe notices. It logs a
training while that goes on; the rest it takes from DVC's files, once DVC has ended.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

from striate.errors import UserError
from striate.tracking import background, records
from striate.tracking.records import Point
from striate.training import events
from striate.training.torchrun import is_main_process

SWITCH = "STRIATE_TRACKING"


class Logbook:
    """What a stage reports; each method returns at once. Params are flat."""

    def __init__(self, pipe: IO[str] | None) -> None:
        self._pipe = pipe

    def start(self, params: dict[str, Any], machine: dict[str, str]) -> None:
        """A training begins, on a machine that these tags describe."""
        tags = machine | {background.PROCESS: background.process_tag(os.getpid())}
        self._send("start", params, tags)

    def epoch(self, row: dict[str, Any]) -> None:
        """What `striate.training.loop.fit` yielded."""
        events.publish(row)
        curves = {key: value for key, value in row.items() if key not in ("epoch", "step_losses")}
        points: list[Point] = [(name, value, row["epoch"]) for name, value in curves.items()]
        self._send("log", points + [("step_loss", loss, step) for step, loss in row["step_losses"]])

    def trained(self, params: dict[str, Any], seconds: float) -> None:
        """The checkpoint and the curves are written."""
        here = Path()
        summary = [*records.summary(here), ("training_seconds", seconds, 0)]
        self._send("trained", records.training_identity(params, here), summary)

    def _send(self, method: str, *arguments: Any) -> None:
        if self._pipe is None:
            return
        try:
            self._pipe.write(json.dumps([method, *arguments]) + "\n")
            self._pipe.flush()
        except OSError:
            self._pipe = None  # the other process has said why it ended


def enabled() -> bool:
    """Whether anything is tracked.

    Raises:
        UserError: the switch is neither on nor off.
    """
    value = os.environ.get(SWITCH, "")
    if value.lower() not in ("", "on", "off"):
        raise UserError(f"{SWITCH} is {value!r:.60}; it must be on or off")
    return value.lower() != "off"


@contextmanager
def logbook() -> Iterator[Logbook]:
    """Track a training; `STRIATE_TRACKING=off` tracks nothing.

    Of several processes that train together, the first one is tracked.
    """
    if not (enabled() and is_main_process()):
        yield Logbook(None)
        return
    tracker = _start(subprocess.PIPE)
    log = Logbook(tracker.stdin if tracker else None)
    status = "FAILED"
    try:
        yield log
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        # The latter ends a process that has lost another one of its training.
        status = "KILLED"
        raise
    finally:
        log._send("end", status)
        if tracker and tracker.stdin:
            with suppress(OSError):
                tracker.stdin.close()


def record_later() -> None:
    """Have MLflow agree with DVC once DVC, which runs this stage, has ended."""
    if enabled():
        _start(subprocess.DEVNULL)


def _start(stdin: int) -> subprocess.Popen[str] | None:
    """Start the process that talks to MLflow, which nothing waits for.

    Without a pipe for messages, only where no earlier stage has started one.
    """
    root = Path(os.environ.get("DVC_ROOT", "."))
    background.tell(root)
    claim = None
    try:
        claim = background.claim(root)
    except (OSError, psutil.Error) as error:
        print(
            f"warning: MLflow is not brought up to date after this ({error});"
            " `striate sync` does it",
            file=sys.stderr,
        )
    if claim is None and stdin == subprocess.DEVNULL:
        return None
    try:
        # In a session of its own, an interrupt of the stage does not reach it before it has
        # tidied up, and a terminal may be closed.
        tracker = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "striate.tracking.mlflow_store",
                *([str(claim.path)] if claim else []),
            ],
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            pass_fds=[claim.descriptor] if claim else [],
        )
    except OSError as error:
        print(
            f"warning: MLflow cannot be started ({error.strerror}); `striate sync` records this"
            " from DVC's files",
            file=sys.stderr,
        )
        return None
    finally:
        if claim:
            os.close(claim.descriptor)  # the other process has it, too
    tracker.returncode = 0  # nobody waits for it, and Python is not to warn of that
    return tracker
