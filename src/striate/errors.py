"""The one kind of failure that its reader can mend, and how a command reports it."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


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


def open_streams() -> None:
    """Make the three standard streams usable, whatever the caller has closed or how it encodes.

    A closed one reads and writes nothing; left closed, its number would go to the next file that
    is opened. A character that the encoding lacks is written as an escape.
    """
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
        stream = getattr(sys, name)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _complain(text: str) -> None:
    """Say why this process ends, where anybody can hear it.

    A standard output that takes nothing more is given up, or the interpreter would try again.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if text:
        with suppress(OSError):
            print(text, file=sys.stderr)


def one_line(error: Exception) -> str:
    """A library's error message on one line of 200 characters at most; its type if it is empty."""
    message = getattr(error, "strerror", None) or str(error)  # `str` would repeat the path
    text = " ".join(message.split()) or type(error).__name__
    return text[:200] + "…" if len(text) > 201 else text


@contextmanager
def reported() -> Iterator[None]:
    """Print a `UserError` on standard error, a line for each fault, and exit with status 2.

    What the system refuses (a full disk, a missing right to write) is reported likewise. An
    interrupt ends with status 130 and its message, a reader that has enough with status 1.
    """
    open_streams()
    try:
        # Not after a failure, which a reader that has enough would hide.
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        _complain("")
        sys.exit(1)
    except Exception as error:
        text = said(error)
        if text is None:
            raise
        _complain(f"error: {text}")
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        _complain(f"interrupted: {str(interrupt) or 'give the same command again'}")
        sys.exit(130)
