"""The one kind of failure that its reader can mend, and how a command reports it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something outside the code is wrong; the message says what, where, and what is right."""


def said(error: BaseException) -> str | None:
    """What to tell the reader of a failure; None where it is a fault of the code."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # Torch has no error of its own for want of memory on a CPU.
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(sign in str(error) for sign in ("out of memory", "can't allocate memory"))
    ):
        return (
            "there is too little memory for this; smaller training.batch_size,"
            " evaluate.batch_size or model.width need less"
        )
    return None


@contextmanager
def reported() -> Iterator[None]:
    """Print a `UserError` on standard error, a line for each fault, and exit with status 2.

    What the system refuses (a full disk, a missing right to write) is reported likewise. An
    interrupt ends with status 130 and its message.
    """
    try:
        yield
    except Exception as error:
        text = said(error)
        if text is None:
            raise
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        text = str(interrupt) or "give the same command again"
        print(f"interrupted: {text}", file=sys.stderr)
        sys.exit(130)
