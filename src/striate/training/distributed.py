"""One training by several processes, each of which takes a part of every batch."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from striate.errors import UserError
from striate.models import devices
from striate.training import torchrun

if TYPE_CHECKING:
    pass

PATIENCE = timedelta(minutes=5)  # with a process that does not answer


class PeerLostError(Exception):
    """Another process of the group is gone."""


class Group(NamedTuple):
    """The processes of one training, as one of them sees it.

    Attributes:
        rank: of this process, from 0; that one alone writes and logs.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> Share:
        """What this process takes of so many images; parts differ by one image at most."""
        first, end = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return Share(count, slice(first, end))

    def add_(self, tensors: list[Tensor]) -> None:
        """Replace float tensors by their sums over all processes, the same bits in each of them.

        Raises:
            PeerLostError: another process is gone.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _peers():
            dist.all_reduce(flat)
        sums = flat.split([tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view(tensor.shape))

    def told(self, value: Any) -> Any:
        """The value that the first process has."""
        if self.size == 1:
            return value
        box = [value]
        with _peers():
            dist.broadcast_object_list(box)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with _peers():
            dist.all_gather_object(found, value)
        return found


ALONE = Group()


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no kind of its own for it
        said = " ".join(str(error).split())
        raise PeerLostError(re.sub(r"^\[.*?\] ", "", said).split(". ")[0][:120]) from None


@contextmanager
def joined(name: str) -> Iterator[tuple[Group, torch.device]]:
    """The group that this process belongs to, or this process alone, and its device.

    Args:
        name: `training.device`.

    Raises:
        UserError: this machine has no such device, or it cannot train together with others.
    """
    if not torchrun.is_member():
        yield ALONE, devices.pick_device(name)
        return
    if torchrun.is_hopeless():
        sys.exit(0)
    try:
        device = devices.pick_device(name)
        if device.type == "mps":
            raise UserError("training.device is mps, which can train by one process only")
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        yield Group(dist.get_rank(), dist.get_world_size()), device
    except PeerLostError as error:
        # torchrun is about to end this process, which ends by itself.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(f"process {os.environ['RANK']} has lost another one: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class Share(NamedTuple):
    """Which images of a batch are taken here, where several processes divide it."""

    batch: int  # images in the whole of it
    part: slice  # those of this process
