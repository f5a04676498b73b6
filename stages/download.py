"""Download: write the data set `data.name`, or your own images, to data/."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # until `stage` can put outputs back
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])

from striate.config import params, validation
from striate.data import arrays
from striate.data.lists import read_list
from striate.datasets import fetch, image_folder, image_reading, layouts
from striate.datasets.registry import DATASETS
from striate.pipeline.stage import stage

DATA = Path("data")
MAX_LISTED = 5  # pairs of files


def main() -> None:
    """Read the data set from a mirror, the web or `data.path`, and write it to data/."""
    settings = params.load()
    name = settings.data.name
    if name == image_folder.NAME:
        counts = store_folder(settings)
    else:
        dataset = DATASETS[name]
        validation.check(settings, dataset.shape, len(dataset.classes), dataset.counts[0])
        loaded = fetch.fetch(dataset, mirror())
        arrays.write(loaded, DATA)
        counts = {"train": len(loaded.train.labels), "test": len(loaded.test.labels)}
    said = [f"{count:,} {arrays.CALLED[part]}" for part, count in counts.items()]
    print(f"{name}: {', '.join(said[:-1])} and {said[-1]} images in data/")


def mirror() -> str | None:
    """The mirror that the environment names; a folder is relative to the repository."""
    value = os.environ.get(fetch.MIRROR_VARIABLE)
    if value and "://" not in value:
        # DVC runs experiments in temporary copies, whose own path differs.
        return str(Path(os.environ.get("DVC_ROOT", "."), value))
    return value


def store_folder(settings: params.Params) -> dict[str, int]:
    """Store your own images; report skipped files, duplicates and conflicting labels."""
    data = settings.data
    leave_out = [] if data.leave_out == params.NO_LIST else read_list(Path(data.leave_out))
    look = image_folder.Look(data.stored_size, data.resize)
    with layouts.opened(Path(data.path), DATA) as found:
        layout = image_folder.divided(found, data.test_size, leave_out)
        shape = image_folder.shape_of(layout, look)
        validation.check(
            settings,
            shape,
            len(layout.classes),
            len(layout.labels["train"]),
            given=len(layout.labels.get("val", ())),
        )
        report = image_folder.store(layout, look, shape, DATA)
    if layout.skipped:
        print(f"note: {image_reading.describe_skipped(layout.skipped)}")
    warn_of_pairs("images held out are identical to training images", report.duplicates)
    warn_of_pairs("images are identical but in two classes", report.conflicts)
    return report.counts


def warn_of_pairs(what: str, pairs: Sequence[tuple[str, str]]) -> None:
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
