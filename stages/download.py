"""Download: write the data set `data.name`, or your own images, to data/."""

import os
from pathlib import Path

from striate.config import params, validation
from striate.data import arrays
from striate.data.arrays import LoadedDataset
from striate.datasets import fetch, image_folder, image_reading
from striate.datasets.registry import DATASETS
from striate.pipeline.stage import stage

MAX_LISTED = 5  # pairs of files


def main() -> None:
    """Read the data set from a mirror, the web or `data.path`, and write it to data/."""
    settings = params.load()
    name = settings.data.name
    if name == image_folder.NAME:
        loaded = load_folder(settings)
    else:
        dataset = DATASETS[name]
        validation.check(settings, dataset.shape, len(dataset.classes), dataset.counts[0])
        loaded = fetch.fetch(dataset, mirror())
    arrays.write(loaded, Path("data"))
    train, test = len(loaded.train.labels), len(loaded.test.labels)
    print(f"{name}: {train:,} training and {test:,} test images in data/")


def mirror() -> str | None:
    """The mirror that the environment names; a folder is relative to the repository."""
    value = os.environ.get(fetch.MIRROR_VARIABLE)
    if value and "://" not in value:
        # DVC runs experiments in temporary copies, whose own path differs.
        return str(Path(os.environ.get("DVC_ROOT", "."), value))
    return value


def load_folder(settings: params.Params) -> LoadedDataset:
    """Read your own images; report skipped files, duplicates and conflicting labels."""
    data = settings.data
    is_whole = data.leave_out == params.OLDER["data.leave_out"]
    leave_out = [] if is_whole else image_folder.read_list(Path(data.leave_out))
    loaded = image_folder.read(Path(data.path), data.size, data.test_size, leave_out)
    shape, count = loaded.train.images.shape[1:], len(loaded.train.labels)
    validation.check(settings, shape, len(loaded.classes), count)
    if loaded.skipped:
        print(f"note: {image_reading.describe_skipped(loaded.skipped)}")
    warn_of_pairs("test images are identical to training images", loaded.duplicates)
    warn_of_pairs("images are identical but in two classes", loaded.conflicts)
    return loaded


def warn_of_pairs(what: str, pairs: tuple[tuple[str, str], ...]) -> None:
    """Print a warning with the first pairs of files that have the same pixels."""
    if pairs:
        print(f"warning: {len(pairs):,} {what}:")
        for first, second in pairs[:MAX_LISTED]:
            print(f"  {second} is {first}")
        if len(pairs) > MAX_LISTED:
            print(f"  and {len(pairs) - MAX_LISTED:,} more")


if __name__ == "__main__":
    with stage():
        main()
