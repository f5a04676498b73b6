"""Where the training images lie: on the device, in host memory or on disk."""

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
    """Where images lie while a network is trained.

    `auto` takes the first of device memory, host memory and disk in which they fill at most half of
    what is free: the other half is for the network, its batches and the optimiser. It is wary,
    because `disk` loses little where the system can keep the file in the memory that is left. A
    device other than CUDA shares the host's memory, so that `host` and `device` are one there.

    Args:
        name: `data.residency`.
        size: of all images, in bytes.
        device: that trains.
        processes: on this machine, each of which has images of its own.

    Returns:
        `device`, `host` or `disk`.

    Raises:
        UserError: they do not fit where they are wanted.
    """
    shared = device.type != "cuda"
    host = free_memory() // processes
    free = {"device": host if shared else torch.cuda.mem_get_info(device)[0], "host": host}
    if name == "auto":
        return next((place for place, left in free.items() if size <= left / 2), "disk")
    if size > free.get(name, size):
        raise UserError(
            f"data.residency is {name}, and {size >> 20:,} MiB of images are more than the"
            f" {free[name] >> 20:,} MiB that are free there; disk or auto would do"
        )
    return "device" if name == "host" and shared else name


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of the host's memory that are free for this process.

    What Linux calls available, and not more than is left below the limit of a container (of its
    control group or one around it, v1 or v2); what cached files take counts as free. Elsewhere, all
    of the memory.

    Args:
        root: below which the system's files lie.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = dict(line.split(":") for line in lines)
    available = int(found["MemAvailable"].split()[0]) << 10  # it is given in KiB
    return max(0, min([available, *_left_by_limits(root)]))


def _left_by_limits(root: Path) -> Iterator[int]:
    """What each control group that this process is in leaves of its limit."""
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
                    yield int(most) - used + sum(int(stat[name]) for name in cached)
