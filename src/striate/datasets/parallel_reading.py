"""Read images on all processors, in order, with a few of them in memory."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np

from striate.data.processors import cores
from striate.datasets import image_reading
from striate.datasets.image_reading import ImageReadError
from striate.datasets.registry import DataError

MOST_FILES = 16  # that a thread or process reads before it takes others
MOST_BYTES = 2**22  # of their pixels, unless one image has more
MOST_WORKERS = 16  # each process takes some 30 MB; a container may allow fewer cores than it shows
PROCESSES_FROM = 5000  # files; they take a second to start, and Python runs one thread at a time


class Look(NamedTuple):
    """How images are stored.

    Attributes:
        size: height and width; None keeps images as they are.
        resize: a key of `image_reading.RESIZE`.
    """

    size: tuple[int, int] | None
    resize: str


def in_order(
    files: Sequence[Path], look: Look, shape: tuple[int, int, int]
) -> Generator[tuple[Path, np.ndarray | ImageReadError]]:
    """Read files ahead of the one who takes them.

    Args:
        files: of images.
        look: how they are resized.
        shape: that most of them then have, channels first; others come as they are.

    Yields:
        Each file and its image, uint8 (H, W) or (H, W, 3), or what is wrong with the file.

    Raises:
        DataError: a process that reads was killed.
    """
    workers = min(cores(), MOST_WORKERS)
    at_once = min(max(MOST_BYTES // math.prod(shape), 1), MOST_FILES)
    mode = "L" if shape[0] == 1 else "RGB"
    waiting: deque[tuple[Sequence[Path], Future[list[np.ndarray | ImageReadError]]]] = deque()

    def first() -> Iterator[tuple[Path, np.ndarray | ImageReadError]]:
        some, loaded = waiting.popleft()
        return zip(some, loaded.result(), strict=True)

    # Whole images would be copied between processes, which takes longer than to decode them.
    with _pool(workers, look.size is not None and len(files) >= PROCESSES_FROM) as pool:
        for start in range(0, len(files), at_once):
            part = files[start : start + at_once]
            waiting.append((part, pool.submit(_load_all, part, look, mode)))
            if len(waiting) > 2 * workers:
                yield from first()
        while waiting:
            yield from first()


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


def _load_all(files: Sequence[Path], look: Look, mode: str) -> list[np.ndarray | ImageReadError]:
    return [_load(file, look, mode) for file in files]


def _load(file: Path, look: Look, mode: str) -> np.ndarray | ImageReadError:
    """An image, uint8 (H, W) or (H, W, 3)."""
    try:
        image = image_reading.read(file).convert(mode)
    except ImageReadError as error:
        return error
    if look.size:
        height, width = look.size
        image = image_reading.RESIZE[look.resize](image, (width, height))
    return np.asarray(image)
