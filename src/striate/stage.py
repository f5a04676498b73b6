"""What every stage does around its work: it ends with DVC, in one line, and loses no outputs."""

import ctypes
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from striate import files
from striate.errors import reported
from striate.git import git

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


@contextmanager
def stage() -> Iterator[None]:
    """Around the whole of a stage.

    Whatever ends it early, the outputs that DVC removed for it are put back, as long as the
    process itself is not killed.
    """
    _end_with_parent()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with reported():
            yield
    except BaseException:
        _bring_back()
        raise


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Ask Linux to terminate this process when DVC is gone, which would not record its outputs."""
    if sys.platform == "linux" and "DVC_STAGE" in os.environ:
        library = ctypes.CDLL(None)
        if hasattr(library, "prctl"):
            library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _bring_back() -> None:
    """Put back what DVC removed before it started this stage: the outputs that dvc.lock names.

    They are in DVC's cache, also those that Git keeps. In a temporary copy of the repository
    there is nobody to miss them.
    """
    name, root = os.environ.get("DVC_STAGE"), os.environ.get("DVC_ROOT", "")
    if name is None or Path(root).resolve() != Path.cwd():
        return
    # Seconds count at an interrupt, and a second one must not leave half of the outputs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        bring_back(name)
    except Exception as error:  # the failure that led here matters more
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        print(
            f"       The outputs that DVC removed for this run could not be put back ({reason});"
            " try `dvc checkout` and `git checkout metrics`.",
            file=sys.stderr,
        )


def bring_back(name: str) -> None:
    """Put back the outputs of a stage as dvc.lock has them.

    What neither DVC's cache nor Git holds was not there before, as in a new clone.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        for found in repo.stage.collect(name):
            for out in found.outs:
                if not out.hash_info:
                    continue  # it was never made
                if out.use_cache:
                    if not out.changed_cache():
                        out.checkout(force=True)
                    continue
                cached = Path(repo.cache.local.oid_to_path(out.hash_info.value))
                content = cached.read_bytes() if cached.exists() else _committed(out.def_path)
                if hashlib.md5(content, usedforsecurity=False).hexdigest() == out.hash_info.value:
                    files.write(Path(out.fs_path), content)


def _committed(path: str) -> bytes:
    return (git(Path(), "show", f"HEAD:./{path}") or "").encode()
