"""Train by several processes, each of which takes a slice of every batch."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from striate.errors import UserError, describe
from striate.models import devices
from striate.training import torchrun

TIMEOUT = timedelta(minutes=5)  # for a process that does not answer
# What gloo, NCCL and the store say of a process that is gone, or that does not answer. Gloo raises
# plain RuntimeErrors, and NCCL one class for everything.
SIGNS_OF_LOSS = (
    "connection closed", "closed by peer", "reset by peer", "connection refused", "broken pipe",
    "socket closed", "timed out", "timeout", "connectfullmesh failed", "remote process exit",
    "ncclremoteerror",
)  # fmt: skip


class PeerLostError(Exception):
    """Another process of the group is gone."""


class Group(NamedTuple):
    """The processes that train one network together.

    Attributes:
        rank: of this process, from 0; that one alone writes and logs.
        size: how many there are: the world size.
    """

    rank: int = 0
    size: int = 1

    def rank_slice(self, count: int) -> slice:
        """This rank's slice of `count` images; slices differ by one image at most."""
        first, end = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(first, end)

    def all_reduce(self, tensors: list[Tensor]) -> None:
        """Replace float tensors by their sums over all processes, the same bits in each of them.

        They travel as float32, so that all processes send equally many bytes whatever they have.

        Raises:
            PeerLostError: another process is gone.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        with _collective():
            dist.all_reduce(flat)
        sums = flat.split([tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view(tensor.shape))

    def broadcast_(self, tensors: list[Tensor]) -> None:
        """Replace tensors by those of the main process.

        Raises:
            PeerLostError: another process is gone.
        """
        if self.size == 1:
            return
        for tensor in tensors:
            with _collective():
                dist.broadcast(tensor.view(torch.uint8), 0)

    def broadcast(self, value: Any) -> Any:
        """The value that the main process has."""
        if self.size == 1:
            return value
        box = [value]
        with _collective():
            dist.broadcast_object_list(box)
        return box[0]

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with _collective():
            dist.all_gather_object(found, value)
        return found


SINGLE_PROCESS = Group()


def broadcast_weights(model: nn.Module, group: Group) -> None:
    """Give all processes the main process's weights, which others may have rounded differently."""
    if group.size == 1:
        return
    weights = model.state_dict()
    first = group.broadcast({name: value.cpu() for name, value in weights.items()})
    for name, value in weights.items():
        value.copy_(first[name])


@contextmanager
def _collective() -> Iterator[None]:
    """Translate errors of collectives: another process is gone, or NCCL's own reason."""
    try:
        yield
    except torch.AcceleratorError:
        raise
    except RuntimeError as error:
        whole = " ".join(str(error).split()).split(" Exception raised from ")[0]
        text = re.sub(r"^\[.*?\] ", "", whole)
        gone = isinstance(error, (dist.DistNetworkError, dist.DistStoreError))
        if gone or any(sign in text.lower() for sign in SIGNS_OF_LOSS):
            raise PeerLostError(text.split(". ")[0]) from None
        if isinstance(error, dist.DistBackendError) and describe(error) is None:
            reason = re.search(r"nccl\w+: .*", text)
            raise UserError(
                f"the processes cannot train together: {reason[0] if reason else text}"
            ) from None
        raise


@contextmanager
def process_group(name: str) -> Iterator[tuple[Group, torch.device]]:
    """Join the processes that torchrun started; elsewhere, this process is a group by itself.

    The group is left only after success. After a failure NCCL would wait for processes that wait
    for this one, so the group ends with the process: `torchrun.end`.

    Args:
        name: `training.device`.

    Yields:
        The group, and the device of this process.

    Raises:
        UserError: this machine has no such device, it cannot train together with others, or NCCL
            refuses to.
    """
    if not torchrun.is_member():
        yield SINGLE_PROCESS, devices.pick_device(name)
        return
    if torchrun.has_fatal_error():
        sys.exit(0)
    torchrun.watch()
    try:
        # One that fell back to the CPU would never meet the others.
        device = devices.pick_device("cuda" if name == "auto" and devices.sees_gpu() else name)
        if device.type == "mps":
            raise UserError("training.device is mps, which can train by one process only")
        on_cuda = device.type == "cuda"
        own = torch.device("cuda", _local_rank()) if on_cuda else None
        if own is not None:
            torch.cuda.set_device(own)
        with _collective():  # also around the collectives inside of synchronised norms
            dist.init_process_group("nccl" if on_cuda else "gloo", timeout=TIMEOUT, device_id=own)
            yield Group(dist.get_rank(), dist.get_world_size()), device
    except PeerLostError as error:
        # torchrun is about to end this process, which ends by itself.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if torchrun.has_fatal_error():  # the other one has said why
            sys.exit(0)
        print(f"process {os.environ['RANK']} has lost another one: {error}", file=sys.stderr)
        sys.exit(1)
    dist.destroy_process_group()


def _local_rank() -> int:
    """The number of this process on its machine, which is that of its GPU.

    Raises:
        UserError: it is not set, or this machine has fewer GPUs.
    """
    given = os.environ.get("LOCAL_RANK", "")
    if not given.isdigit():
        raise UserError(
            f"LOCAL_RANK is {given!r}; it must be the number of this process on its machine, from"
            " 0, which torchrun sets"
        )
    gpus = torch.cuda.device_count()
    if int(given) >= gpus:
        raise UserError(torchrun.too_many(int(os.environ.get("LOCAL_WORLD_SIZE", given)), gpus))
    return int(given)


def gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    """The gradient of each parameter, for all processes to add up.

    Where this process has no image of a batch, synchronised norms leave parameters without one,
    which is zero then.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
