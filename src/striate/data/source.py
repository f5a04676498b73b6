"""Where a data set comes from: `data/source.json`.

It is a file of its own beside the manifest because the manifest's hash identifies the data: a new
licence text must not make new experiments of old ones.
"""

from pathlib import Path
from typing import Any, NamedTuple

from striate.data.json_csv import read_json
from striate.errors import UserError

SOURCE_FILE = "source.json"


class Source(NamedTuple):
    """A data set's origin.

    Attributes:
        name: `data.name`.
        page: URL of its description; None for own images.
        licence: as its publisher states it; None for own images.
    """

    name: str
    page: str | None = None
    licence: str | None = None


def read(folder: Path) -> dict[str, Any] | None:
    """Read the `source.json` of a folder.

    Returns:
        The keys name (text), page and licence (text or None); None if there is no such file, as in
        experiments that are older than it.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / SOURCE_FILE
    if not path.exists():
        return None
    found = read_json(path)
    if set(found) != set(Source._fields) or not all(
        value.isprintable() if isinstance(value, str) else value is None and key != "name"
        for key, value in found.items()
    ):
        raise UserError(
            f"{path} must hold the keys {', '.join(Source._fields)}, each with one line of text;"
            " `dvc repro` recreates it"
        )
    return found
