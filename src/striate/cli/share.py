"""Share results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from striate.cli import workspace
from striate.cli.table import a_path, argument, command
from striate.console import waiting
from striate.errors import UserError

if TYPE_CHECKING:
    from striate.tracking.records import Record
    from striate.tracking.times import Timing


@command()
def share() -> None:
    """Push the run cache, so that teammates retrain nothing.

    Pushes the outputs of every cached run of a stage to the default remote, metrics included,
    which `dvc push --run-cache` leaves behind.

    Example: striate share
    """
    from striate.tracking import run_cache

    runs, files = run_cache.push(workspace.dvc_root())
    print(f"{runs:,} runs of stages are in the remote; {files:,} of their files are new there")


@command(
    argument(
        "--to", metavar="FILE", type=a_path, values="file", default=Path("reports/board.html"),
        help="where to write the page",
    ),
    argument("--remote", metavar="NAME", help="of Git, to read from (default: origin)"),
    argument("--local", action="store_true", help="show the experiments of this clone instead"),
)  # fmt: skip
def board(to: Path, remote: str | None, local: bool) -> None:
    """Show everybody's experiments on one page.

    Reads main and all experiments that were pushed to a Git remote, not their data or checkpoints,
    and leaves the workspace and the local experiments alone. A row for each group of experiments
    that differ in the seed alone: params that differ from main, mean and standard deviation over
    seeds, size, seconds, and who made it; best validation accuracy first.

    Example: striate board --to board.html
    """
    from striate.analysis import board
    from striate.data import files
    from striate.tracking import commits, pushed, records

    if to.is_dir():
        raise UserError(f"--to is {to}, a folder; name a page in it, such as {to / 'board.html'}")
    workspace.check_name("--to", to, "board.html")
    if local and remote is not None:
        raise UserError("--local reads no remote; leave out --remote or --local")
    remote = "origin" if remote is None else remote
    root = workspace.repository()
    if local:
        where, names = "this clone", records.listed(root)
    else:
        with waiting(f"fetching experiments from {remote}"):
            where, names = remote, pushed.fetch(root, remote)
    cache = commits.CACHE if local else pushed.CACHE
    found, left_out, _ = records.read_all(root, names, cache=cache)
    workspace.note_left_out(left_out)
    if not found:
        raise UserError(f"no experiment of {where} can be read")
    main = next((one for one in found if not all(name.baseline for name in one.names)), None)
    made = pushed.commits(root, [name.commit for name in names])
    page = board.page(where, found, main, made, _known_times(root, found))
    files.write(to, page.encode())
    counted = workspace.count_experiments(sum(len(one.names) for one in found))
    print(f"{counted} of {where}: {to}")


def _known_times(root: Path, found: list[Record]) -> dict[str, Timing]:
    """What MLflow knows of training times, if it can be asked."""
    from striate.tracking import mlflow_store

    if mlflow_store.is_own() and not mlflow_store.database().exists():
        return {}
    try:
        return workspace.training_times(root, found)
    except UserError as error:
        workspace.note(f"without training times: {error}")
        return {}


@command()
def sync() -> None:
    """Give every experiment its run in MLflow.

    For HEAD, the workspace and every DVC experiment: find its run, create it from DVC's files if
    it is missing, and add what it lacks.

    Example: striate sync
    """
    from striate.console import columns
    from striate.tracking import background, logger, mlflow_store, records, sync

    if logger.is_off("sync"):
        return
    root = workspace.repository()
    background.wait(root)
    found, left_out, _ = records.find(root)
    workspace.note_left_out(left_out)
    if not found and mlflow_store.is_own() and not mlflow_store.database().exists():
        raise UserError(records.NOTHING_FINISHED)
    if sync.is_synced(root, found):
        print("MLflow agrees with DVC: nothing to do")
        return
    counted = workspace.count_experiments(len(found))
    with mlflow_store.reachable(), waiting(f"reading MLflow's runs of {counted}"):
        rows = sync.sync(root, mlflow_store.open_store(), found)
    if not rows:
        raise UserError(records.NOTHING_FINISHED)
    changed = [row for row in rows if row.done]
    same = workspace.count_experiments(len(rows) - len(changed))
    if not changed:
        print(f"MLflow agrees with DVC on {same}: nothing to do")
        return
    print(columns([sync.HEADER, *changed]))
    if len(changed) < len(rows):
        print(f"{same} already agreed")


@command()
def verify() -> None:
    """Check that MLflow and DVC hold the same numbers.

    Prints a line for each disagreement; exit status 1 if there is one.

    Example: striate verify
    """
    from striate.tracking import background, logger, mlflow_store, sync

    if logger.is_off("verify"):
        return
    root = workspace.repository()
    background.wait(root)
    found = workspace.find_experiments(root).records
    counted = workspace.count_experiments(len(found))
    with mlflow_store.reachable(), waiting(f"comparing {counted} with MLflow's runs"):
        faults = sync.verify(root, mlflow_store.open_store(), found)
    for fault in faults:
        print(fault)
    if not faults:
        print(f"MLflow agrees with DVC on {counted}")
    sys.exit(1 if faults else 0)
