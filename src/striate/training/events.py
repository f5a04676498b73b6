"""What a training tells the process that started it."""

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "STRIATE_PROGRESS"


def tell(values: dict[str, Any]) -> None:
    """Add a line of JSON to the file that `STRIATE_PROGRESS` names; without it, do nothing."""
    if os.environ.get(VARIABLE):
        with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")
