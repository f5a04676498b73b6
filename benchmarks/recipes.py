"""The recipes: accuracy and seconds of training over several seeds, beside the notebook's loop.

    python benchmarks/recipes.py mnist-fast --seeds 3
    python benchmarks/recipes.py mnist-99 --seeds 5 --alone

Each training is a process of its own. A round is the notebook's five epochs on the same data (not
with --alone), then the recipe. Set STRIATE_MIRROR to a folder with the data.
"""

import argparse
import json
import statistics
import sys

from common import header, measured, on_the_device, params, spread, table, train


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--one", type=int, metavar="SEED", help="train once and print JSON")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(train(params(arguments.names[0], seed=arguments.one))))
        return
    print(header() + "\n")
    rows, found = [], {}
    for name in arguments.names:
        data = params(name)["data"]["name"]
        theirs, ours = [], []
        for seed in range(arguments.seeds):
            if not arguments.alone:
                theirs.append(
                    measured("side.py", "notebook", "--data", data, "--epochs", 5, "--seed", seed)
                )
            ours.append(measured("recipes.py", name, "--one", seed))
            print(f"{name} seed {seed}: {ours[-1]['accuracy']:.2%} in {ours[-1]['seconds']:.2f} s"
                  + (f"; notebook {theirs[-1]['accuracy']:.2%} in {theirs[-1]['seconds']:.2f} s"
                     if theirs else ""), file=sys.stderr, flush=True)  # fmt: skip
        found |= {name: ours, f"{name}, notebook": theirs}
        rows.append([
            name,
            f"{statistics.mean(100 * run['accuracy'] for run in ours):.2f}",
            spread([100 * run["accuracy"] for run in ours]),
            spread([run["seconds"] for run in ours]),
            spread([run["seconds"] for run in theirs]) if theirs else "–",
            spread([100 * run["accuracy"] for run in theirs]) if theirs else "–",
        ])  # fmt: skip
    table(["recipe", "mean accuracy (%)", "accuracy (%)", "seconds", "notebook's seconds",
           "notebook's accuracy (%)"], rows)  # fmt: skip
    for name, runs in found.items():
        on_the_device(name, runs)


if __name__ == "__main__":
    main()
