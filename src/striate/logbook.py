"""A stage's end of the tracking: a pipe to a process that talks to MLflow beside it.

Loading MLflow takes seconds and a server may hang or be gone. In a process of its own neither costs
the stage anything, and when the stage is killed, the other side of the pipe notices.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from striate import progress
from striate.launch import is_first
from striate.records import Point

SWITCH = "STRIATE_TRACKING"
PATIENCE_SECONDS = 60.0  # for the other process to finish, once the stage has


class Logbook:
    """What a stage reports; each method returns at once. Params are flat."""

    def __init__(self, pipe: IO[str] | None) -> None:
        self._pipe = pipe

    def start(self, params: dict[str, Any], machine: dict[str, str]) -> None:
        """A training begins, on a machine that these tags describe."""
        self._send("start", params, machine)

    def epoch(self, row: dict[str, Any]) -> None:
        """What `striate.training.fit` yielded."""
        progress.tell(row)
        curves = {key: value for key, value in row.items() if key not in ("epoch", "step_losses")}
        points: list[Point] = [(name, value, row["epoch"]) for name, value in curves.items()]
        self._send("log", points + [("step_loss", loss, step) for step, loss in row["step_losses"]])

    def trained(self, params: dict[str, Any], seconds: float) -> None:
        """The checkpoint and the curves are written."""
        self._send("log", [("training_seconds", seconds, 0)])
        self._send("trained", params, str(Path.cwd()))

    def evaluated(self, params: dict[str, Any]) -> None:
        """The scores are written."""
        self._send("evaluated", params, str(Path.cwd()))

    def visualized(self, params: dict[str, Any]) -> None:
        """The pictures are written."""
        self._send("visualized", params, str(Path.cwd()))

    def _send(self, method: str, *arguments: Any) -> None:
        if self._pipe is None:
            return
        try:
            self._pipe.write(json.dumps([method, *arguments]) + "\n")
            self._pipe.flush()
        except OSError:
            self._pipe = None  # the other process has said why it ended


def enabled() -> bool:
    """Whether anything is tracked."""
    return os.environ.get(SWITCH, "").lower() != "off"


@contextmanager
def logbook() -> Iterator[Logbook]:
    """Track what a stage does; `STRIATE_TRACKING=off` tracks nothing.

    Of several processes that train together, the first one is tracked.
    """
    if not (enabled() and is_first()):
        yield Logbook(None)
        return
    # In a session of its own, an interrupt of the stage does not reach it before it has tidied up.
    try:
        tracker = subprocess.Popen(
            [sys.executable, "-m", "striate.tracking"],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        print(
            f"warning: MLflow cannot be started ({error.strerror}); `striate sync` records this"
            " from DVC's files",
            file=sys.stderr,
        )
        yield Logbook(None)
        return
    log = Logbook(tracker.stdin)
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
        try:
            # Whoever interrupts does not want to wait, and the other process ends by itself.
            if status != "KILLED":
                tracker.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            tracker.kill()
            tracker.communicate()
            print(
                f"warning: MLflow took more than {PATIENCE_SECONDS:g} s;"
                " `striate sync` records the rest",
                file=sys.stderr,
            )
