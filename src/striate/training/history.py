"""What a training leaves in metrics/."""

from pathlib import Path
from typing import Any

from striate.data.json_csv import write_json, write_table


def write_training(rows: list[dict[str, Any]], kept: int, parameters: int, folder: Path) -> None:
    """Write what `striate.training.loop.fit` yielded.

    Args:
        rows: one dict an epoch.
        kept: the epoch whose weights are kept.
        parameters: the size of the network.
        folder: receives `history.csv` (a row an epoch), `steps.csv` (a row for each recorded
            step) and `train.json` (the kept epoch, and the size of the network).
    """
    history = [{key: row[key] for key in row if key != "step_losses"} for row in rows]
    write_table(folder / "history.csv", history)
    write_table(
        folder / "steps.csv",
        [{"step": step, "step_loss": loss} for row in rows for step, loss in row["step_losses"]],
    )
    row = history[kept - 1]
    scores = {key: row[key] for key in row if key.endswith(("_loss", "_accuracy"))}
    counts = {"epochs": len(rows), "kept_epoch": kept, "parameters": parameters}
    write_json(folder / "train.json", scores | counts)
