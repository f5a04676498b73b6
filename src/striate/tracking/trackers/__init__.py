"""Trackers: each module here is one, under its own name, and has a function `tracker`."""

import os
import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from striate.tracking.git import git
from striate.tracking.points import Point

EXPERIMENT = "dvc.experiment"  # tag: the name of the DVC experiment


class Tracker(Protocol):
    """Where the stage train reports to.

    Its methods are called in the stage and must not block it. If one raises, that costs a warning,
    and the training goes on without this tracker. A stage that is killed calls no `end`.
    """

    def start(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        """A training starts.

        Args:
            params: flat.
            tags: describe the machine.
        """

    def log(self, points: list[Point]) -> None:
        """An epoch has ended.

        Args:
            points: (metric, value, step); steps are optimizer steps for `step_loss`, else epochs.
        """

    def trained(self, identity: dict[str, str], summary: list[Point]) -> None:
        """The checkpoint and the metrics are written.

        Args:
            identity: hashes of the params, the data and the checkpoint, by tag.
            summary: best values, counts and seconds.
        """

    def end(self, status: str) -> None:
        """The stage ends: FINISHED, FAILED or KILLED."""


def names() -> list[str]:
    """The names of all trackers that a person may choose."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in found if not name.startswith("_")]


def open_tracker(name: str) -> Tracker:
    """Open the tracker of that name."""
    tracker: Tracker = import_module(f"{__name__}.{name}").tracker()
    return tracker


def source_tags() -> dict[str, str]:
    """Tags that say which commit and which DVC experiment this stage belongs to."""
    tags = {
        "mlflow.source.git.commit": (git(Path(), "rev-parse", "HEAD") or "").strip(),
        EXPERIMENT: os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
    }
    return {key: value for key, value in tags.items() if value}
