"""Git, as far as the records and the gate need it."""

import subprocess
from pathlib import Path

from striate.errors import UserError


def git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command, or None where it fails.

    Raises:
        UserError: Git is not installed.
    """
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed, or not on PATH") from None
    return answer.stdout if answer.returncode == 0 else None
