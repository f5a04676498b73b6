"""The context of every stage: it reports in one line, ends when DVC ends and loses no outputs."""

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
from striate.tracking import logger
from striate.tracking.git import git
from striate.training.resume_files import DONE, RESUME_DIR
from striate.training.torchrun import exits, is_member

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


@contextmanager
def stage() -> Iterator[None]:
    """Wrap the whole of a stage.

    If it ends early, the outputs that DVC removed before it are restored, unless the process is
    killed.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with exits():
            # The scripts block both while they import what they need.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
            _end_with_parent()
            logger.enabled()  # a faulty switch shall fail before the work, and not after it
            if not is_member():
                _remove_recorded_checkpoints()
            yield
    except BaseException:
        # Where several processes train together, those that were started end before this.
        _restore_outputs()
        raise


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Ask Linux to terminate this process when DVC ends, since nobody would record its outputs."""
    # DVC may have ended before. Orphans are re-parented to a process that is not Python.
    if (
        "DVC_STAGE" in os.environ
        and signal_at_parents_end(signal.SIGTERM)
        and not any(name in _program(os.getppid()) for name in ("python", "dvc"))
    ):
        raise KeyboardInterrupt


def signal_at_parents_end(number: int) -> bool:
    """Ask Linux to send this process a signal when its parent ends; returns whether it will."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "prctl"):
            library.prctl(PR_SET_PDEATHSIG, number)
            return True
    return False


def _program(pid: int) -> str:
    """The name of the program that a process runs; empty if the system does not say."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""


def _remove_recorded_checkpoints() -> None:
    """Remove the resume checkpoints of trainings whose outputs DVC has recorded.

    If one of them is trained again, that was forced, and it starts over.
    """
    finished = list((files.repository() / RESUME_DIR).glob(f"*{DONE}"))
    if not finished:
        return
    try:
        outs = yaml.safe_load(Path("dvc.lock").read_text())["stages"]["train"]["outs"]
        recorded = {out["md5"] for out in outs}
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return  # nothing is recorded, or DVC reports what is wrong
    for note in finished:
        # Another experiment's stage does the same, and may have been faster.
        with suppress(FileNotFoundError):
            if note.read_text() in recorded:
                note.with_suffix(".state").unlink(missing_ok=True)
                note.unlink()


def _restore_outputs() -> None:
    """Restore the outputs that DVC removed before it started this stage.

    They are in DVC's cache, also those that Git keeps. A temporary copy of the repository needs
    none.
    """
    name = os.environ.get("DVC_STAGE")
    if name is None or files.repository().resolve() != Path.cwd():
        return
    # A second interrupt must not leave half of the outputs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        restore_outputs(name)
    except Exception as error:  # the failure that led here matters more
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        print(
            f"       The outputs that DVC removed for this run could not be restored ({reason});"
            " try `dvc checkout --force dvc.yaml` and `git checkout metrics`.",
            file=sys.stderr,
        )


def restore_outputs(name: str) -> None:
    """Restore the outputs of a stage as dvc.lock names them.

    What neither DVC's cache nor Git holds was not there before, as in a new clone.
    """
    from dvc.repo import Repo

    with Repo() as repo:
        for found in repo.stage.collect(name):
            for out in found.outs:
                if not out.hash_info:
                    continue  # the stage has never run
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
