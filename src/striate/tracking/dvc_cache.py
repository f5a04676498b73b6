"""DVC's cache on this machine: where it keeps the files of a hash."""

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def contents(root: Path, digest: str) -> Iterator[tuple[str, str]]:
    """The files of a hash: path inside its folder ("" for a single file), and path in the cache.

    Raises:
        FileNotFoundError: the list of a folder's files is missing or damaged.
    """
    listing = f"{_files(root)}/{digest[:2]}/{digest[2:]}"
    if not digest.endswith(".dir"):
        yield "", listing
        return
    try:
        with open(listing, encoding="utf-8") as stream:
            entries = {entry["relpath"]: entry["md5"] for entry in json.load(stream)}
    except (ValueError, KeyError, TypeError):
        raise FileNotFoundError(listing) from None
    for path, inside in entries.items():
        yield path, f"{_files(root)}/{inside[:2]}/{inside[2:]}"


def is_complete(root: Path, digest: str) -> bool:
    """Whether the cache holds all of a file or folder."""
    try:
        return all(os.path.exists(content) for _, content in contents(root, digest))
    except FileNotFoundError:
        return False


@cache
def folder(root: Path) -> str:
    """The folder of the cache, which DVC's configuration may set."""
    from dvc.config import Config

    return str(Config(str(root / ".dvc"))["cache"].get("dir") or root / ".dvc" / "cache")


def remotes(root: Path) -> dict[str, str]:
    """The addresses of DVC's remotes by name, the default one first."""
    from dvc.config import Config

    config = Config(str(root / ".dvc"))
    default = config["core"].get("remote")
    names = sorted(config["remote"], key=lambda name: (name != default, name))
    return {name: str(config["remote"][name].get("url", "")) for name in names}


def _files(root: Path) -> str:
    return f"{folder(root)}/files/md5"
