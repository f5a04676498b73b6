"""The experiments that were pushed to a Git remote, read without their data and checkpoints.

They are fetched to refs of their own, which neither DVC nor a branch looks at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from striate.errors import UserError
from striate.tracking import git, records
from striate.tracking.records import Name

# What experiments are compared with: the first of these that the remote has.
MAIN = ("HEAD", "refs/heads/main", "refs/heads/master")
CACHE = ".dvc/tmp/striate-pushed.json"  # of parsed commits; safe to delete


class Commit(NamedTuple):
    """Who made a commit, and when.

    Attributes:
        author: the name, as .mailmap has it.
        time: of the commit, in seconds since 1970; 0 where Git cannot read it.
    """

    author: str
    time: int


def fetch(root: Path, remote: str) -> list[Name]:
    """Fetch a remote's main branch and all its experiments; the branch comes first, if any.

    The workspace, the branches and the local experiments stay as they are.

    Args:
        root: the repository.
        remote: the name of one of its remotes.

    Raises:
        UserError: there is no such remote, it cannot be reached, or it has no experiment.
    """
    remotes = git.checked(root, "remote").split()
    if remote not in remotes:
        known = f"; known here: {', '.join(remotes)}" if remotes else ""
        raise UserError(
            f"there is no Git remote {remote!r}{known}; `git remote add` adds one, and --local"
            " shows the experiments of this clone"
        )
    own = f"refs/striate/{remote}"
    listed = git.checked(root, "ls-remote", "--symref", remote, *MAIN)
    branch = next((name for name in MAIN if re.search(rf"\t{name}$", listed, re.M)), None)
    main = [f"+{branch}:{own}/main"] * (branch is not None)
    git.checked(
        root, "fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--refmap=",
        "--no-auto-maintenance", "--no-recurse-submodules",
        remote, f"+refs/exps/*:{own}/exps/*", *main,
    )  # fmt: skip
    experiments = records.experiments(root, f"{own}/exps")
    if not experiments:
        raise UserError(
            f"nobody has pushed an experiment to {remote} yet; `dvc exp push {remote} --all`"
            " pushes yours"
        )
    commit = (main and git.commit_of(root, f"{own}/main")) or ""
    return [Name("main", commit)] * bool(commit) + experiments


def commits(root: Path, hashes: Iterable[str]) -> dict[str, Commit]:
    """Who made commits, and when."""
    found = git.log(root, list(dict.fromkeys(hashes)), "%H%x09%ct%x09%aN")
    lines = (line.split("\t", 2) for line in found)
    return {commit: Commit(author, int(time or 0)) for commit, time, author in lines}
