"""Share results."""

from __future__ import annotations

import sys

from striate.cli import workspace
from striate.cli.table import command
from striate.console import waiting
from striate.errors import UserError


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
        raise UserError(workspace.NOTHING_FINISHED)
    if sync.is_synced(root, found):
        print("MLflow agrees with DVC: nothing to do")
        return
    counted = workspace.count_experiments(len(found))
    with mlflow_store.reachable(), waiting(f"reading MLflow's runs of {counted}"):
        rows = sync.sync(root, mlflow_store.open_store(), found)
    if not rows:
        raise UserError(workspace.NOTHING_FINISHED)
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
