"""How time and memory grow with the images, the width and the batch, beside the arithmetic bound.

    python benchmarks/scaling.py

One epoch of MNIST at the default network after one that is not counted, each setting a process of
its own. The bound is the network's multiplications and additions, forward and backward, divided by
what a large matrix product reaches here in the precision that the training uses.
Set STRIATE_MIRROR to a folder with the data.
"""

import argparse
import json
import time

import torch
from common import header, measured, params, table, train, wait

from striate.models import devices

SETTINGS = (
    [{"images": 60_000 * factor} for factor in (1, 2, 4, 8)]
    + [{"width": 16 * factor} for factor in (1, 2, 4)]
    + [{"batch": size} for size in (100, 200, 500, 1000, 2000)]
)


def flops_per_image(width):
    """Multiplications and additions of a forward and a backward pass on a 28×28 image.

    A convolution is computed thrice, forward and for both gradients, but for the first one, whose
    images need no gradient.
    """
    first = 2 * 28 * 28 * 25 * width
    second = 2 * 14 * 14 * 25 * width * 2 * width
    linear = 2 * 7 * 7 * 2 * width * 10
    return 2 * first + 3 * second + 3 * linear


def peak_flops(device, dtype, size=2048, repeats=20):
    """Floating-point operations a second of a product of two large square matrices."""
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    for repeat in range(repeats + 3):
        if repeat == 3:
            wait(device)
            start = time.perf_counter()
        left @ right
    wait(device)
    return 2 * size**3 * repeats / (time.perf_counter() - start)


def one(images=60_000, width=16, batch=100):
    values = params(data__name="mnist", model__width=width, training__batch_size=batch,
                    training__epochs=2)  # fmt: skip
    return train(values, images)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", type=json.loads, help="one setting, as JSON; print JSON")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(one(**arguments.one)))
        return
    device = devices.pick_device("auto")
    peak = peak_flops(device, devices.pick_precision("auto", device).dtype)
    print(f"{header()}; matrix products reach {peak / 1e9:,.0f} GFLOP/s\n")
    rows = []
    for setting in SETTINGS:
        found = measured("scaling.py", "--one", json.dumps(setting))
        seconds = found["epochs"][-1]
        bound = found["images"] * flops_per_image(setting.get("width", 16)) / peak
        rows.append([
            ", ".join(f"{key} {value:,}" for key, value in setting.items()), f"{seconds:.2f}",
            f"{1e6 * seconds / found['images']:.1f}", f"{bound:.2f}", f"{seconds / bound:.1f}",
            f"{found['memory']:,.0f}", f"{found['device_memory']:,.0f}",
        ])  # fmt: skip
    table(["setting", "seconds an epoch", "µs an image", "bound (s)", "times the bound",
           "peak memory (MiB)", "on a GPU (MiB)"], rows)  # fmt: skip


if __name__ == "__main__":
    main()
