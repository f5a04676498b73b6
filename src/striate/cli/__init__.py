"""The command `striate`: groups of commands, a module each; `table.py` says how to add one."""

from __future__ import annotations

import sys

from striate.cli import compare, completion, doctor, measure, run, share, use, workspace
from striate.cli.table import COMMANDS, parse
from striate.errors import UserError, exit_on_error

GROUPS = (run, measure, compare, use, share, doctor, completion)  # as `striate --help` lists them


def main() -> None:
    """Run one command; bad input ends it with one line and status 2."""
    with exit_on_error():
        words = sys.argv[1:]
        if words[:1] in (["-h"], ["--help"]):
            print(overview())
            sys.exit(0)
        command, values = parse(words)
        workspace.note_other_code()
        try:
            command.run(**values)
        except UserError as error:
            raise UserError(workspace.with_root(str(error))) from None


def overview() -> str:
    """All commands with their summaries, by group."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: striate COMMAND [ARGUMENT ...]",
        "",
        "Work with the pipeline's results; `dvc repro` and `dvc exp run` run its stages.",
    ]
    for group in GROUPS:
        lines += ["", f"{(group.__doc__ or '').splitlines()[0].removesuffix('.')}:"]
        for name, command in COMMANDS.items():
            if command.run.__module__ == group.__name__:
                lines.append(f"  {name:<{width}}  {command.texts[0].removesuffix('.')}")
    return "\n".join([*lines, "", "`striate COMMAND --help` describes one."])
