"""Read files on all processors, in order, with a few images in memory."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple, TypeVar

from striate.data.processors import cores
from striate.datasets.registry import DataError

MOST_AT_ONCE = 16  # files that a thread or process reads before it takes others
MOST_WORKERS = 16  # each process takes some 30 MB; a container may allow fewer cores than it shows
PROCESSES_FROM = 5000  # files; they take a second to start, and Python runs one thread at a time
AHEAD = 2  # parts that each thread or process is ahead of what is taken

File = TypeVar("File")
Found = TypeVar("Found")


class Reader(NamedTuple):
    """A process that reads files: it is sent parts, and sends back what it finds in each."""

    process: SpawnProcess
    connection: Connection[Any, Any]


def in_order(
    read: Callable[[File], Found],
    files: Sequence[File],
    *,
    at_once: int = MOST_AT_ONCE,
    processes: bool = True,
) -> Generator[Found]:
    """Read files ahead of the one who takes what is found.

    Few are read by threads, and many by processes, which do not wait for each other.

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
    parts = [files[start : start + at_once] for start in range(0, len(files), at_once)]
    readers = _start(read, workers) if processes and len(files) >= PROCESSES_FROM else []
    yield from _by_processes(readers, parts) if readers else _by_threads(read, workers, parts)


def _by_threads(
    read: Callable[[File], Found], workers: int, parts: Sequence[Sequence[File]]
) -> Generator[Found]:
    waiting: deque[Future[list[Found]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for part in parts:
            waiting.append(pool.submit(_read_all, read, part))
            if len(waiting) > AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _by_processes(readers: Sequence[Reader], parts: Sequence[Sequence[File]]) -> Generator[Any]:
    """Give each reader a part in turn; on an error or an interrupt, none of them is waited for."""
    ahead = AHEAD * len(readers)
    try:
        for number in range(len(parts) + ahead):
            connection = readers[number % len(readers)].connection
            if number >= ahead:
                found = connection.recv()
                if isinstance(found, Exception):
                    raise found
                yield from found
            if number < len(parts):
                connection.send(parts[number])
    except (EOFError, ConnectionError):
        raise DataError(
            "a process that reads images was killed, as for want of memory or by a damaged file;"
            " the same command goes on where it was"
        ) from None
    finally:
        _end(readers)


def _start(read: Callable[[File], Found], count: int) -> list[Reader]:
    """Processes that wait for files; none where the system gives no more."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    readers: list[Reader] = []
    resource_tracker.ensure_running()  # whose start would end the mask
    # They inherit the mask: an interrupt is for the process that they read for.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(read, there), daemon=True)
            process.start()
            there.close()
            readers.append(Reader(process, here))
    except OSError:
        _end(readers)
        return []
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return readers


def _end(readers: Sequence[Reader]) -> None:
    for reader in readers:
        reader.process.kill()
        reader.connection.close()
    for reader in readers:
        reader.process.join()


def _serve(read: Callable[[File], Found], connection: Connection[Any, Any]) -> None:
    """Read the files that come, until the other end is closed or its process is gone."""
    with suppress(EOFError, ConnectionError):
        while True:
            part = connection.recv()
            found: list[Found] | Exception
            try:
                found = _read_all(read, part)
            except Exception as error:
                found = error
            connection.send(found)


def _read_all(read: Callable[[File], Found], files: Sequence[File]) -> list[Found]:
    return [read(file) for file in files]
