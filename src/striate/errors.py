"""`UserError`, the one kind of error that its reader can fix, and how a command reports errors."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class UserError(Exception):
    """Something outside the code is wrong; the message says what, where, and what is right."""


def describe(error: BaseException) -> str | None:
    """The message for an error that its reader can fix; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # PyTorch raises a plain RuntimeError if a CPU runs out of memory.
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(sign in str(error) for sign in ("out of memory", "can't allocate memory"))
    ):
        return (
            "there is too little memory for this; reduce training.batch_size, evaluate.batch_size"
            " or model.width"
        )
    return None


def open_streams() -> None:
    """Make the three standard streams usable, even if closed or of a narrow encoding.

    A closed stream reads and writes nothing; if it stayed closed, the next opened file would get
    its number. Characters that the encoding lacks are escaped.
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


def _print_last(text: str) -> None:
    """Print why this process ends, on standard error, if that is open.

    Redirects a broken standard output to nowhere, which the interpreter would flush again.
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
def exit_on_error() -> Iterator[None]:
    """Turn errors that the reader can fix into a line on standard error and an exit status.

    Status 2 for a `UserError` or what the system refuses (a full disk, a missing permission), 130
    for an interrupt, 1 for a broken pipe. Bugs keep their traceback.
    """
    open_streams()
    try:
        try:
            yield
        # Not after an error, which a broken pipe would hide.
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        _print_last("")
        sys.exit(1)
    except Exception as error:
        text = describe(error)
        if text is None:
            raise
        _print_last(f"error: {text}")
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        _print_last(f"interrupted: {str(interrupt) or 'give the same command again'}")
        sys.exit(130)
