"""Read files on all processors, in order, with a few images in memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import TypeVar

from striate.data.processors import cores
from striate.datasets.registry import DataError

MOST_AT_ONCE = 16  # files that a thread or process reads before it takes others
MOST_WORKERS = 16  # each process takes some 30 MB; a container may allow fewer cores than it shows
PROCESSES_FROM = 5000  # files; they take a second to start, and Python runs one thread at a time

File = TypeVar("File")
Found = TypeVar("Found")


def in_order(
    read: Callable[[File], Found],
    files: Sequence[File],
    *,
    at_once: int = MOST_AT_ONCE,
    processes: bool = True,
) -> Generator[Found]:
    """Read files ahead of the one who takes what is found.

    Args:
        read: reads one; it and what it returns can be pickled.
        files: what it takes.
        at_once: how many a thread or process reads before it takes others.
        processes: whether processes read where there are many files.

    Yields:
        What is found, in the order of the files.

    Raises:
        DataError: a process that reads was killed.
    """
    workers = min(cores(), MOST_WORKERS)
    waiting: deque[Future[list[Found]]] = deque()
    with _pool(workers, processes and len(files) >= PROCESSES_FROM) as pool:
        for start in range(0, len(files), at_once):
            waiting.append(pool.submit(_read_all, read, files[start : start + at_once]))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _read_all(read: Callable[[File], Found], files: Sequence[File]) -> list[Found]:
    return [read(file) for file in files]


@contextmanager
def _pool(workers: int, many: bool) -> Iterator[Executor]:
    """Threads for a few files, and for many ones processes, which do not wait for each other.

    On an error or an interrupt, what is not yet read is given up.
    """
    processes = _start(workers) if many else None
    pool, readers = processes or (ThreadPoolExecutor(workers), [])
    try:
        yield pool
    except BrokenExecutor:
        raise DataError(
            "a process that reads images was killed, as for want of memory or by a damaged file;"
            " the same command goes on where it was"
        ) from None
    except BaseException:
        # The pool itself would wait for all that they have begun.
        for reader in readers:
            reader.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start(workers: int) -> tuple[Executor, list[BaseProcess]] | None:
    """Processes that wait for work; none where the system gives no more."""
    before = {*multiprocessing.active_children()}
    # They inherit the mask: an interrupt is for the process that they read for.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        # Not forked: this process may have threads.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, context, initializer=_end_with_parent)
        for _ in range(workers):
            pool.submit(os.getpid)  # starts one, as none is idle yet
    except OSError:
        for started in {*multiprocessing.active_children()} - before:
            started.kill()
        return None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pool, [*{*multiprocessing.active_children()} - before]


def _end_with_parent() -> None:
    """End this process when the one that it reads for is gone, however that ended."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
