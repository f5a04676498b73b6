"""Trainings without one part of the training images each."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from striate.config import params
from striate.config.params import Params
from striate.data.lists import read_list
from striate.errors import UserError
from striate.pipeline import repeat
from striate.pipeline.repeat import Setting
from striate.tracking import records
from striate.tracking.records import Record

# The epoch may not be chosen by the images that are to be doubted; the rest would only cost time.
OWN = {
    "training.keep": "last", "training.patience": 0, "evaluate.neighbours": 0,
    "evaluate.shifted": 0,
}  # fmt: skip
SEED = "seed="


def settings(root: Path, name: str, overrides: Sequence[str], folds: int) -> list[Setting]:
    """A setting for each part: as `repeat.setting`, with `data.fold`; the seed may be changed, too.

    Raises:
        UserError: there is nothing of that name, or a value is faulty.
    """
    if fixed := {"data.fold", "data.val_size"} & {word.partition("=")[0] for word in overrides}:
        named = ", ".join(sorted(fixed))
        raise UserError(f"-S cannot change {named}: --folds says what is left out")
    own = [word for word in overrides if word.startswith(SEED)]
    base = repeat.setting(root, name, [word for word in overrides if word not in own])
    changes = OWN | ({"seed": _seed(own[-1])} if own else {})
    found = []
    for part in range(1, folds + 1):
        fold, ending = f"{part}/{folds}", f"-fold-{part}-{folds}"
        kept = base.name[: repeat.MOST_CHARACTERS - len(ending)]
        sections = params.nested(changes | {"data.fold": fold}, deepcopy(base.params))
        params.check(sections, name)
        found.append(Setting(kept + ending, sections))
    return found


def _seed(word: str) -> int:
    text = word.removeprefix(SEED)
    if not text.isdecimal():
        raise UserError(f"seed is {text!r:.60}; it must be a whole number")
    return int(text)


def check_same_data(trained: Sequence[Record]) -> None:
    """Refuse experiments of different images, such as from before and after some were added.

    Raises:
        UserError: names those of the fewest.
    """
    by_data: dict[str, list[str]] = {}
    for record in trained:
        by_data.setdefault(record.identity[records.DATA], []).append(record.names[0].name)
    if len(by_data) > 1:
        older = min(by_data.values(), key=len)
        raise UserError(
            f"the images have changed between the trainings; dvc exp remove {' '.join(older)}, and"
            " run the same command again"
        )


def left_out(root: Path, settings: Params) -> list[str]:
    """The files that the networks were trained without already."""
    if settings.data.leave_out == params.NO_LIST:
        return []
    return read_list(root / settings.data.leave_out)


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
