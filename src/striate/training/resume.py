"""A training that was stopped goes on from the state that was saved last.

The state lies outside of what DVC keeps, under a name that follows from all that shapes the
outcome: params, data, code, libraries and the kind of machine. So no other training can take it up,
and one that goes on ends with the same bytes as one that was never stopped.
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
from striate.training.states import DONE, STATES

if TYPE_CHECKING:
    from striate.config.params import Params

# Between the wish to stop and an interrupt wherever the training is. A device works off up to a
# hundred steps, which the host is ahead of it, before the host answers.
GRACE_SECONDS, DEVICE_GRACE_SECONDS = 1.0, 10.0


def fingerprint(
    params: dict[str, Any],
    manifest: dict[str, Any],
    first: str,
    device: torch.device,
    script: Path,
) -> str:
    """A hash of all that the outcome of a training follows from.

    Args:
        params: those that train reads.
        manifest: of the data, with the hashes of its files.
        first: the hash of what the first weights come from.
        device: that trains.
        script: which calls this package.
    """
    sources = [script, *Path(__file__).parent.glob("*.py")]
    code = {file.name: _sha256(file.read_bytes()) for file in sources}
    parts = {"params": params, "data": manifest, "first": first, "code": code}
    machine = describe(device)
    if torchrun.is_member():
        # A group that has lost or gained a machine goes on, though its last bits will differ.
        machine.pop("torch.threads")
    parts["machine"] = machine
    return _sha256(json.dumps(parts, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read(path: Path) -> dict[str, Any] | None:
    """The state in a file, or None where there is none, or only a damaged one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, body = content[:64], content[64:]
    if digest != _sha256(body).encode():
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True)
    return state


class Keeper:
    """Saves the state of one training, and gives it back.

    Args:
        path: of its state; None in a process that leaves the saving to another one.
        minutes: after which a state is saved within an epoch.
        grace: seconds for a step to answer a wish to stop; saving may then take as long as it does.

    Attributes:
        state: what was saved last, or None.
        saved: what that state is of, for a person.
        stopping: whether the training is to stop once its state is saved.
    """

    def __init__(self, path: Path | None, minutes: float, grace: float = GRACE_SECONDS) -> None:
        self._path = path
        self._grace = grace
        self._seconds = 60 * minutes
        self._last = self._start = time.monotonic()
        self.stopping = False
        self.state: dict[str, Any] | None = read(path) if path else None
        self.saved = ""
        if self.state is not None:
            self.saved = self.state["saved"]
            self._start -= self.state["seconds"]

    def due(self) -> bool:
        """Whether it is time to save a state within an epoch."""
        if self.stopping:
            signal.setitimer(signal.ITIMER_REAL, 0)  # a step has answered
        return self.stopping or time.monotonic() - self._last >= self._seconds

    def save(self, state: dict[str, Any], saved: str) -> None:
        """Replace what was saved before.

        Args:
            state: tensors and plain values.
            saved: what the state is of, for a person.

        Raises:
            KeyboardInterrupt: it was asked to stop; the state is saved.
        """
        if self._path:
            buffer = io.BytesIO()
            torch.save(state | {"saved": saved, "seconds": self.seconds()}, buffer)
            body = buffer.getvalue()
            files.write(self._path, _sha256(body).encode() + body)
        self._last = time.monotonic()
        self.saved = saved
        if self.stopping:
            raise KeyboardInterrupt

    def seconds(self) -> float:
        """How long the training has taken, with what came before it was stopped."""
        return time.monotonic() - self._start

    def complete(self, models: Path) -> None:
        """The outputs of the training are written.

        Under DVC the state stays until DVC has recorded them, which the stage looks after:
        whatever ends the stage before that costs no training.

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
    def stoppable(self) -> Iterator[None]:
        """Let an interrupt or a termination wait for the end of a step, and the state be saved.

        One that comes where steps take long, or a second one, interrupts at once.

        Raises:
            KeyboardInterrupt: says from where the same command goes on.
        """

        def ask(number: int, frame: FrameType | None) -> None:
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            signal.setitimer(signal.ITIMER_REAL, self._grace)

        def insist(number: int, frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        handlers = {signal.SIGINT: ask, signal.SIGTERM: ask, signal.SIGALRM: insist}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        except KeyboardInterrupt:
            where = f"goes on after {self.saved}" if self.saved else "begins anew"
            raise KeyboardInterrupt(f"the same command {where}") from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def kept(
    settings: Params, manifest: dict[str, Any], device: torch.device, script: Path
) -> Iterator[Keeper]:
    """The keeper of a training, whose state lasts until all of its outputs are safe.

    Of several processes that train together, the first one saves and locks for all.

    Args:
        settings: all of params.yaml.
        manifest: of the data, with the hashes of its files.
        device: that trains.
        script: which calls this.

    Raises:
        UserError: another process does this training, or trains in this folder.
    """
    minutes = settings.training.checkpoint_minutes
    grace = GRACE_SECONDS if device.type == "cpu" else DEVICE_GRACE_SECONDS
    if not torchrun.is_first():
        yield Keeper(None, minutes, grace)
        return
    states = Path(os.environ.get("DVC_ROOT", "."), STATES)
    # Where images lie changes nothing, and a training may have been stopped for want of memory.
    params = settings.model_dump(exclude={"evaluate": True, "data": {"residency"}})
    source = Path(settings.training.init_from)
    first = files.md5(source) if source.exists() else ""
    name = fingerprint(params, manifest, first, device, script)
    # Temporary copies of a repository share their states, and each has outputs of its own.
    with alone(STATES / "train.lock"), alone(states / f"{name}.lock"):
        events.tell({"training": name})
        keeper = Keeper(states / f"{name}.state", minutes, grace)
        if keeper.saved:
            print(f"goes on after {keeper.saved}", flush=True)
        yield keeper
        keeper.complete(Path("models"))


@contextmanager
def alone(path: Path) -> Iterator[None]:
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
        # Nobody waits for it, and who opened it just now is told by its missing name to try again.
        path.unlink(missing_ok=True)
        lock.release()
