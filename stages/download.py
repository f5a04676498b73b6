"""Fetch, verify and store the data set that `data.name` names."""

import os
from pathlib import Path

from striate import datasets, limits, params
from striate.stage import stage


def main() -> None:
    """Write data/, from a mirror or from the public addresses."""
    settings = params.load()
    name, dataset = settings.data.name, datasets.CATALOGUE[settings.data.name]
    limits.check(settings, dataset.shape, len(dataset.classes), dataset.counts[0])
    mirror = os.environ.get(datasets.MIRROR_VARIABLE)
    if mirror and "://" not in mirror:
        # A relative folder means the same in the temporary copies in which DVC runs experiments.
        mirror = str(Path(os.environ.get("DVC_ROOT", "."), mirror))
    datasets.prepare(name, Path("data"), mirror)
    train, test = dataset.counts
    print(f"{name}: {train:,} training and {test:,} test images in data/")


if __name__ == "__main__":
    with stage():
        main()
