"""One training by one process and by two: Striate, and a bare loop in DistributedDataParallel.

    python benchmarks/scaling_out.py                    MNIST and cifar10-94, three rounds
    python benchmarks/scaling_out.py --rounds 1 --processes 1 2 4

Each process has one thread on a CPU, or a GPU of its own; on a CPU, one process with as many
threads stands beside them. The global batch stays what it is, so a process of two has half of each
batch. What is trained: the notebook's network with its settings on MNIST, and the network, the
batches and the settings of the recipe `cifar10-94`. The bare loop is what tutorials show: a
DataLoader with a DistributedSampler, DDP, torch.optim (SGD for cifar10-94, whose optimiser PyTorch
does not have in this form), float32. Both are started by torchrun, in turn; the first epoch of each
is not counted. Efficiency is images a second, divided by processes and threads and by the images a
second of one process with one thread. Set STRIATE_MIRROR to a folder with the data.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from common import header, params, spread, stored, table, train, wait
from torch import nn

from striate.data import arrays, tensors
from striate.models import checkpoint, devices, normalization
from striate.training import distributed

SETTINGS = {
    "mnist": ((), {"data__name": "mnist"}, 60_000),
    "cifar10-94": (("cifar10-94",), {"evaluate__tta": "none"}, 10_000),
}
EPOCHS = 2


def settings_of(name):
    recipes, changes, _ = SETTINGS[name]
    return params(*recipes, training__epochs=EPOCHS, data__val_size=0, **changes)


def striate(name, group):
    return train(settings_of(name), SETTINGS[name][2], group)["epochs"][-1]


def bare(name, group, device):
    values, count = settings_of(name), SETTINGS[name][2]
    folder = stored(values["data"]["name"])
    manifest = arrays.load_manifest(folder)
    normalize = normalization.pick_normalization(manifest, values["data"]["normalize"])
    torch.manual_seed(values["seed"])
    model = checkpoint.build(checkpoint.describe(values["model"], manifest, normalize)).to(device)
    split = tensors.load_split(folder, "train", torch.device("cpu"))
    data = torch.utils.data.TensorDataset(
        normalize(split.images[:count]), split.labels[:count]
    )  # fmt: skip
    sampler = torch.utils.data.DistributedSampler(data, group.size, group.rank)
    batch = values["training"]["batch_size"] // group.size
    loader = torch.utils.data.DataLoader(data, batch, sampler=sampler)
    if group.size > 1:
        model = nn.parallel.DistributedDataParallel(model)
    if values["training"]["optimizer"] == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        wait(device)
        begin = time.perf_counter()
        for inputs, labels in loader:
            loss = nn.functional.cross_entropy(model(inputs.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        wait(device)
        seconds = time.perf_counter() - begin
    return seconds


def member(program, name, place):
    """What each process does; the first one writes the seconds of the last epoch to a file."""
    devices.keep_freed_memory()
    with distributed.process_group("auto") as (group, device):
        seconds = striate(name, group) if program == "striate" else bare(name, group, device)
        if group.rank == 0:
            Path(place).write_text(json.dumps(seconds))


def measured(program, name, processes, threads, place):
    """Images a second of a training by so many processes with so many threads each."""
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         f"--nproc-per-node={processes}", __file__, "--member", program, name, str(place)],
        check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    return SETTINGS[name][2] / json.loads(place.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="begin with 1")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--member", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.member:
        member(*arguments.member)
        return
    print(header())
    place = stored("digits").parent / "seconds.json"
    for name in arguments.settings:
        stored(settings_of(name)["data"]["name"])  # not by two processes at once
        shapes = [(processes, 1) for processes in arguments.processes]
        if not torch.cuda.is_available():
            shapes.append((1, max(arguments.processes)))
        found = {}
        for _ in range(arguments.rounds):
            for program in ("striate", "bare"):
                for shape in shapes:
                    speed = measured(program, name, *shape, place)
                    found.setdefault((program, *shape), []).append(speed)
        rows = []
        for (program, processes, threads), speeds in found.items():
            one = statistics.median(found[program, 1, 1])
            efficiency = statistics.median(speeds) / one / processes / threads
            rows.append(
                [program, processes, threads, spread(speeds, digits=0), f"{efficiency:.0%}"]
            )
        print(f"\n{name}, {arguments.rounds} rounds\n")
        table(["program", "processes", "threads each", "images a second", "efficiency"], rows)


if __name__ == "__main__":
    main()
