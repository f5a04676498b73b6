"""How well `striate doubts` finds training labels that were flipped on purpose.

    python benchmarks/flipped_labels.py RECIPE [-S KEY=VALUE] [--share 0.01] [--keep FOLDER]

A clone stores the recipe's data set, gives a share of the training images another label, drawn by
seed, and runs `striate doubts`. Precision and recall are those of the first k images of its list.
The labels of the data sets are not all right themselves, which costs precision. Set STRIATE_MIRROR
to a folder with the data.
"""

import argparse
import csv
import hashlib
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from common import Clone, header, params, table

from striate.config import recipes


def flip(folder, share):
    """Change labels; returns the indices of the images."""
    path = folder / "data/train/labels.npy"
    labels = np.load(path)
    random = np.random.RandomState(0)
    chosen = random.choice(len(labels), round(share * len(labels)), replace=False)
    classes = labels.max() + 1
    labels[chosen] = (labels[chosen] + random.randint(1, classes, len(chosen))) % classes
    path.unlink()  # it may be a link into DVC's cache
    np.save(path, labels)
    described = folder / "data/manifest.json"
    manifest = json.loads(described.read_text())
    manifest["train"]["per_class"] = np.bincount(labels).tolist()
    manifest["train"]["sha256"]["labels.npy"] = hashlib.sha256(path.read_bytes()).hexdigest()
    described.unlink()
    described.write_text(json.dumps(manifest, indent=2) + "\n")
    return {*chosen.tolist()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("-S", dest="changes", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the pages there")
    arguments = parser.parse_args()
    print(header() + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        clone = Clone(Path(scratch, "clone"), "HEAD")
        values = params()
        for section, keys in recipes.read(arguments.recipe).items():
            values[section] |= keys
        (clone.folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        clone.seconds("dvc", "repro", "--quiet", "download")
        flipped = flip(clone.folder, arguments.share)
        clone.seconds("dvc", "commit", "--quiet", "--force", "download")
        clone.commit("Flip labels.")
        begin = time.perf_counter()
        command = ["doubts", "--folds", str(arguments.folds)]
        command += [word for change in arguments.changes for word in ("-S", change)]
        clone.striate(*command)
        seconds = time.perf_counter() - begin
        clone.striate(*command, "--test", "--to", "reports/test")
        with (clone.folder / "reports/doubts/doubts.csv").open() as stream:
            ranked = [int(row["index"]) for row in csv.DictReader(stream)]
        if arguments.keep:
            shutil.copytree(clone.folder / "reports", arguments.keep, dirs_exist_ok=True)
    right = np.cumsum([index in flipped for index in ranked])
    rows = []
    for part in (0.25, 0.5, 1, 1.5, 2):
        k = min(round(part * len(flipped)), len(ranked))
        found = right[k - 1]
        rows.append([f"{k:,}", f"{found / k:.1%}", f"{found / len(flipped):.1%}"])
    table(["k", "precision", "recall"], rows)
    print(
        f"\n{arguments.recipe}: {len(flipped):,} labels flipped; the list has {len(ranked):,}"
        f" images, of them {right[-1]:,} flipped; {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
