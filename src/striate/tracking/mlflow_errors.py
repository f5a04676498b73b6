"""MLflow's failures: which exceptions it raises, and what they say in one line."""

from __future__ import annotations

import re
import sqlite3
import traceback
from pathlib import Path

from striate.errors import UserError
from striate.tracking.addresses import masked, root

REASON_CHARACTERS = 300  # of MLflow's message
TRACEBACK = Path(".dvc/tmp/striate-tracking.log")  # of unexpected errors
NEWER = re.compile(r"Can't locate revision identified by|database schema \(found version (\w+)")


def failures() -> tuple[type[Exception], ...]:
    """What MLflow raises when its store cannot be reached, is locked, or refuses.

    If MLflow itself cannot be imported, its own exceptions are not among them.
    """
    kinds = (sqlite3.DatabaseError, OSError, ImportError)
    try:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except Exception:  # a broken installation raises anything
        return kinds
    return (MlflowException, SQLAlchemyError, *kinds)


def is_temporary(error: Exception) -> bool:
    """Whether a retry may succeed: the server cannot be reached, or fails itself."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    elif isinstance(error, HTTPError) and error.response is not None:
        status = error.response.status_code
    else:
        return False
    return int(status) >= 500


def reason(error: Exception) -> str:
    """What went wrong, in one line; and what to do where MLflow's own advice is wrong.

    The traceback of an unexpected error is written to TRACEBACK.
    """
    # SQLAlchemy adds the statement and an address to the database's message.
    text = " ".join(masked(str(getattr(error, "orig", None) or error)).split())
    match = NEWER.search(text)
    if match and not _is_known(match[1]):
        return "a newer MLflow wrote this database: install that one, or name another database"
    # The statement is MLflow's own, and says nothing to a user.
    text = text.partition(" [SQL: ")[0]
    text = text if len(text) <= REASON_CHARACTERS else f"{text[:REASON_CHARACTERS]} ..."
    if isinstance(error, (UserError, *failures())):
        return text
    text = f"{type(error).__name__}: {text}"
    log = root() / TRACEBACK
    try:
        log.write_text(masked("".join(traceback.format_exception(error))))
    except OSError:
        return text
    return f"{text} (traceback in {log})"


def _is_known(revision: str | None) -> bool:
    """Whether the installed MLflow can upgrade a database of this revision."""
    import mlflow

    versions = Path(mlflow.__file__).parent / "store/db_migrations/versions"
    return revision is not None and any(versions.glob(f"{revision}*.py"))
