"""How far a command is: for a person at a terminal, or for the program that started it."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

VARIABLE = "STRIATE_PROGRESS"


def tell(values: dict[str, Any]) -> None:
    """Add a line of JSON to the file that `STRIATE_PROGRESS` names; without it, do nothing."""
    if os.environ.get(VARIABLE):
        with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")


def track(items: Sequence[T], description: str) -> Iterable[T]:
    """The items, with a bar in a terminal once they have taken a second."""
    from tqdm import tqdm

    return tqdm(items, description, delay=1, leave=False, disable=None)
