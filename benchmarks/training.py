"""An epoch of training: the notebook's loop, Striate, and PyTorch Lightning where it is installed.

    python benchmarks/training.py                 MNIST and CIFAR-10, three rounds
    python benchmarks/training.py --rounds 1 --data mnist

Each program trains in a process of its own, in turn; the first epoch of each is not counted, so
that what is measured is an epoch and not a start. Set STRIATE_MIRROR to a folder with the data.
"""

import argparse
import importlib.util
import statistics

from common import header, measured, on_the_device, spread, table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--data", nargs="+", default=["mnist", "cifar10"])
    arguments = parser.parse_args()
    programs = ["notebook", "striate"]
    if importlib.util.find_spec("lightning"):
        programs.append("lightning")
    print(header())
    for name in arguments.data:
        found = {program: [] for program in programs}
        for seed in range(arguments.rounds):
            for program in programs:
                found[program].append(
                    measured("side.py", program, "--data", name, "--epochs", arguments.epochs,
                             "--seed", seed)
                )  # fmt: skip
        rows = []
        for program, runs in found.items():
            epochs = [seconds for run in runs for seconds in run["epochs"][1:]]
            base = [seconds for run in found["notebook"] for seconds in run["epochs"][1:]]
            peak = statistics.median(run["memory"] for run in runs)
            peak_base = statistics.median(run["memory"] for run in found["notebook"])
            rows.append([
                program, spread(epochs),
                f"{statistics.median(epochs) / statistics.median(base):.3f}",
                f"{runs[0]['images'] / statistics.median(epochs):,.0f}",
                f"{peak:,.0f}", f"{peak / peak_base:.2f}",
                spread([100 * run["accuracy"] for run in runs]),
            ])  # fmt: skip
        print(f"\n{name}, {arguments.epochs} epochs, {arguments.rounds} rounds\n")
        table(["program", "seconds an epoch", "ratio", "images a second", "peak memory (MiB)",
               "ratio", "test accuracy (%)"], rows)  # fmt: skip
        for program, runs in found.items():
            on_the_device(program, runs)


if __name__ == "__main__":
    main()
