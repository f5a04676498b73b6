"""What a terminal shows: waits, progress bars and tables."""

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")

QUIET_SECONDS = 1.0  # a wait shorter than this shows nothing


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Print `what ...` on standard error if the block takes longer than a second."""
    timer = threading.Timer(QUIET_SECONDS, _print_if_open, [f"{what} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _print_if_open(line: str) -> None:
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def track(items: Sequence[T], description: str) -> Iterable[T]:
    """Iterate with a progress bar, in a terminal and once it has taken a second."""
    from tqdm import tqdm

    return tqdm(items, description, delay=QUIET_SECONDS, leave=False, disable=None)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells, the first row a heading, as aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
