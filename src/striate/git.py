"""Git, as far as the records and the gate need it."""

import os
import subprocess
from pathlib import Path

from striate.errors import UserError


def commit_of(folder: Path, revision: str) -> str | None:
    """The commit that a revision names, or None."""
    asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
    return (git(folder, *asked) or "").strip() or None


def git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command, or None where it fails.

    Raises:
        UserError: Git is not installed, or refuses the repository of another user.
    """
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            # Its words are compared below.
            env=os.environ | {"LC_ALL": "C.UTF-8", "LANGUAGE": ""},
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed, or not on PATH") from None
    if "dubious ownership" in answer.stderr:
        cure = next(line for line in answer.stderr.splitlines() if "safe.directory" in line)
        raise UserError(
            f"Git refuses {folder.resolve()}, which belongs to another user; if you trust it:"
            f" {cure.strip()}"
        )
    return answer.stdout if answer.returncode == 0 else None
