"""The rows of a training, one for each epoch: what they decide, show and leave in metrics/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from striate.data.json_csv import write_json, write_table

if TYPE_CHECKING:
    from striate.config.params import Training


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
