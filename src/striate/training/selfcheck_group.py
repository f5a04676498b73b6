"""The checks of `striate.training.selfcheck` that need several processes.

torchrun starts this file as each of them; `_CASES` says what they do.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from striate.errors import UserError, exit_on_error
from striate.models import devices
from striate.training import distributed, loop, norms, torchrun
from striate.training.distributed import Group
from striate.training.resume import Checkpointer
from striate.training.selfcheck_single import (
    AUGMENT,
    CONVNET,
    NORMALIZE,
    CheckError,
    SkippedError,
    build,
    check,
    params,
    random_images,
)
from striate.training.task import Task

CASE, DEVICE, FOLDER = "STRIATE_CHECK", "STRIATE_CHECK_DEVICE", "STRIATE_CHECK_FOLDER"
LIMIT_SECONDS = 180  # for a group to start, train and end
TOLD_SECONDS = 30.0  # from the failure of a process to the end of all, beside the start
REASON = "this process gives up on purpose"
LEFT_OVER = 67  # images; in batches of 33, one is left over


def _run(case: str, device: torch.device, processes: int, folder: str) -> tuple[int, str]:
    """Run a case in several processes; returns the exit status and standard error.

    Raises:
        CheckError: they did not end in time.
    """
    code = f"from {__name__} import launch; launch({processes})"
    environment = {CASE: case, DEVICE: device.type, FOLDER: folder}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            _, text = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise CheckError(f"{processes} processes hung for {LIMIT_SECONDS} s") from None
    return process.returncode, text


def launch(processes: int) -> None:
    """Start the processes of the case that the environment names."""
    with exit_on_error():
        torchrun.launch(processes, Path(__file__), os.environ[DEVICE])


def _require_two(device: torch.device) -> None:
    found = devices.count_gpus() if device.type == "cuda" else 0
    if found < 2:
        raise SkippedError(f"it needs two cards, and there {'is one' if found else 'is none'}")


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1][:300]


@check
def too_many_processes(device: torch.device) -> str:
    """One process more than there are cards is refused in a line."""
    if device.type != "cuda":
        raise SkippedError("on CUDA only, where each process needs a card")
    with tempfile.TemporaryDirectory() as folder:
        status, text = _run("whole", device, devices.count_gpus() + 1, folder)
    if status != 2 or text.count("error: ") != 1:
        raise CheckError(f"status {status}: {_last(text)}")
    return _last(text)


@check
def left_over_image(device: torch.device) -> str:
    """A batch with no image for one of the processes does not stop them."""
    _require_two(device)
    with tempfile.TemporaryDirectory() as folder:
        status, text = _run("whole", device, 2, folder)
    if status:
        raise CheckError(f"status {status}: {_last(text)}")
    return ""


@check
def failing_process(device: torch.device) -> str:
    """A process that fails ends all of them, and its reason is told."""
    _require_two(device)
    with tempfile.TemporaryDirectory() as folder:
        status, text = _run("fails", device, 2, folder)
        end = time.time()
        failed = Path(folder, "failed")
        waited = end - failed.stat().st_mtime if failed.exists() else float("inf")
    if status != 2 or REASON not in text:
        raise CheckError(f"status {status}: {_last(text)}")
    if waited > TOLD_SECONDS:
        raise CheckError(f"it took {waited:.0f} s to tell")
    return f"told after {waited:.1f} s"


@check
def killed_process(device: torch.device) -> str:
    """A group of which one process was killed ends with the bytes of one that was left alone."""
    _require_two(device)
    found = {}
    for case in ("whole", "killed"):
        with tempfile.TemporaryDirectory() as folder:
            status, text = _run(case, device, 2, folder)
            if status:
                raise CheckError(f"{case}: status {status}: {_last(text)}")
            found[case] = Path(folder, "result").read_text()
            if case == "killed" and not Path(folder, "failed").exists():
                raise CheckError("no process was killed")
    if found["whole"] != found["killed"]:
        raise CheckError("the weights differ")
    return ""


def _fail(folder: Path) -> None:
    (folder / "failed").touch()
    raise UserError(REASON)


def _die(folder: Path) -> None:
    if not (folder / "failed").exists():
        (folder / "failed").touch()
        os.kill(os.getpid(), signal.SIGKILL)


_CASES: dict[str, Callable[[Path], None]] = {
    "whole": lambda _: None,
    "fails": _fail,
    "killed": _die,
}  # after the first epoch, in rank 1


def main() -> None:
    """Train in one of several processes, and do what the case says."""
    folder = Path(os.environ[FOLDER])
    devices.set_deterministic(True)
    with distributed.process_group(os.environ[DEVICE]) as (group, device):
        if group.size < 2:
            raise UserError("this process is alone")
        _train(group, device, folder)


def _train(group: Group, device: torch.device, folder: Path) -> None:
    images = random_images(device, LEFT_OVER)
    model = build(device, CONVNET, images.images)
    norms.synchronize_(model, device)
    task = Task(images, None, params(AUGMENT, epochs=3, batch_size=33), NORMALIZE)
    checkpointer = Checkpointer(folder / "state" if group.rank == 0 else None, minutes=60)
    for row in loop.fit(model, task, checkpointer=checkpointer, group=group):
        if group.rank == 1 and row["epoch"] == 1:
            _CASES[os.environ[CASE]](folder)
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    digests = group.all_gather(digest.hexdigest())
    if len(set(digests)) > 1:
        raise UserError("the processes end with different weights")
    if group.rank == 0:
        (folder / "result").write_text(json.dumps(digests))


if __name__ == "__main__":
    with torchrun.exits():
        main()
