"""Hands each call to the process that started the experiment, which logs several to MLflow.

`striate repeat` sets it: loading MLflow once for each of many short trainings would take longer
than these.
"""

import os
from typing import Any

from striate.tracking import background
from striate.tracking.points import Point
from striate.tracking.trackers import source_tags
from striate.training import events

MESSAGE = "tracking"  # the key of a call among what a training publishes


class Relay:
    """Publishes each call: its method and arguments."""

    def start(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Publish it, with what only the stage knows of its source."""
        process = {background.PROCESS: background.process_tag(os.getpid())}
        _publish("start", params, tags | source_tags() | process)

    def log(self, points: list[Point]) -> None:
        """Publish it."""
        _publish("log", points)

    def trained(self, identity: dict[str, str], summary: list[Point]) -> None:
        """Publish it."""
        _publish("trained", identity, summary)

    def end(self, status: str) -> None:
        """Publish it."""
        _publish("end", status)


def _publish(method: str, *arguments: Any) -> None:
    events.publish({MESSAGE: [method, *arguments]})


def tracker() -> Relay:
    """The tracker of a stage."""
    return Relay()
