"""What `training.deterministic: true` costs: seconds an epoch with it and without it.

    python benchmarks/deterministic.py            MNIST and CIFAR-10, three rounds

At the default network and optimiser, in turn, each training a process of its own, whose first
epoch is not counted. Set STRIATE_MIRROR to a folder with the data.
"""

import argparse

from common import header, measured, spread, table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--data", nargs="+", default=["mnist", "cifar10"])
    arguments = parser.parse_args()
    print(header() + "\n")
    rows = []
    for name in arguments.data:
        found = {"true": [], "false": []}
        for seed in range(arguments.rounds):
            for deterministic, seconds in found.items():
                run = measured("side.py", "striate", "--data", name, "--seed", seed, "--epochs",
                               arguments.epochs, "--deterministic", deterministic)  # fmt: skip
                seconds += run["epochs"][1:]
        rows += [[f"{name}, {chosen}", spread(seconds)] for chosen, seconds in found.items()]
    table(["data, deterministic", "seconds an epoch"], rows)


if __name__ == "__main__":
    main()
