"""Resume a training that was stopped from its last checkpoint.

A resume checkpoint lies outside of what DVC keeps, under a name that follows from all that shapes
the training: params, data, code, libraries and the kind of machine. So no other training resumes
from it, and one that does ends with the same bytes as one that was never stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from striate.data import files
from striate.errors import UserError
from striate.models.devices import describe
from striate.training import events, torchrun
from striate.training.resume_files import DONE, RESUME_DIR

if TYPE_CHECKING:
    from striate.config.params import Params

# From a request to stop until the training is interrupted wherever it is. A GPU works off up to a
# hundred steps, which the host is ahead of it, before the host answers.
GRACE_SECONDS, DEVICE_GRACE_SECONDS = 1.0, 10.0
PACKAGE = Path(__file__).parents[1]
CODE = ("data", "models", "training")  # the subpackages that shape a training
# How to score the test set, where images lie and how often to save change nothing that is learnt.
NO_PART: dict[str, Any] = {
    "evaluate": True,
    "data": {"residency"},
    "training": {"checkpoint_minutes"},
}


def fingerprint(
    params: Params,
    manifest: dict[str, Any],
    device: torch.device,
    script: Path,
    package: Path = PACKAGE,
) -> str:
    """A hash of all that shapes a training, and of nothing else.

    Args:
        params: all of params.yaml.
        manifest: of the data, with the hashes of its files.
        device: that trains.
        script: which trains.
        package: the folder of this package.
    """
    machine = describe(device)
    if torchrun.is_member():
        # A group that has lost or gained a machine resumes, though its last bits will differ.
        machine.pop("torch.threads")
    weights = Path(params.training.init_from)
    parts = {
        "params": params.model_dump(exclude=NO_PART),
        "data": manifest,
        "weights": files.md5(weights) if weights.exists() else "",
        "script": _sha256(script.read_bytes()),
        "code": {
            str(file.relative_to(package)): _sha256(file.read_bytes())
            for name in CODE
            for file in (package / name).rglob("*.py")
        },
        "machine": machine,
    }
    return _sha256(json.dumps(parts, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read(path: Path) -> dict[str, Any] | None:
    """The state in a file; None if there is no file or it is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, body = content[:64], content[64:]
    if digest != _sha256(body).encode():
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True)
    return state


class Checkpointer:
    """Saves the state of one training, and reads it again.

    Args:
        path: of the checkpoint; None in a process that leaves the saving to the main process.
        minutes: after which a state is saved within an epoch.
        grace: seconds for a step to answer a request to stop; saving may then take any time.

    Attributes:
        snapshot: the state that an earlier process saved; None if there is none.
        label: what the last saved state is of, such as `epoch 2 of 5`; empty if there is none.
        stop_requested: whether the training is to stop once its state is saved.
    """

    def __init__(self, path: Path | None, minutes: float, grace: float = GRACE_SECONDS) -> None:
        self._path = path
        self._grace = grace
        self._interval = 60 * minutes
        self._last = self._start = time.monotonic()
        self.stop_requested = False
        self.snapshot: dict[str, Any] | None = read(path) if path else None
        self.label = ""
        if self.snapshot is not None:
            self.label = self.snapshot["label"]
            self._start -= self.snapshot["seconds"]

    def is_due(self) -> bool:
        """Whether it is time to save a state within an epoch."""
        if self.stop_requested:
            signal.setitimer(signal.ITIMER_REAL, 0)  # a step has answered
        return self.stop_requested or time.monotonic() - self._last >= self._interval

    def save(self, snapshot: dict[str, Any], label: str) -> None:
        """Replace the checkpoint.

        Args:
            snapshot: tensors and plain values.
            label: what the state is of.

        Raises:
            KeyboardInterrupt: the training was asked to stop; the state is saved.
        """
        if self._path:
            buffer = io.BytesIO()
            torch.save(snapshot | {"label": label, "seconds": self.seconds()}, buffer)
            body = buffer.getvalue()
            files.write(self._path, _sha256(body).encode() + body)
        self._last = time.monotonic()
        self.label = label
        if self.stop_requested:
            raise KeyboardInterrupt

    def seconds(self) -> float:
        """How long the training has taken, with the time before it was stopped."""
        return time.monotonic() - self._start

    def finish(self, models: Path) -> None:
        """Give the checkpoint up, now that the outputs of the training are written.

        Under DVC it stays until DVC has recorded them, which `striate.pipeline.stage` looks after:
        whatever ends the stage before that loses no training.

        Args:
            models: the folder with the weights.
        """
        if self._path is None:
            return
        if "DVC_STAGE" in os.environ:
            files.write(self._path.with_suffix(DONE), files.md5(models).encode())
        else:
            self._path.unlink(missing_ok=True)

    @contextmanager
    def delayed_interrupts(self) -> Iterator[None]:
        """Let an interrupt or a termination wait until the step is over and its state is saved.

        If no step answers within `grace`, or at a second one, it interrupts at once.

        Raises:
            KeyboardInterrupt: says from where the same command resumes.
        """

        def request_stop(number: int, frame: FrameType | None) -> None:
            if self.stop_requested:
                raise KeyboardInterrupt
            self.stop_requested = True
            signal.setitimer(signal.ITIMER_REAL, self._grace)

        def stop(number: int, frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        handlers = {signal.SIGINT: request_stop, signal.SIGTERM: request_stop, signal.SIGALRM: stop}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        except KeyboardInterrupt:
            where = f"resumes after {self.label}" if self.label else "starts over"
            raise KeyboardInterrupt(f"the same command {where}") from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def checkpointing(
    params: Params, manifest: dict[str, Any], device: torch.device, script: Path
) -> Iterator[Checkpointer]:
    """The checkpointer of a training, whose checkpoint lasts until all outputs are safe.

    Where several processes train together, the main process saves and locks for all.

    Args:
        params: all of params.yaml.
        manifest: of the data, with the hashes of its files.
        device: that trains.
        script: which trains.

    Raises:
        UserError: another process does this training, or trains in this folder.
    """
    minutes = params.training.checkpoint_minutes
    grace = GRACE_SECONDS if device.type == "cpu" else DEVICE_GRACE_SECONDS
    if not torchrun.is_main_process():
        yield Checkpointer(None, minutes, grace)
        return
    folder = files.repository() / RESUME_DIR
    name = fingerprint(params, manifest, device, script)
    # Temporary copies of a repository share their checkpoints, and each has outputs of its own.
    with exclusive_lock(RESUME_DIR / "train.lock"), exclusive_lock(folder / f"{name}.lock"):
        events.publish({"training": name})
        checkpointer = Checkpointer(folder / f"{name}.state", minutes, grace)
        if checkpointer.label:
            print(f"resuming after {checkpointer.label}", flush=True)
        yield checkpointer
        checkpointer.finish(Path("models"))


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold a lock while training.

    Raises:
        UserError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        holder = path.read_text() or "another process"
        raise UserError(
            f"{holder} does this training already; wait until it has ended, or end it with `kill`"
        ) from None
    try:
        path.write_text(f"process {os.getpid()} (in {Path.cwd()})")
        yield
    finally:
        # Nobody waits for it, and who opened it just now finds its name missing and tries again.
        path.unlink(missing_ok=True)
        lock.release()
