"""One DVC experiment in a temporary folder, between whoever asked for it and DVC.

    python -m striate.tuning.dvc_runner NAME -S key=value ...

A process of its own, because the one that asked may be killed: its end of the pipe closes then, and
the experiment is interrupted in order, so that no training goes on unseen and no temporary folder
is left. Each thing that happens is a line of JSON on standard output: what the training tells (see
`striate.progress`), and at last DVC's status and words.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from striate.pipeline.stage import PR_SET_PDEATHSIG
from striate.training import events
from striate.training.resume_files import RESUME_DIR

LOCK = RESUME_DIR / "experiment.lock"
WATCH_SECONDS = 0.1  # between two looks at what is new
PATIENCE_SECONDS = 60.0  # for an interrupted experiment to end, before it is killed
TAIL = 20_000  # characters of what DVC said that are passed on
# Of an outer DVC process: they would name another repository. And what no training need know.
HIDDEN = ("DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE", "STRIATE_STORAGE")


class Experiment:
    """An experiment that goes on, for the process that asked for it.

    Args:
        root: the repository.
        name: of the experiment.
        arguments: of `dvc exp run`, such as `-S`, `model.layers=3`.
        threads: that each stage computes with, unless OMP_NUM_THREADS is set already.
    """

    def __init__(self, root: Path, name: str, arguments: list[str], threads: int) -> None:
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "striate.tuning.dvc_runner", name, *arguments],
            cwd=root,
            env={"OMP_NUM_THREADS": str(threads)} | os.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt at the terminal is for who asked
        )

    def __enter__(self) -> "Experiment":
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until it has ended, interrupted if need be."""
        self.stop()
        self._guard.__exit__(None, None, None)

    def stop(self) -> None:
        """Have it interrupted; what happens until it has ended can still be read."""
        assert self._guard.stdin is not None  # noqa: S101
        with suppress(BrokenPipeError):
            self._guard.stdin.close()

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the training tells, and at last `{"status": …, "said": …}`, unless it is killed."""
        assert self._guard.stdout is not None  # noqa: S101
        for line in self._guard.stdout:
            yield json.loads(line)


def main(name: str, arguments: list[str]) -> None:
    """Run the experiment until it ends, or until nobody wants it any more."""
    # What ends this process is its pipe. A handler, unlike SIG_IGN, is not passed on to DVC.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    with tempfile.TemporaryDirectory() as scratch:
        log, rows = Path(scratch, "log"), Path(scratch, "rows")
        rows.touch()
        lock = FileLock(LOCK)
        LOCK.parent.mkdir(parents=True, exist_ok=True)
        # DVC puts a temporary experiment on a stack in Git, and takes from there what lies on top,
        # which may be another's. It says what it has taken when it is ready to run it.
        lock.acquire()
        if _abandoned():
            return
        with log.open("wb") as sink:
            dvc = subprocess.Popen(
                [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *arguments],
                env=_environment(rows),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        ready = f"Reproducing experiment '{name}'"
        wanted, interrupted, seen = True, 0.0, 0
        while True:
            ended = dvc.poll() is not None
            _, taken, stages = log.read_text(errors="replace").partition(ready)
            if ended or taken:
                lock.release()
            *lines, _ = rows.read_text().split("\n")
            for line in lines[seen:]:
                wanted = wanted and _say(line)
            seen = len(lines)
            if ended:
                break
            if wanted:
                wanted = not _abandoned(WATCH_SECONDS)
            else:
                time.sleep(WATCH_SECONDS)
                now = time.monotonic()
                # Until its first stage DVC has the working tree in its hands, or a temporary folder
                # that it would leave behind.
                if not interrupted and stages.strip():
                    interrupted = now
                    os.killpg(dvc.pid, signal.SIGINT)
                elif interrupted and now - interrupted > PATIENCE_SECONDS:
                    os.killpg(dvc.pid, signal.SIGKILL)
        said = log.read_text(errors="replace")[-TAIL:]
    _say(json.dumps({"status": dvc.returncode, "said": said}))


def _environment(rows: Path) -> dict[str, str]:
    """That of DVC: its stages run with this Python, and their words come at once."""
    inherited = {key: value for key, value in os.environ.items() if key not in HIDDEN}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return inherited | {
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "true",
        events.VARIABLE: str(rows),
    }


def _end_with_parent() -> None:
    """Ask Linux to kill DVC when this process is killed; the stage then ends by itself."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "prctl"):
            library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _abandoned(seconds: float = 0.0) -> bool:
    """Whether the other end of standard input is closed; waits so long for it."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def _say(line: str) -> bool:
    """Pass a line on; says whether there was somebody to hear it."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
