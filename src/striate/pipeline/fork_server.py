"""Start Python programs in a fork of a process that has loaded their packages.

Loading PyTorch takes longer than training a small network. Where the same stages run many times,
the packages are loaded once: a server waits on a socket, and each program is a fork of it. In
front of the other programs on PATH lies a `python` that asks this server; what it cannot do, the
real Python does.

Both ends are this file, run as a script, so that a fork holds nothing of `striate`: a program
imports the package that lies beside it. Linux only: elsewhere, the system's libraries do not
survive a fork.

    fork_server.py SOCKET PACKAGE ...      serve
    fork_server.py SOCKET -m MODULE ...    run a module there; likewise FILE ...
"""

from __future__ import annotations

import array
import atexit
import ctypes
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
POLL_SECONDS = 0.02
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(path: str, packages: list[str]) -> dict[str, Any]:
    """Fork for each request until standard input is closed; returns only in a fork.

    Args:
        path: of the socket, which appears once the packages are loaded, in a folder of its own.
        packages: to load.

    Returns:
        What to run: arguments, folder and environment.
    """
    # Not where a program is asked for, which takes no longer than it must.
    import gc
    import shutil

    for name in packages:
        import_module(name)
    gc.freeze()  # else the first collection in each fork would copy all pages
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{path}.new")
    server.listen(128)
    os.rename(f"{path}.new", path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that supervise
    while True:
        ready, _, _ = select.select([server, sys.stdin], [], [])
        if sys.stdin in ready:
            # Whoever made it may have been killed.
            shutil.rmtree(os.path.dirname(path), ignore_errors=True)
            os._exit(0)
        connection, _ = server.accept()
        if os.fork():
            connection.close()
            continue
        server.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            request = receive(connection)
        except (IndexError, ValueError):
            os._exit(0)  # whoever asked was killed before the request was whole
        program = os.fork()
        if not program:
            connection.close()
            return request
        supervise(connection, program)


def receive(connection: socket.socket) -> dict[str, Any]:
    """Read a request, and put its standard streams in place of this process's."""
    size = array.array("i").itemsize
    length, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * size))
    descriptors = array.array("i", ancillary[0][2])
    for target, source in enumerate(descriptors):
        os.dup2(source, target)
        os.close(source)
    with connection.makefile("rb") as stream:
        request: dict[str, Any] = json.loads(stream.read(int.from_bytes(length, "big")))
    return request


def supervise(connection: socket.socket, program: int) -> NoReturn:
    """Pass signals on to a program and its exit status back; kill it if nobody waits for it."""
    for number in range(3):
        os.close(number)  # a pipe shall end with the program
    with suppress(OSError):
        os.setpgid(program, program)  # the program does so, too, but perhaps later
    while True:
        ended, status = os.waitpid(program, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            with suppress(OSError):
                connection.sendall(code.to_bytes(2, "big", signed=True))
            os._exit(0)
        if select.select([connection], [], [], POLL_SECONDS)[0]:
            sent = connection.recv(1)
            with suppress(ProcessLookupError):
                os.killpg(program, sent[0] if sent else signal.SIGKILL)
            if not sent:
                os._exit(0)


def run(request: dict[str, Any]) -> NoReturn:
    """Run a module or a file as `python` would, and end."""
    try:
        _run(request)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
    # As Python does it, but for the freeing of what is shared with the server, which takes long.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 0xFF)


def _run(request: dict[str, Any]) -> None:
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # if nobody supervises it
    for number in FORWARDED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    own = python_path()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    target, *arguments = request["arguments"]
    sys.path[:] = python_path() + [path for path in sys.path[1:] if path not in own]
    if target == "-m":
        target, *arguments = arguments
        sys.path.insert(0, os.getcwd())
        sys.argv = [target, *arguments]
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(target)))
        sys.argv = [target, *arguments]
        runpy.run_path(target, run_name="__main__")


def python_path() -> list[str]:
    """The folders that PYTHONPATH names, as `python` adds them to `sys.path`."""
    names = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [os.path.abspath(name) for name in names if name]


def ask(path: str, arguments: list[str]) -> int:
    """Have a server run a program with this process's streams; returns its exit status.

    If the server is gone, the real Python takes this process's place.
    """
    request = {
        "arguments": arguments,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
    }
    content = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:

        def forward(number: int, _: Any) -> None:
            with suppress(OSError):  # the program has just ended
                connection.send(bytes([number]))

        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # the request comes first
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
        try:
            connection.connect(path)
            connection.sendmsg([len(content).to_bytes(8, "big")], [rights])
            connection.sendall(content)
        except OSError:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
            os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606
        for number in FORWARDED:
            signal.signal(number, forward)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        if sys.platform == "linux":
            # The shell that started this process becomes it, so DVC is its parent.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        status = connection.recv(2, socket.MSG_WAITALL)
    if len(status) < 2:
        return 1  # the server was killed
    code = int.from_bytes(status, "big", signed=True)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    place, *words = sys.argv[1:]
    if os.path.exists(place):
        sys.exit(ask(place, words))
    run(serve(place, words))
