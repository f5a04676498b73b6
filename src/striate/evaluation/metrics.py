"""The metrics of metrics/train.json and metrics/test.json."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from striate.data.json_csv import read_json
from striate.errors import UserError

if TYPE_CHECKING:
    pass

NEEDED = {
    "train.json": ("train_loss", "train_accuracy", "epochs", "parameters"),
    "test.json": ("accuracy", "loss", "macro_f1", "ece", "errors", "n"),
}


def read_metrics(path: Path) -> dict[str, float]:
    """Read metrics/train.json or metrics/test.json.

    Raises:
        UserError: the file is missing, or does not hold the numbers that it should.
    """
    return check_metrics(read_json(path), str(path), path.name)


def check_metrics(values: dict[str, Any], name: str, file: str) -> dict[str, float]:
    """Check what metrics/train.json or metrics/test.json holds.

    Args:
        values: its content.
        name: what the message calls it.
        file: `train.json` or `test.json`.

    Raises:
        UserError: a number is missing, or is none.
    """
    for key in dict.fromkeys([*NEEDED[file], *values]):
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            shown = "missing" if key not in values else f"{value!r:.60}"
            raise UserError(
                f"{name}: {key} is {shown}; it must be a number, and `dvc repro` makes it anew"
            )
    return values
