"""Choose where the training images stay: on the device, in host memory or on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from striate.errors import UserError

# Controller → where a control group's folder is, and its files: limit, usage, cached files in use
# and not in use. The first is cgroup v2, whose lines in /proc/self/cgroup name no controller.
CGROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", ("active_file", "inactive_file")),
    "memory": (
        "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
}  # fmt: skip


def pick_residency(name: str, size: int, device: torch.device, processes: int = 1) -> str:
    """Choose where images stay during a training.

    `auto` takes the first of device memory, host memory and disk in which they fill at most half of
    what is free: the other half is for the network, its batches and the optimizer. It errs on the
    side of `disk`, which is hardly slower where the system can cache the file in the memory left. A
    device other than CUDA shares the host's memory, so `host` and `device` are the same there.

    Args:
        name: `data.residency`.
        size: of all images, in bytes.
        device: that trains.
        processes: on this machine, each with images of its own.

    Returns:
        `device`, `host` or `disk`.

    Raises:
        UserError: they do not fit.
    """
    shared = device.type != "cuda"
    host = free_memory() // processes
    free = {"device": host if shared else torch.cuda.mem_get_info(device)[0], "host": host}
    if name == "auto":
        return next((place for place, left in free.items() if size <= left / 2), "disk")
    if size > free.get(name, size):
        raise UserError(
            f"data.residency is {name}, and {size >> 20:,} MiB of images do not fit into the"
            f" {free[name] >> 20:,} MiB that are free there; choose disk or auto"
        )
    return "device" if name == "host" and shared else name


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of host memory that are free for this process.

    On Linux, the available memory, capped by what the limits of its control groups (v1 or v2, of a
    container or around it) leave; cached files count as free. Elsewhere, all of the memory.

    Args:
        root: below which the system's files lie.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = dict(line.split(":") for line in lines)
    available = int(found["MemAvailable"].split()[0]) << 10  # it is given in KiB
    return max(0, min([available, *(left for _, left in limits(root))]))


def limits(root: Path = Path("/")) -> Iterator[tuple[int, int]]:
    """The limit of each control group of this process, and what it leaves, in bytes."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except FileNotFoundError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        for controller in set(controllers.split(",")) & CGROUPS.keys():
            mount, limit, usage, cached = CGROUPS[controller]
            # A container sees its own group as the root, and perhaps a path that is not there.
            inside = Path(path.lstrip("/"))
            for group in (inside, *inside.parents):
                folder = root / mount / group
                try:
                    most = (folder / limit).read_text().strip()
                    used = int((folder / usage).read_text())
                    stat = dict(
                        line.split() for line in (folder / "memory.stat").read_text().splitlines()
                    )
                except FileNotFoundError:
                    continue
                if most != "max":
                    left = int(most) - used + sum(int(stat[name]) for name in cached)
                    yield int(most), left
