"""Trainings without one part of the training images each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from striate.pipeline import repeat
from striate.pipeline.repeat import Setting
from striate.tracking import records
from striate.tracking.records import Record


def settings(root: Path, name: str, overrides: Sequence[str], folds: int) -> list[Setting]:
    """A setting for each part: as `repeat.setting`, with `data.fold`."""
    return [
        repeat.setting(root, name, [*overrides, f"data.fold={part}/{folds}"])
        for part in range(1, folds + 1)
    ]


def fetch(
    root: Path, trained: Sequence[Record], split: str, output: str, scratch: Path
) -> tuple[Path, dict[str, Path]]:
    """Fetch a set of images, and an output of each experiment.

    Args:
        root: the repository.
        trained: an experiment for each part, on the same data and of one seed.
        split: "train" or "test".
        output: a folder, such as `models`.
        scratch: an empty folder for what has to be copied.

    Returns:
        The folder `data`, and the folder of the output by `data.fold`.

    Raises:
        UserError: one of them is not here.
    """
    images = ("data/manifest.json", f"data/{split}")
    data = records.fetch(root, trained[0], images, scratch / "data") / "data"
    outputs = {}
    for number, record in enumerate(trained):
        fetched = records.fetch(root, record, (output,), scratch / str(number))
        outputs[record.params["data.fold"]] = fetched / output
    return data, outputs
