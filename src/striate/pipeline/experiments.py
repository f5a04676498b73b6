"""What an experiment that runs in a copy needs and leaves: its files, its name, its errors."""

from __future__ import annotations

import os
from pathlib import Path

from striate.config.params import Params
from striate.tracking.git import git


def ignored_inputs(root: Path, settings: Params) -> list[str]:
    """What a training may read that Git ignores, relative to the root."""
    named = [settings.training.init_from]
    if settings.data.name == "folder":
        named += [settings.data.path, settings.data.leave_out]
    return [
        os.path.normpath(name)
        for name in named
        if not os.path.normpath(name).startswith((os.sep, os.pardir)) and (root / name).exists()
    ]


def error_line(output: str) -> str:
    """The line in the output of DVC and its stages that says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for sign in ("error: ", "ERROR: "):
        for line in lines:
            if line.startswith(sign):
                return line.removeprefix(sign)
    return lines[-1] if lines else "DVC printed no message"


def free_name(root: Path, wanted: str) -> str:
    """A name that no experiment has: the wanted one, or one with a number appended."""
    name, number = wanted, 1
    while commit_of_experiment(root, name):
        number += 1
        name = f"{wanted}-{number}"
    return name


def commit_of_experiment(root: Path, name: str) -> str:
    """The commit of the experiment of that name, or an empty string."""
    arguments = ("for-each-ref", "--count=1", "--format=%(objectname)", f"refs/exps/*/*/{name}")
    return (git(root, *arguments) or "").strip()
