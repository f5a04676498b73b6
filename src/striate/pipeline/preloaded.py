"""A `python` for many experiments, whose packages are loaded once: see `fork_server`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from striate.models.portable import PRELOADED
from striate.pipeline import fork_server

# What DVC and the stages load. Of each package the part that loads most of the rest.
PACKAGES = (
    "torch", "numpy", "matplotlib.figure", "matplotlib.backends.backend_agg", "pydantic", "yaml",
    "jinja2", "PIL.Image", "PIL.PngImagePlugin", "scipy.special", "filelock", "psutil",
    "dvc.cli.parser", "dvc.repo", "dvc.commands.experiments.run", "dvc.repo.reproduce",
    "dvc.repo.experiments.queue.workspace", "dvc.repo.experiments.queue.celery", "dvc.utils.hydra",
    "hydra.compose", "networkx", "pygit2", "dulwich.stash", "dulwich.porcelain",
)  # fmt: skip
POLL_SECONDS = 0.02


@contextmanager
def python(variables: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Start such a `python`; where the system cannot fork safely, use the ordinary one.

    Args:
        variables: of the environment of all programs: some are read when a package is loaded.

    Yields:
        The variables, and what makes `dvc_runner` use it.
    """
    if sys.platform != "linux":
        yield dict(variables)
        return
    with tempfile.TemporaryDirectory(prefix="striate-") as folder:
        socket, script = Path(folder, "socket"), Path(fork_server.__file__)
        command = [sys.executable, "-I", "-S"]
        shim = Path(folder, "bin", "python")
        shim.parent.mkdir()
        words = shlex.join([*command, str(script), str(socket)])
        real = shlex.quote(sys.executable)
        shim.write_text(
            f"#!/bin/sh\n[ -S {shlex.quote(str(socket))} ] && "
            f'case "$1" in -m|[!-]*) exec {words} "$@";; esac\nexec {real} "$@"\n'
        )
        shim.chmod(0o755)
        server = subprocess.Popen(
            [sys.executable, script, socket, *PACKAGES],
            env=os.environ | dict(variables) | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while not socket.exists() and server.poll() is None:
                time.sleep(POLL_SECONDS)
            yield {**variables, PRELOADED: str(shim.parent)}
        finally:
            assert server.stdin is not None  # noqa: S101
            server.stdin.close()
            server.wait()
