"""Run one DVC experiment in a copy of the repository, in a process of its own.

    python -m striate.pipeline.dvc_runner ROOT COPY NAME -S key=value ...

If the process that started it is killed, its end of the pipe closes, and this process interrupts
the experiment: no training runs on unseen, and no copy is left. It writes JSON lines to standard
output: what the training publishes (`striate.training.events`), then DVC's exit status and output.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from striate.data import files
from striate.errors import UserError
from striate.models.portable import PRELOADED
from striate.pipeline import repository_copy
from striate.pipeline.stage import signal_at_parents_end
from striate.training import events

POLL_SECONDS = 0.1
GRACE_SECONDS = 60.0  # between the interrupt of an experiment and its kill
TAIL = 20_000  # characters of DVC's output that are passed on
# An outer DVC process sets these, for another repository; and a training needs no storage.
HIDDEN = ("DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE", "STRIATE_STORAGE")


class Experiment:
    """A running experiment.

    Args:
        root: the repository.
        name: of the experiment.
        arguments: of `dvc exp run`, such as `-S`, `model.layers=3`.
        copied: what Git does not track and the experiment needs, relative to the root.
        variables: of the environment, such as OMP_NUM_THREADS.

    Raises:
        UserError: the repository cannot be copied.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        arguments: Sequence[str],
        copied: Sequence[str],
        variables: Mapping[str, str],
    ) -> None:
        copy = repository_copy.make(root, name, copied)
        self._copy = copy
        self._runner = subprocess.Popen(
            [_python(variables), "-m", "striate.pipeline.dvc_runner", root, copy, name, *arguments],
            cwd=root,
            env=os.environ | dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt at the terminal is for the parent
        )

    def __enter__(self) -> "Experiment":
        return self

    def __exit__(self, *_: object) -> None:
        """Interrupt it if it still runs, and wait until it has ended."""
        self.stop()
        self._runner.__exit__(None, None, None)
        repository_copy.remove(self._copy)  # if it was killed

    def stop(self) -> None:
        """Interrupt it; its messages until it has ended can still be read."""
        assert self._runner.stdin is not None  # noqa: S101
        with suppress(BrokenPipeError):
            self._runner.stdin.close()

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the training publishes; then `{"status": …, "output": …}`, unless it is killed."""
        assert self._runner.stdout is not None  # noqa: S101
        for line in self._runner.stdout:
            yield json.loads(line)


def main(root: Path, copy: Path, name: str, arguments: list[str]) -> None:
    """Run the experiment until it ends; interrupt it when the other end of the pipe is closed."""
    # The pipe ends this process. Unlike SIG_IGN, DVC does not inherit a handler.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    with tempfile.TemporaryDirectory() as scratch:
        log, rows = Path(scratch, "log"), Path(scratch, "rows")
        rows.touch()
        dvc = _start_dvc(root, copy, name, arguments, log, rows)
        open_pipe, interrupted, sent = True, 0.0, 0
        while True:
            ended = dvc.poll() is not None
            *lines, _ = rows.read_text().split("\n")
            for line in lines[sent:]:
                open_pipe = open_pipe and _send(line)
            sent = len(lines)
            if ended:
                break
            if open_pipe:
                open_pipe = not _is_closed(POLL_SECONDS)
            else:
                time.sleep(POLL_SECONDS)
                interrupted = _stop(dvc, interrupted)
        output = log.read_text(errors="replace")[-TAIL:]
    try:
        repository_copy.fetch_experiment(root, copy, name)
    except UserError as error:
        output += f"\nerror: {error}"
    repository_copy.remove(copy)
    _send(json.dumps({"status": dvc.returncode, "output": output}))


def _start_dvc(
    root: Path, copy: Path, name: str, arguments: list[str], log: Path, rows: Path
) -> subprocess.Popen[bytes]:
    environment = _environment(root, rows)
    with log.open("wb") as sink:
        return subprocess.Popen(
            [_python(os.environ), "-m", "dvc", "exp", "run", "--name", name, *arguments],
            cwd=repository_copy.inside(root, copy),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            # When this process is killed, DVC is, too; the stage then ends itself.
            preexec_fn=partial(signal_at_parents_end, signal.SIGKILL),
        )


def _python(variables: Mapping[str, str]) -> Path:
    """The `python` that runs DVC and the stages, and this process."""
    return Path(variables.get(PRELOADED) or Path(sys.executable).parent) / "python"


def _stop(dvc: subprocess.Popen[bytes], interrupted: float) -> float:
    """Interrupt DVC, and kill it if it has not ended after a while.

    Args:
        dvc: the process, which leads a group.
        interrupted: the monotonic time of the interrupt, or 0.

    Returns:
        That time.
    """
    now = time.monotonic()
    if not interrupted:
        os.killpg(dvc.pid, signal.SIGINT)
        return now
    if now - interrupted > GRACE_SECONDS:
        os.killpg(dvc.pid, signal.SIGKILL)
    return interrupted


def _environment(root: Path, rows: Path) -> dict[str, str]:
    """DVC's environment: its stages run with the same Python, unbuffered."""
    inherited = {key: value for key, value in os.environ.items() if key not in HIDDEN}
    return inherited | {
        "PATH": f"{_python(os.environ).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "true",
        "DVC_SITE_CACHE_DIR": str(rows.parent / "dvc"),  # else it keeps a folder of each copy
        files.REPOSITORY: str(root.resolve()),
        events.VARIABLE: str(rows),
    }


def _is_closed(seconds: float = 0.0) -> bool:
    """Whether the other end of standard input is closed, or will be within `seconds`."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def _send(line: str) -> bool:
    """Write a line to standard output. Returns False if the pipe is closed."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
