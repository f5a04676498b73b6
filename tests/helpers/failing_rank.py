"""One of several processes that train fails, in a group that could not be torn down.

usage: python failing_rank.py KIND PLACE

Starts two processes of this script by torchrun, of which rank 1 meets a failure of that KIND at a
PLACE: `before` there is a group, `between` two collectives, or in the third step of a `training`.
Where it is `stuck`, it fails between two collectives and rank 0 waits in C for what never comes, as
inside NCCL. The file `failed` says when that was. `destroy_process_group` never returns. KIND
`killed` ends the process by SIGKILL, once: the second attempt ends well. KIND `orphaned` kills
torchrun.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from striate.errors import UserError
from striate.pipeline.stage import stage
from striate.training import torchrun

KINDS = {
    "user": lambda: UserError("the loss became nan"),
    "memory": lambda: RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "disk": lambda: OSError(28, "No space left on device", "state"),
    "code": lambda: ZeroDivisionError("division by zero"),
}


def wait_in_c():
    """Wait where neither signals nor the interpreter reach: for a lock that is held."""
    mutex = ctypes.create_string_buffer(64)
    library = ctypes.CDLL(None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def fail(kind):
    Path("failed").write_text(str(time.time()))
    if kind in ("killed", "orphaned"):
        os.kill(os.getpid() if kind == "killed" else os.getppid(), signal.SIGKILL)
        wait_in_c()
    raise KINDS[kind]()


def train(group, kind):
    import torch
    from tiny import network, settings

    from striate.data.tensors import Split
    from striate.training import loop
    from striate.training.task import Task

    steps = []

    def normalize(pixels):
        steps.append(len(pixels))
        if group.rank == 1 and len(steps) == 3:
            fail(kind)
        return pixels / 255

    images = Split(torch.zeros(48, 1, 6, 6, dtype=torch.uint8), torch.arange(48) % 3)
    task = Task(images, None, settings(batch_size=8), normalize)
    list(loop.fit(network(), task, group=group))


def member(kind, place):
    import torch

    from striate.training import distributed

    if kind == "killed" and Path("failed").exists():
        with distributed.process_group("cpu") as (group, _):
            group.all_reduce([torch.ones(1)])
        return
    distributed.dist.destroy_process_group = wait_in_c
    if place == "before" and os.environ["RANK"] == "1":
        distributed.devices.pick_device = lambda name: fail(kind)
    with distributed.process_group("cpu") as (group, _):
        if place == "training":
            train(group, kind)
        group.all_reduce([torch.ones(1)])
        if group.rank == 1:
            fail(kind)
        if place == "stuck":
            wait_in_c()
        group.all_reduce([torch.ones(1)])


def main():
    # torchrun passes no arguments on.
    kind, place = os.environ.setdefault("FAILING", " ".join(sys.argv[1:])).split()
    with stage():
        if torchrun.is_member():
            member(kind, place)
        else:
            torchrun.launch(2, Path(__file__), "cpu")


if __name__ == "__main__":
    main()
