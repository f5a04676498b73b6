"""`data/source.json`: who publishes the images, and under which licence."""

from pathlib import Path
from typing import Any

from striate.data.results import read_json


def read(folder: Path) -> dict[str, Any] | None:
    """The `name`, `page` and `licence` of a published data set, or None for images of one's own."""
    path = folder / "source.json"
    return read_json(path) if path.exists() else None
