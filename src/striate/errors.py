"""The one kind of failure that its reader can mend, and how a command reports it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something outside the code is wrong; the message says what, where, and what is right."""


@contextmanager
def reported() -> Iterator[None]:
    """Print a `UserError` on standard error, a line for each fault, and exit with status 2.

    What the system refuses (a full disk, a missing right to write) is reported likewise. An
    interrupt ends with status 130 and its message.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if not error.strerror:
            raise  # no refusal by the system
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        # Torch has no error of its own for want of memory on a CPU.
        if not isinstance(error, MemoryError) and not any(
            sign in str(error) for sign in ("out of memory", "can't allocate memory")
        ):
            raise
        print(
            "error: there is too little memory for this; smaller training.batch_size,"
            " evaluate.batch_size or model.width need less",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        said = str(interrupt) or "give the same command again"
        print(f"interrupted: {said}", file=sys.stderr)
        sys.exit(130)
