"""What every stage does around its work: it ends with DVC, in one line, and loses no outputs."""

import ctypes
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import yaml

from striate.data import files
from striate.errors import reported
from striate.tracking import logger
from striate.tracking.git import git
from striate.training.states import DONE, STATES
from striate.training.torchrun import end, is_member, leave

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


@contextmanager
def stage() -> Iterator[None]:
    """Around the whole of a stage.

    Whatever ends it early, the outputs that DVC removed for it are put back, as long as the
    process itself is not killed.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with reported():
            _end_with_parent()
            logger.enabled()  # a faulty switch is no reason to give up after the work
            if not is_member():
                _forget_recorded()
            try:
                yield
            except (Exception, KeyboardInterrupt) as failure:
                leave(failure)
                raise
    except BaseException as failure:
        # Of several processes that train together, the one that started them brings them back.
        if is_member():
            end(failure)
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
            # It may have gone before this was asked for. Orphans are re-parented to a process that
            # is not Python.
            if not any(name in _program(os.getppid()) for name in ("python", "dvc")):
                raise KeyboardInterrupt


def _program(pid: int) -> str:
    """The name of the program that a process runs, or nothing where that is not to be known."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""


def _forget_recorded() -> None:
    """Remove the states of trainings that DVC has recorded: from now on it keeps the outputs.

    Where one of them is trained once more, it was forced, and begins anew.
    """
    finished = list(Path(os.environ.get("DVC_ROOT", "."), STATES).glob(f"*{DONE}"))
    if not finished:
        return
    try:
        outs = yaml.safe_load(Path("dvc.lock").read_text())["stages"]["train"]["outs"]
        recorded = {out["md5"] for out in outs}
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return  # nothing is recorded, or DVC will say what is wrong
    for note in finished:
        # The stage of an experiment beside this one does the same, and may have been faster.
        with suppress(FileNotFoundError):
            if note.read_text() in recorded:
                note.with_suffix(".state").unlink(missing_ok=True)
                note.unlink()


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
