"""Train on two hosts in network namespaces, and cut one of them off for a while.

usage: python hosts.py FOLDER SECONDS EPOCH

FOLDER, which both hosts see, holds params.yaml and data/. After EPOCH the second host is cut off
for SECONDS (0: never). Needs Linux, root, and `ip` of iproute2. Prints what both said, and a JSON
object.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from paths import ROOT

NAMES = [f"striate-{os.getpid()}-{letter}" for letter in "ab"]
DEVICES = [f"st{os.getpid()}{letter}" for letter in "ab"]  # at most 15 characters
ADDRESSES = ["10.77.0.1", "10.77.0.2"]
PATIENCE_SECONDS = 300


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


@contextlib.contextmanager
def network():
    """Create both hosts, joined by one cable."""
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", DEVICES[0], "netns", NAMES[0],
           "type", "veth", "peer", "name", DEVICES[1], "netns", NAMES[1])  # fmt: skip
        for name, device, address in zip(NAMES, DEVICES, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            for each in ("lo", device):
                ip("-n", name, "link", "set", each, "up")
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def start(number):
    """Start the stage on one of the hosts; torchrun's rendezvous is on the first."""
    log = Path(f"host-{number}.log")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
        "PET_NNODES": "2",
        "PET_RDZV_ENDPOINT": f"{ADDRESSES[0]}:29400",
        "PET_RDZV_CONF": f"is_host={int(number == 0)}",  # both have this machine's name
        "PET_LOCAL_ADDR": ADDRESSES[number],
        "GLOO_SOCKET_IFNAME": DEVICES[number],
    }
    command = ["ip", "netns", "exec", NAMES[number], sys.executable, str(ROOT / "stages/train.py")]
    with log.open("w") as sink:
        return subprocess.Popen(command, stdout=sink, stderr=sink, env=environment)


def said():
    return [Path(f"host-{number}.log").read_text() for number in (0, 1)]


def main(seconds, epoch):
    begin = time.monotonic()
    found = {"cut": seconds}
    with network():
        hosts = [start(number) for number in (0, 1)]
        try:
            if seconds:
                while f"epoch {epoch}/" not in said()[0]:
                    assert all(host.poll() is None for host in hosts), said()
                    assert time.monotonic() - begin < PATIENCE_SECONDS, said()
                    time.sleep(0.05)
                ip("-n", NAMES[1], "link", "set", DEVICES[1], "down")
                time.sleep(1)  # for what is on its way
                before = said()[0].count("epoch ")
                time.sleep(seconds - 1)
                found["epochs_meanwhile"] = said()[0].count("epoch ") - before
                ip("-n", NAMES[1], "link", "set", DEVICES[1], "up")
            found["status"] = [host.wait(PATIENCE_SECONDS) for host in hosts]
        finally:
            for host in hosts:
                host.kill()
    found["seconds"] = round(time.monotonic() - begin, 1)
    print(*said(), sep="\n")
    print(json.dumps(found))


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    main(float(sys.argv[2]), int(sys.argv[3]))
