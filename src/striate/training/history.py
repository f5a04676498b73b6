"""The rows of a training, one for each epoch: what they decide, show and leave in metrics/."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from striate.data.json_csv import write_json, write_table

if TYPE_CHECKING:
    from striate.config.params import Training

LIVE_SECONDS = 1.0  # at least, between two writes while `dvc plots show` may draw the history
LIVE_PART = 0.01  # of the time, at most, goes into these writes


def kept_epoch(rows: list[dict[str, Any]], keep: str) -> int:
    """The epoch whose weights are kept.

    Args:
        rows: one dict an epoch, not empty.
        keep: `last`, or `best`: the first with the highest validation accuracy.
    """
    if keep == "last":
        return len(rows)
    return max(rows, key=lambda row: row["val_accuracy"])["epoch"]  # type: ignore[no-any-return]


def is_complete(rows: list[dict[str, Any]], settings: Training) -> bool:
    """Whether all epochs are over, or `training.patience` has run out."""
    if not rows or not settings.patience:
        return len(rows) == settings.epochs
    waited = len(rows) - kept_epoch(rows, "best")
    return len(rows) == settings.epochs or waited >= settings.patience


def summary_line(row: dict[str, Any], epochs: int) -> str:
    """An epoch's row in one line."""
    parts = [f"epoch {row['epoch']}/{epochs}"]
    for name, label in (("train", "training"), ("val", "validation")):
        if f"{name}_loss" in row:
            loss, accuracy = row[f"{name}_loss"], row[f"{name}_accuracy"]
            parts.append(f"{label} loss {loss:.4f}, accuracy {accuracy:.2%}")
    return " | ".join(parts)


def write_history(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write the rows so far to `history.csv` in a folder, without the losses of steps."""
    history = [{key: row[key] for key in row if key != "step_losses"} for row in rows]
    write_table(folder / "history.csv", history)


class LiveHistory:
    """Keeps `history.csv` up to date while a training runs, at the cost of 1 % of its time.

    Each write is of all rows, so one takes over a second after 100,000 epochs.

    Args:
        folder: receives the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = -math.inf  # by the monotonic clock

    def update(self, rows: list[dict[str, Any]]) -> None:
        """Write the rows so far, unless the last write is too short a time ago."""
        begin = time.monotonic()
        if begin < self._next:
            return
        write_history(rows, self._folder)
        end = time.monotonic()
        self._next = end + max(LIVE_SECONDS, (end - begin) / LIVE_PART)


def write_training(rows: list[dict[str, Any]], kept: int, parameters: int, folder: Path) -> None:
    """Write what `striate.training.loop.fit` yielded.

    Args:
        rows: one dict an epoch.
        kept: the epoch whose weights are kept.
        parameters: the size of the network.
        folder: receives `history.csv` (a row an epoch), `steps.csv` (a row for each recorded
            step) and `train.json` (the kept epoch, and the size of the network).
    """
    write_history(rows, folder)
    write_table(
        folder / "steps.csv",
        [{"step": step, "step_loss": loss} for row in rows for step, loss in row["step_losses"]],
    )
    row = rows[kept - 1]
    scores = {key: row[key] for key in row if key.endswith(("_loss", "_accuracy"))}
    counts = {"epochs": len(rows), "kept_epoch": kept, "parameters": parameters}
    write_json(folder / "train.json", scores | counts)
