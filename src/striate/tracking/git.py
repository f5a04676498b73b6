"""Reading Git: revisions, and files in commits."""

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from striate.errors import UserError


def repository_around(folder: Path) -> Path | None:
    """The root of the DVC repository that a folder lies in, if there is one."""
    every = (folder, *folder.parents)
    return next((one for one in every if (one / ".dvc" / "config").is_file()), None)


def commit_of(folder: Path, revision: str) -> str | None:
    """The commit that a revision names, or None."""
    arguments = ("rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
    return (git(folder, *arguments) or "").strip() or None


def blobs(folder: Path, names: Sequence[str]) -> list[str | None]:
    """The texts of files in commits, named `COMMIT:./PATH`, or None; read by one process."""
    # Split bytes, not text: sizes are in bytes.
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
    """The tree of a folder in each commit; None where it does not exist."""
    listed = list(commits)
    answer = _batch(folder, "--batch-check", [f"{commit}:./" for commit in listed]).decode()
    lines = [None if line.endswith(" missing") else line for line in answer.splitlines()]
    return dict(zip(listed, lines, strict=True))


def _batch(folder: Path, option: str, names: Sequence[str]) -> bytes:
    """The output of `git cat-file` about objects.

    Raises:
        UserError: it fails, for example at a damaged object.
    """
    if not names:
        return b""
    answer = _run(folder, "cat-file", option, given=names)
    # It reports a damaged object as missing; standard error has the reason.
    if answer.returncode or b"error: " in answer.stderr:
        reason = " ".join(answer.stderr.decode(errors="replace").split())
        raise UserError(f"Git cannot read {folder.resolve()}: {reason or answer.returncode}")
    return answer.stdout


def log(folder: Path, commits: Sequence[str], form: str) -> list[str]:
    """A line for each of these commits, in a format of `git log`; read by one process.

    Raises:
        UserError: it fails, for example at a damaged object.
    """
    if not commits:
        return []
    plain = ("-c", "log.showSignature=false", "log", "--no-walk=unsorted", "--stdin")
    answer = _run(folder, *plain, f"--format={form}", given=commits)
    if answer.returncode:
        reason = " ".join(answer.stderr.decode(errors="replace").split())
        raise UserError(f"Git cannot read {folder.resolve()}: {reason or answer.returncode}")
    # Not splitlines(): a name may hold what Unicode calls an end of line.
    return answer.stdout.decode(errors="replace").removesuffix("\n").split("\n")


def git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command, or None if it fails.

    Raises:
        UserError: Git is not installed, or refuses the repository of another user.
    """
    answer = _run(folder, *arguments)
    return answer.stdout.decode(errors="replace") if answer.returncode == 0 else None


def checked(folder: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> str:
    """The output of a git command, without the blanks around it.

    Args:
        folder: to run it in.
        arguments: of git.
        variables: of its environment.

    Raises:
        UserError: it fails, Git is not installed, or refuses the repository of another user.
    """
    answer = _run(folder, *arguments, variables=variables)
    if answer.returncode:
        reason = " ".join(answer.stderr.decode(errors="replace").split())
        raise UserError(f"git {arguments[0]} failed: {reason[:200]}")
    return answer.stdout.decode(errors="replace").strip()


def _run(
    folder: Path,
    *arguments: str,
    given: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a git command, with `given` as lines of its standard input.

    Raises:
        UserError: Git is not installed, or refuses the repository of another user.
    """
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            input="".join(f"{line}\n" for line in given).encode(),
            capture_output=True,
            # Its messages are matched below.
            env=os.environ | {"LC_ALL": "C.UTF-8", "LANGUAGE": ""} | dict(variables or {}),
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed, or not on PATH") from None
    message = answer.stderr.decode(errors="replace")
    if "dubious ownership" in message:
        cure = next(line for line in message.splitlines() if "safe.directory" in line)
        raise UserError(
            f"Git refuses {folder.resolve()}, which belongs to another user; if you trust it:"
            f" {cure.strip()}"
        )
    return answer
