"""What `training.precision: auto` costs in accuracy: float32 against auto over several seeds.

    python benchmarks/precision.py                MNIST and CIFAR-10, five seeds, five epochs

At the default network and optimiser, on all training images, in turn, each training a process of
its own. Set STRIATE_MIRROR to a folder with the data.
"""

import argparse
import statistics

from common import header, measured, spread, table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", nargs="+", default=["mnist", "cifar10"])
    arguments = parser.parse_args()
    print(header() + "\n")
    rows = []
    for name in arguments.data:
        found = {"float32": [], "auto": []}
        for seed in range(arguments.seeds):
            for precision, runs in found.items():
                runs.append(
                    measured("side.py", "striate", "--data", name, "--epochs", 5, "--seed", seed,
                             "--precision", precision)
                )  # fmt: skip
        for precision, runs in found.items():
            shares = [100 * run["accuracy"] for run in runs]
            rows.append([
                f"{name}, {precision}", f"{statistics.mean(shares):.2f}",
                f"{statistics.stdev(shares):.2f}", spread(shares),
                spread([run["seconds"] for run in runs]),
            ])  # fmt: skip
    table(["data, precision", "mean accuracy (%)", "deviation", "accuracy (%)", "seconds"], rows)


if __name__ == "__main__":
    main()
