"""What several commands check of the folder they run in, and note on standard error."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from striate.errors import UserError

if TYPE_CHECKING:
    from striate.tracking.records import Found, LeftOut, Record
    from striate.tracking.times import Timing


def note(text: str) -> None:
    """Print a remark that is no result."""
    print(f"note: {text}", file=sys.stderr)


def note_other_code() -> None:
    """Note that the working directory has code of its own while another copy runs."""
    here, running = Path("src/striate").absolute(), Path(__file__).parents[1]
    if here.is_dir() and not here.samefile(running):
        note(
            f"this runs the code in {running}, not that in {here};"
            " `source .venv/bin/activate` selects this repository's own"
        )


def with_root(message: str) -> str:
    """Add to an error in a subdirectory of a repository where the root is."""
    from striate.tracking import git

    here = Path.cwd()
    root = git.repository_around(here)
    hint = "; commands run at the root of the repository"
    return f"{message.removesuffix(hint)}{hint}: cd {root}" if root not in (None, here) else message


def check_name(option: str, path: Path, example: str) -> None:
    """Refuse to write to a file whose name has not the ending of an example.

    So that no params, code or text is replaced by a page or a picture.
    """
    if path.suffix.lower() != Path(example).suffix:
        kind = {".html": "a page", ".png": "a picture"}[Path(example).suffix]
        raise UserError(f"{option} is {path}; it must be the name of {kind}, such as {example}")


def dvc_root() -> Path:
    """The root of the DVC repository, checked before anything is created in it.

    Raises:
        UserError: this is not one.
    """
    from striate.tracking import mlflow_store

    root = mlflow_store.root()
    if not (root / ".dvc" / "config").is_file():
        raise UserError(f"{root} is not the root of a DVC repository; commands run there")
    return root


def repository() -> Path:
    """The root of the DVC repository, which has a commit.

    Raises:
        UserError: this is not one, or nothing is committed yet.
    """
    from striate.tracking import background, records

    root = dvc_root()
    records.head(root)
    background.print_messages(root)
    return root


def find_experiments(root: Path) -> Found:
    """All experiments; those that are left out are noted.

    Raises:
        UserError: there is none.
    """
    from striate.tracking import records

    found = records.find(root)
    note_left_out(found.left_out)
    if not found.records:
        raise UserError(records.NOTHING_FINISHED)
    return found


def training_times(root: Path, found: list[Record]) -> dict[str, Timing]:
    """For how long experiments were trained, and on what, by the record's key.

    Nothing where tracking is off.

    Raises:
        UserError: MLflow cannot be reached.
    """
    from striate.console import waiting
    from striate.tracking import background, logger, mlflow_store, sync

    if not logger.enabled():
        return {}
    background.wait(root)
    with mlflow_store.reachable(), waiting("reading training times from MLflow"):
        times = sync.training_times(root, found)
    return {record.key: timing for record, timing in zip(found, times, strict=True)}


def check_folder(folder: Path) -> None:
    """Refuse a folder for results that is, or is in, a file."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is not a folder")


def output_folder(folder: Path) -> None:
    """Make a folder for results, before what they cost.

    Raises:
        UserError: it cannot be made, or not written to.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror or error}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written to: permission denied")


def count_experiments(count: int) -> str:
    """`1 experiment`, `2 experiments`."""
    return f"{count} experiment{'s' if count != 1 else ''}"


def note_left_out(left_out: list[LeftOut]) -> None:
    """Note the experiments that could not be read, and why."""
    from striate.tracking import records

    for line in records.in_words(left_out):
        note(f"left out: {line}")


def note_changed_params(here: Record | None) -> None:
    """Note where params.yaml is newer than the results in the workspace."""
    from striate.config import params
    from striate.tracking import records

    try:
        now = params.flatten(params.load().model_dump())
    except UserError:
        return  # the next training says what is wrong
    changed = records.changed_params(here, now) if here else []
    if changed:
        note(
            f"params.yaml was changed after these results: {', '.join(changed)}; `dvc repro`"
            " updates them"
        )


def note_unrecorded(source: str) -> None:
    """Note where the network in models/ is not the one in dvc.lock."""
    from striate.tracking import mlflow_store, records

    if source == records.MODELS and not records.is_recorded(mlflow_store.root(), source):
        note(f"{source}/ differs from dvc.lock; `dvc checkout` restores the recorded one")
