"""The one kind of failure that its reader can mend, and how a command reports it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something outside the code is wrong; the message says what, where, and what is right."""


@contextmanager
def reported() -> Iterator[None]:
    """Print a `UserError` on standard error, a line for each fault, and exit with status 2.

    An interrupt ends with status 130 and a line that says how to go on.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        _say_how_to_go_back()
        sys.exit(2)
    except OSError as error:
        if error.filename is None:  # not of a file that the reader could look at
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        _say_how_to_go_back()
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
        _say_how_to_go_back()
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: the same command begins this stage anew", file=sys.stderr)
        _say_how_to_go_back()
        sys.exit(130)


def _say_how_to_go_back() -> None:
    """DVC, which sets DVC_ROOT, removes the outputs of a stage before it starts it."""
    if "DVC_ROOT" in os.environ:
        print(
            "       `dvc checkout` and `git checkout metrics` bring back the outputs"
            " that DVC removed for this run.",
            file=sys.stderr,
        )
