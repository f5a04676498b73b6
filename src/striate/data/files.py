"""Files that are there whole or not at all, and their hashes."""

import glob
import hashlib
import json
import os
import socket
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write a file so that neither a failure nor a loss of power leaves half of it.

    Where it cannot be written, what was there before stays.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write it at once.
    prefix = f".{path.name}.{socket.gethostname()}."
    temporary = path.with_name(f"{prefix}{os.getpid()}.partial")
    _remove_unfinished(path.parent, prefix)
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            # Else the new name may reach the disk before the bytes that it stands for.
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk by itself does not say of what
        raise


def _remove_unfinished(folder: Path, prefix: str) -> None:
    """Remove what processes of this machine were writing when they were killed."""
    for path in folder.glob(f"{glob.escape(prefix)}*.partial"):
        try:
            os.kill(int(path.name.removeprefix(prefix).removesuffix(".partial")), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except (PermissionError, ValueError):
            continue  # another user's process; a file of another name that begins alike


def md5(path: Path) -> str:
    """The hash that DVC gives to a file, or to a folder of files."""
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        entries = [{"md5": md5(f), "relpath": f.relative_to(path).as_posix()} for f in inside]
        text = json.dumps(entries, sort_keys=True).encode()
        return hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
