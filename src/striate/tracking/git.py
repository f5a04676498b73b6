"""Git, as far as the records and the gate need it."""

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from striate.errors import UserError


def commit_of(folder: Path, revision: str) -> str | None:
    """The commit that a revision names, or None."""
    asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
    return (git(folder, *asked) or "").strip() or None


def blobs(folder: Path, names: Sequence[str]) -> list[str | None]:
    """The texts of files in commits, by `COMMIT:./PATH`, or None; all by one process."""
    # A text may hold characters of several bytes, and sizes are in bytes.
    answer = _batch(folder, "--batch", names)
    found: list[str | None] = []
    while len(found) < len(names):
        heading, _, answer = answer.partition(b"\n")
        if heading.endswith(b" missing"):
            found.append(None)
            continue
        size = int(heading.rpartition(b" ")[2])
        found.append(answer[:size].decode(errors="replace"))
        answer = answer[size + 1 :]
    return found


def trees(folder: Path, commits: Iterable[str]) -> dict[str, str | None]:
    """What tells apart the states of a folder in commits; None where it is not there."""
    listed = list(commits)
    answer = _batch(folder, "--batch-check", [f"{commit}:./" for commit in listed]).decode()
    lines = [None if line.endswith(" missing") else line for line in answer.splitlines()]
    return dict(zip(listed, lines, strict=True))


def _batch(folder: Path, option: str, names: Sequence[str]) -> bytes:
    """What `git cat-file` says of objects.

    Raises:
        UserError: it fails, as where one is damaged.
    """
    if not names:
        return b""
    answer = _run(folder, "cat-file", option, given=names)
    # Of a damaged object it says that it is missing, and here why.
    if answer.returncode or b"error: " in answer.stderr:
        reason = " ".join(answer.stderr.decode(errors="replace").split())
        raise UserError(f"Git cannot read {folder.resolve()}: {reason or answer.returncode}")
    return answer.stdout


def git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command, or None where it fails.

    Raises:
        UserError: Git is not installed, or refuses the repository of another user.
    """
    answer = _run(folder, *arguments)
    return answer.stdout.decode(errors="replace") if answer.returncode == 0 else None


def _run(
    folder: Path, *arguments: str, given: Sequence[str] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Run a git command that reads lines.

    Raises:
        UserError: Git is not installed, or refuses the repository of another user.
    """
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            input="".join(f"{line}\n" for line in given).encode(),
            capture_output=True,
            # Its words are compared below.
            env=os.environ | {"LC_ALL": "C.UTF-8", "LANGUAGE": ""},
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed, or not on PATH") from None
    said = answer.stderr.decode(errors="replace")
    if "dubious ownership" in said:
        cure = next(line for line in said.splitlines() if "safe.directory" in line)
        raise UserError(
            f"Git refuses {folder.resolve()}, which belongs to another user; if you trust it:"
            f" {cure.strip()}"
        )
    return answer
