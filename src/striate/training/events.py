"""The progress of a training, for the process that started it."""

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "STRIATE_PROGRESS"


def publish(values: dict[str, Any]) -> None:
    """Append a line of JSON to the file that `STRIATE_PROGRESS` names; without it, do nothing."""
    if os.environ.get(VARIABLE):
        with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")
