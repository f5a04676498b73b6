"""How far a command is: for a person who waits, or for the program that started it."""

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")

QUIET_SECONDS = 1.0  # that a wait may last before anything is said of it


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on standard error what goes on, unless it has ended within a second."""
    timer = threading.Timer(QUIET_SECONDS, _say, [f"{what} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(line: str) -> None:
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def track(items: Sequence[T], description: str) -> Iterable[T]:
    """The items, with a bar in a terminal once they have taken a second."""
    from tqdm import tqdm

    return tqdm(items, description, delay=QUIET_SECONDS, leave=False, disable=None)
