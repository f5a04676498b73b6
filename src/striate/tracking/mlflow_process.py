"""The background process that logs a training to MLflow.

`striate.tracking.trackers.mlflow` starts it as a script. It executes what the stage writes to its
standard input, and brings MLflow in line with DVC's files once DVC has ended.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from striate.data import files
from striate.tracking import background, commits, records
from striate.tracking.addresses import masked, root, tracking_uri
from striate.tracking.mlflow_errors import reason
from striate.tracking.mlflow_store import Store, open_store, retries_left, run_name
from striate.tracking.points import Point
from striate.tracking.system_metrics import PREFIX, Sampler
from striate.tracking.trackers import EXPERIMENT, source_tags


class Session:
    """The run of one training.

    The methods are the messages of the stage's tracker. `at` is when a message was sent, in seconds
    since the epoch.
    """

    def __init__(
        self, store: Store, source_tags: dict[str, str], sampler: Sampler | None = None
    ) -> None:
        self.store = store
        self.source_tags = source_tags
        self.run_id: str | None = None
        self.trained_at: float | None = None
        self._sampler = sampler
        self.sampled_until = 0.0
        self._samples = 0

    def start(self, at: float, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Create the run, which began at that time."""
        tags = self.source_tags | tags
        name = tags.get(EXPERIMENT) or run_name(params)
        self.run_id = self.store.create(name, records.training_params(params), tags, at)
        self.sampled_until = at

    def log(self, at: float, points: list[Point]) -> None:
        """Log metrics, and how busy the machine was since the last call."""
        if self.run_id:
            self.store.log(self.run_id, points, at, self._new_samples(at))

    def trained(self, at: float, identity: dict[str, str], summary: list[Point]) -> None:
        """Add the tags by which the run is found; delete it if there is an identical one."""
        if not self.run_id:
            return
        if any(run.info.status == "FINISHED" for run in self.store.runs(identity)):
            # The same training again, with the same bytes, is the same experiment.
            self.store.client.delete_run(self.run_id)
            self.run_id = None
            return
        self.store.log(self.run_id, summary, at, self._new_samples(at))
        self.store.tag(self.run_id, identity)
        self.trained_at = at

    def end(self, at: float, status: str) -> None:
        """Terminate the run; it ended when its results were written, if they were."""
        if self.run_id:
            finished = status == "FINISHED" and self.trained_at
            self.store.terminate(self.run_id, status, finished or at)
            self.run_id = None

    def _new_samples(self, at: float) -> list[tuple[float, list[Point]]]:
        """The system metrics since the last call, until `at`: points by their times."""
        if self._sampler is None:
            return []
        found = self._sampler.between(self.sampled_until, at)
        self.sampled_until, first = at, self._samples
        self._samples += len(found)
        return [
            (one.at, [(PREFIX + name, value, step) for name, value in one.values.items()])
            for step, one in enumerate(found, first)
        ]


def main(
    tags: dict[str, str], claim: Path | None = None, on_end: Callable[[], None] = lambda: None
) -> None:
    """Execute the messages of a stage, or of several that somebody relays, each with its name.

    If they stop without `end`, the stage was killed.

    A server that is away is retried for as long as the stage runs, which waits for nothing.

    Args:
        tags: of the run of a training.
        claim: the file by which this process has claimed the sync after DVC's end, if it has.
        on_end: called when the stage has ended.
    """
    ended = threading.Event()
    ended_at = 0.0

    def end() -> None:
        nonlocal ended_at
        ended_at = ended_at or time.time()
        ended.set()
        on_end()

    sampler = Sampler()
    messages = _messages(end, sampler)
    noted = False

    def may_retry(since: float) -> bool:
        nonlocal noted
        if not noted:
            noted = True
            where = masked(tracking_uri())
            print(f"note: MLflow at {where} does not answer; retrying", file=sys.stderr)
        return not ended.is_set() or retries_left(since)

    warned: set[str] = set()
    try:
        with _warning(warned):
            store = open_store(may_retry)
            sessions: dict[str, Session] = {}
            for name, method, at, *arguments in messages:
                session = sessions.setdefault(name, Session(store, tags, sampler))
                getattr(session, method)(at, *arguments)
                running = [one.sampled_until for one in sessions.values() if one.run_id]
                sampler.forget(min(running, default=at))
            for session in sessions.values():
                session.end(ended_at, "KILLED")
        for _ in messages:
            pass
        if claim:
            with _warning(warned):
                _sync_after(claim)
    finally:
        if claim:
            claim.unlink(missing_ok=True)


def _messages(on_end: Callable[[], None], sampler: Sampler) -> Iterator[list[Any]]:
    """The messages on standard input, read at once so that the sender never blocks.

    Args:
        on_end: called when the stage has ended, while messages may still be queued.
        sampler: of system metrics, which begins and ends with the trainings, also while MLflow is
            still being loaded.
    """
    messages: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if message[1] == "start":
                sampler.begin()
            elif message[1] == "trained":
                sampler.sample(message[2])
            if message[:2] == ["", "end"]:
                on_end()
            messages.put(message)
        sampler.end()
        on_end()
        messages.put(None)

    # At once and not when the first message is asked for: the end may come before that.
    threading.Thread(target=read, daemon=True).start()
    return iter(messages.get, None)


@contextmanager
def _warning(warned: set[str]) -> Iterator[None]:
    """Turn a failure into a warning, once: the stage goes on, whatever it is."""
    try:
        yield
    except Exception as error:
        text = reason(error)
        if not warned:
            print(
                f"warning: MLflow at {masked(tracking_uri())}"
                f" failed, so this run is not logged there: {text}"
                "\n         Nothing is lost: `striate sync` logs it later from DVC's files.",
                file=sys.stderr,
            )
        warned.add(text)


def _sync_after(claim: Path) -> None:
    """Bring MLflow in line with DVC, once the DVC process in the claim's name has ended."""
    from striate.tracking.sync import sync

    while not background.is_gone(claim.name):
        time.sleep(0.1)
    sync(root(), open_store(), records.find(root()).records)


def _run() -> None:
    # All read the code now: DVC may remove the folder that it is in before the sync.
    from striate.models import model_json  # noqa: F401
    from striate.tracking import sync  # noqa: F401

    commits.code_hash()

    background.lower_priority()
    tags = source_tags()
    claim = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    os.environ[files.REPOSITORY] = str(root())
    os.chdir(root())
    main(tags, claim, lambda: background.redirect_stderr(root()))


if __name__ == "__main__":
    _run()
