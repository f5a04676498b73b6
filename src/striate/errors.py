"""The one kind of failure that its reader can mend, and how a command reports it."""

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
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: the same command starts again from here", file=sys.stderr)
        sys.exit(130)
