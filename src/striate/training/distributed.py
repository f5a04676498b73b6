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

from striate.errors import UserError
from striate.models import devices
from striate.training import torchrun

TIMEOUT = timedelta(minutes=5)  # for a process that does not answer


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

        Raises:
            PeerLostError: another process is gone.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _lost_peers_raised():
            dist.all_reduce(flat)
        sums = flat.split([tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view(tensor.shape))

    def broadcast(self, value: Any) -> Any:
        """The value that the main process has."""
        if self.size == 1:
            return value
        box = [value]
        with _lost_peers_raised():
            dist.broadcast_object_list(box)
        return box[0]

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with _lost_peers_raised():
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
def _lost_peers_raised() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no exception of its own for it
        text = " ".join(str(error).split())
        raise PeerLostError(re.sub(r"^\[.*?\] ", "", text).split(". ")[0][:120]) from None


@contextmanager
def process_group(name: str) -> Iterator[tuple[Group, torch.device]]:
    """Join the processes that torchrun started; elsewhere, this process is a group by itself.

    Args:
        name: `training.device`.

    Yields:
        The group, and the device of this process.

    Raises:
        UserError: this machine has no such device, or it cannot train together with others.
    """
    if not torchrun.is_member():
        yield SINGLE_PROCESS, devices.pick_device(name)
        return
    if torchrun.has_fatal_error():
        sys.exit(0)
    try:
        device = devices.pick_device(name)
        if device.type == "mps":
            raise UserError("training.device is mps, which can train by one process only")
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        yield Group(dist.get_rank(), dist.get_world_size()), device
    except PeerLostError as error:
        # torchrun is about to end this process, which ends by itself.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(f"process {os.environ['RANK']} has lost another one: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
