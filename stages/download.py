"""Fetch, verify and store the data set that `data.name` names, or read a person's own pictures."""

import os
from pathlib import Path

from striate.config import params, validation
from striate.datasets import catalogue, image_folder, image_reading
from striate.pipeline.stage import stage

MOST_NAMED = 5  # pairs that are listed


def main() -> None:
    """Write data/: from a mirror or from the public addresses, or from `data.path`."""
    settings = params.load()
    name = settings.data.name
    if name == "folder":
        found = image_folder.read(
            Path(settings.data.path), settings.data.size, settings.data.test_size
        )
        shape, count = found.train.images.shape[1:], len(found.train.labels)
        validation.check(settings, shape, len(found.classes), count)
        if found.left_out:
            print(f"note: {image_reading.left_out_said(found.left_out)}")
        print_pairs("test images are training images, too, to the last pixel", found.twins)
        print_pairs("images are in two classes, to the last pixel", found.contradictions)
    else:
        entry = catalogue.CATALOGUE[name]
        validation.check(settings, entry.shape, len(entry.classes), entry.counts[0])
        mirror = os.environ.get(catalogue.MIRROR_VARIABLE)
        if mirror and "://" not in mirror:
            # A relative folder means the same in the temporary copies in which DVC experiments.
            mirror = str(Path(os.environ.get("DVC_ROOT", "."), mirror))
        found = catalogue.fetch(name, mirror)
    catalogue.store(found, Path("data"))
    train, test = len(found.train.labels), len(found.test.labels)
    print(f"{name}: {train:,} training and {test:,} test images in data/")


def print_pairs(what: str, pairs: tuple[tuple[str, str], ...]) -> None:
    """Say which images are there twice: learnt from and scored on, or in two classes."""
    if pairs:
        print(f"warning: {len(pairs):,} {what}:")
        for one, other in pairs[:MOST_NAMED]:
            print(f"  {other} is {one}")
        if len(pairs) > MOST_NAMED:
            print(f"  and {len(pairs) - MOST_NAMED:,} more")


if __name__ == "__main__":
    with stage():
        main()
