"""Two processes train with synchronised batch norm on a CPU, and print what they ended with.

usage: python sync_norms.py PRECISION

The last batch of an epoch holds one image, so that rank 0 has none of it. SyncBatchNorm's function,
its collectives and autocast are PyTorch's own; the kernels that it has for GPUs alone are written
here in tensors. Each process prints, as JSON, the losses of all steps and a hash of its weights.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from tiny import CONVNET, network, settings
from torch import nn
from torch.nn.modules._functions import SyncBatchNorm as sync_batch_norm  # noqa: N813

from striate.data.tensors import Split
from striate.pipeline.stage import stage
from striate.training import distributed, loop, norms, torchrun
from striate.training.task import Task

AXES = (0, 2, 3)


def wide(values):
    """Of every channel, for (N, C, H, W)."""
    return values.view(1, -1, 1, 1)


def stats(inputs, eps):
    inputs = inputs.float()
    return inputs.mean(AXES), (inputs.var(AXES, unbiased=False) + eps).rsqrt()


def gather_stats(_, means, inverses, running_mean, running_var, momentum, eps, counts):
    weights = (counts / counts.sum())[:, None]
    mean = (weights * means).sum(0)
    var = (weights * (inverses**-2 - eps + means**2)).sum(0) - mean**2
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(var * counts.sum() / (counts.sum() - 1), momentum)
    return mean, (var + eps).rsqrt()


def normalised(inputs, weight, bias, mean, inverse, eps):
    found = (inputs.float() - wide(mean)) * wide(inverse * weight) + wide(bias)
    return found.to(inputs.dtype)


def reduce(grads, inputs, mean, inverse, weight, *_):
    grads, centred = grads.float(), inputs.float() - wide(mean)
    total, product = grads.sum(AXES), (grads * centred).sum(AXES)
    return total, product, product * inverse, total


def backward(grads, inputs, mean, inverse, weight, total, product, counts):
    count = counts.sum()
    centred = inputs.float() - wide(mean)
    found = grads.float() - wide(total / count) - centred * wide(inverse**2 * product / count)
    return (found * wide(inverse * weight)).to(inputs.dtype)


def forward(self, inputs):
    """SyncBatchNorm's own in training mode, which refuses any other device than a GPU."""
    return sync_batch_norm.apply(
        inputs, self.weight, self.bias, self.running_mean, self.running_var, self.eps,
        self.momentum, distributed.dist.group.WORLD, distributed.dist.get_world_size(),
    )  # fmt: skip


def use_stand_ins():
    torch.batch_norm_stats = stats
    torch.batch_norm_gather_stats_with_counts = gather_stats
    torch.batch_norm_elemt = normalised
    torch.batch_norm_backward_reduce = reduce
    torch.batch_norm_backward_elemt = backward
    nn.SyncBatchNorm.forward = forward


def train(group, precision):
    model = network(CONVNET | {"layers": 2, "dropout": 0.0})
    if group.size > 1:
        assert norms.synchronize_(model, torch.device("cuda"))
    drawn = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (25, 1, 6, 6), dtype=torch.uint8, generator=drawn)
    loaded = settings(epochs=2, batch_size=8, optimizer="sgd", learning_rate=0.05,
                      precision=precision, log_every=1)  # fmt: skip
    task = Task(
        Split(images, torch.arange(25) % 3), None, loaded, lambda pixels: pixels / 255 - 0.5
    )
    rows = list(loop.fit(model, task, group=group))
    weights = b"".join(value.float().numpy().tobytes() for value in model.state_dict().values())
    losses = [loss for row in rows for _, loss in row["step_losses"]]
    running = [value.tolist() for name, value in model.state_dict().items() if "running" in name]
    found = {"size": group.size, "losses": losses, "running": running,
             "weights": hashlib.sha256(weights).hexdigest()}  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")  # at once, as both processes write here
    sys.stdout.flush()


def main():
    # torchrun passes no arguments on.
    precision = os.environ.setdefault("PRECISION", "".join(sys.argv[1:]))
    with stage():
        if not torchrun.is_member():
            train(distributed.SINGLE_PROCESS, precision)
            torchrun.launch(2, Path(__file__), "cpu")
            return
        use_stand_ins()
        with distributed.process_group("cpu") as (group, _):
            train(group, precision)


if __name__ == "__main__":
    main()
