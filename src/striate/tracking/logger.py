"""What the stages report, to every tracker that is switched on."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from striate.data import files
from striate.errors import UserError
from striate.tracking import points, records, times, trackers
from striate.tracking.trackers import Tracker
from striate.training import events
from striate.training.torchrun import is_main_process

SWITCH = "STRIATE_TRACKING"
MLFLOW = "mlflow"
RELAY = "_relay"  # to the process that started the experiment, which sets it


class Logbook:
    """Reports a training to its trackers. A tracker that fails is dropped with a warning."""

    def __init__(self, names: list[str]) -> None:
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            try:
                self._trackers[name] = trackers.open_tracker(name)
            except Exception as error:
                _warn(name, error)

    def start(self, params: dict[str, Any], machine: dict[str, str]) -> None:
        """A training starts, with flat params, on a machine that these tags describe."""
        self._start, self._machine = time.time(), machine
        self._report("start", params, machine)

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch has ended; `row` is what `striate.training.loop.fit` yields."""
        events.publish(row)
        curves = {key: value for key, value in row.items() if key not in ("epoch", "step_losses")}
        epoch = [(name, value, row["epoch"]) for name, value in curves.items()]
        steps = [("step_loss", loss, step) for step, loss in row["step_losses"]]
        self._report("log", epoch + steps)

    def trained(self, params: dict[str, Any], seconds: float) -> None:
        """The checkpoint and the metrics of a training are written; it took so many seconds."""
        end = time.time()
        identity = records.training_identity(params, Path())
        with suppress(OSError):
            clocked = times.Clocked(self._start, end, seconds, self._machine)
            times.note(files.repository(), identity, clocked)
        if not self._trackers:
            return
        curves = points.curves(lambda table: Path(table).read_text())
        summary = points.summary(curves, json.loads(Path(records.TRAIN).read_text()))
        self._report("trained", identity, [*summary, (times.SECONDS, seconds, 0)])

    def end(self, status: str) -> None:
        """The stage ends: FINISHED, FAILED or KILLED."""
        self._report("end", status)

    def _report(self, method: str, *arguments: Any) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:
                del self._trackers[name]
                _warn(name, error)


def _warn(name: str, error: Exception) -> None:
    print(
        f"warning: tracker {name} failed, and the run goes on without it:"
        f" {type(error).__name__}: {error}",
        file=sys.stderr,
    )


def switched_on() -> list[str]:
    """The names of the trackers that `STRIATE_TRACKING` switches on.

    Raises:
        UserError: it is neither on nor off, nor a list of trackers.
    """
    value = os.environ.get(SWITCH, "")
    if value.lower() in ("", "on"):
        return [MLFLOW]
    if value.lower() == "off":
        return []
    names, known = value.split(","), trackers.names()
    if not set(names) <= {*known, RELAY}:
        raise UserError(
            f"{SWITCH} is {value!r:.60}; it must be on, off, or trackers separated by commas:"
            f" {', '.join(known)}"
        )
    return list(dict.fromkeys(names))


def is_off(purpose: str) -> bool:
    """Whether MLflow is switched off, which is printed: there is nothing for it to do.

    Args:
        purpose: the verb of what is not done, such as `sync`.

    Raises:
        UserError: the switch is neither on nor off, nor a list of trackers.
    """
    names = switched_on()
    if MLFLOW in names:
        return False
    state = f"{SWITCH} leaves out {MLFLOW}" if names else "tracking is off"
    print(f"{state}: nothing to {purpose}")
    return True


def enabled() -> bool:
    """Whether MLflow is switched on.

    Raises:
        UserError: the switch is neither on nor off, nor a list of trackers.
    """
    return MLFLOW in switched_on()


@contextmanager
def logbook() -> Iterator[Logbook]:
    """Report a training; in distributed training, only the main process does."""
    log = Logbook(switched_on() if is_main_process() else [])
    status = "FAILED"
    try:
        yield log
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        # SystemExit ends a process whose training has lost another one.
        status = "KILLED"
        raise
    finally:
        log.end(status)


def record_later() -> None:
    """Bring MLflow in line with DVC's files once DVC, which runs this stage, has ended."""
    if enabled():
        from striate.tracking.trackers import mlflow

        mlflow.sync_after_dvc()
