"""Atomic writes, DVC's hashes, and the folder of the repository."""

import glob
import hashlib
import json
import os
import socket
from pathlib import Path

REPOSITORY = "STRIATE_REPOSITORY"  # set by `striate` where it runs DVC in a copy of the repository


def repository() -> Path:
    """The main repository, also where DVC runs a stage in a copy of it."""
    return Path(os.environ.get(REPOSITORY) or os.environ.get("DVC_ROOT", "."))


def write(path: Path, content: bytes) -> None:
    """Write a file atomically: an error, kill or power failure leaves the old file, if any.

    Raises:
        OSError: the disk is full, or the folder is not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unique, because two processes may write the file at once.
    prefix = f".{path.name}.{socket.gethostname()}."
    temporary = path.with_name(f"{prefix}{os.getpid()}.partial")
    _remove_unfinished(path.parent, prefix)
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            # Else the rename may reach the disk before the content.
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # by itself, the error of a full disk has no path
        raise


def _remove_unfinished(folder: Path, prefix: str) -> None:
    """Remove the unfinished files of killed processes of this machine."""
    for path in folder.glob(f"{glob.escape(prefix)}*.partial"):
        try:
            os.kill(int(path.name.removeprefix(prefix).removesuffix(".partial")), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except (PermissionError, ValueError):
            continue  # another user's process, or a file with the same prefix


def md5(path: Path) -> str:
    """The hash that DVC computes of a file, or of a folder; .dvcignore names `__pycache__`."""
    if path.is_dir():
        found = sorted(
            file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts
        )
        entries = [{"md5": md5(f), "relpath": f.relative_to(path).as_posix()} for f in found]
        text = json.dumps(entries, sort_keys=True).encode()
        return hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
