"""The metrics of an experiment as (name, value, step), from its files in metrics/."""

import csv
import io
from collections.abc import Callable

from striate.errors import UserError

TABLES = ("metrics/history.csv", "metrics/steps.csv")
COUNTS = ("parameters", "epochs", "kept_epoch")  # in train.json; older files lack kept_epoch

Point = tuple[str, float, int]  # metric, value, step


def curves(read: Callable[[str], str]) -> list[Point]:
    """All curves of a training.

    Args:
        read: returns the text of one of TABLES.

    Raises:
        UserError: one of them is not a table of numbers.
    """
    return [point for table in TABLES for point in parse_table(table, read(table))]


def parse_table(name: str, text: str) -> list[Point]:
    """The points of a CSV file with a header, whose first column is the step.

    Raises:
        UserError: it is not a table of numbers; `name` is what the message calls it.
    """
    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    try:
        return [
            (metric, float(row[column]), int(row[0]))
            for row in rows
            for column, metric in enumerate(header)
            if column
        ]
    except (ValueError, IndexError) as error:
        raise UserError(f"{name} is not a table of numbers: {error}") from None


def summary(curves: list[Point], train: dict[str, float]) -> list[Point]:
    """What is logged of a training besides its curves: best values and counts.

    Args:
        curves: of the training.
        train: what metrics/train.json holds.
    """
    return best(curves) + [(name, train[name], 0) for name in COUNTS if name in train]


def best(curves: list[Point]) -> list[Point]:
    """The best value of each accuracy and each loss of an epoch, as `best/NAME`.

    MLflow draws a metric whose only step is 0 as a bar chart with one bar per run.
    """
    found: list[Point] = []
    for name in dict.fromkeys(name for name, _, _ in curves):
        values = [value for other, value, _ in curves if other == name]
        if name.endswith("_accuracy"):
            found.append((f"best/{name}", max(values), 0))
        elif name.endswith("_loss") and name != "step_loss":
            found.append((f"best/{name}", min(values), 0))
    return found


def scores(test: dict[str, float]) -> list[Point]:
    """What metrics/test.json holds, under the names that a run has for it."""
    return [(f"test_{name}", value, 0) for name, value in test.items()]


def kept_epoch(train: dict[str, float]) -> int:
    """The epoch whose weights and scores metrics/train.json describes."""
    return int(train.get("kept_epoch", train["epochs"]))
