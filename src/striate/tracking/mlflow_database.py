"""What MLflow's API cannot do with its SQLite database, or only a hundred times slower."""

import math
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

History = dict[str, list[tuple[int, float]]]  # metric → step and value of each point


def read_histories(path: Path, run_ids: Iterable[str]) -> dict[str, History]:
    """All points of the metrics of runs, by run id.

    MLflow's API reads one metric of one run at a time, and there are tens of thousands.
    """
    histories: dict[str, History] = {run_id: {} for run_id in run_ids}
    with closing(sqlite3.connect(path)) as connection:
        for run_id, name, step, value, is_nan in connection.execute(
            "SELECT run_uuid, key, step, value, is_nan FROM metrics"
        ):
            if run_id in histories:
                point = (step, math.nan if is_nan else value)
                histories[run_id].setdefault(name, []).append(point)
    return histories


def relocate(path: Path, experiment: str, location: str) -> None:
    """Update the artifact addresses of a store that was moved or copied with its repository.

    MLflow stores them as absolute addresses and has no API to change them.

    Args:
        path: of the database.
        experiment: whose artifact address says where the repository was before.
        location: the artifact address now.
    """
    columns = [
        ("runs", "artifact_uri"),
        ("logged_models", "artifact_location"),
        ("model_versions", "source"),
        ("model_versions", "storage_location"),
        ("experiments", "artifact_location"),
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        try:
            row = connection.execute(
                "SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)
            ).fetchone()
        except sqlite3.OperationalError:
            return  # not a finished store yet; MLflow completes it or says what is wrong
        if row is None or row[0] == location:
            return
        for table, column in columns:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?)"  # noqa: S608
                f" WHERE substr({column}, 1, ?) = ?",
                (location, len(row[0]) + 1, len(row[0]), row[0]),
            )
