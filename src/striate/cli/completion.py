"""Set up the shell."""

from __future__ import annotations

import argparse
from typing import Any

from striate.cli.table import COMMANDS, add_arguments, argument, command

# What prints the values of an argument: for bash, zsh and fish alike, so without globs or `$`.
RECIPES = "find recipes -type f 2>/dev/null | grep -v /_ | sed -n 's/.yaml//; s/recipes.//p'"
EXPERIMENTS = (
    "git for-each-ref --format='%(refname:lstrip=4)' refs/exps 2>/dev/null;"
    " git for-each-ref --format='%(refname:lstrip=2)' refs/heads refs/tags 2>/dev/null"
)
FOLDERS = "find models weights -maxdepth 1 -type d 2>/dev/null"
VALUES = {
    "recipes": RECIPES,
    "experiments": f"{EXPERIMENTS}; echo workspace",
    "sources": f"{EXPERIMENTS}; {FOLDERS}",
}


@command(argument("shell", choices=("bash", "zsh", "fish"), help="which one you use"))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    It completes commands, options, choices, recipes and experiments; for fish, write `striate
    completion fish | source`.

    Example: eval "$(striate completion bash)"
    """
    import shtab

    parser = argparse.ArgumentParser("striate")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, chosen in COMMANDS.items():
        subparser = commands.add_parser(name, help=chosen.texts[0])
        add_arguments(subparser, chosen)
        for action in subparser._actions:
            values = getattr(action, "complete", None)
            if values in VALUES:
                action.complete = _completer(values)  # type: ignore[attr-defined]
            elif values is None and hasattr(action, "complete"):
                del action.complete
    print(shtab.complete(parser, shell))


def _completer(values: str) -> dict[str, Any]:
    """What shtab takes: a function for bash and zsh, which asks at each Tab, a command for fish."""
    function = f"_striate_{values}"
    return {
        "bash": function,
        "zsh": function,
        "fish": f"({VALUES[values]})",
        "preamble": {
            "bash": f'{function}() {{ compgen -W "$({VALUES[values]})" -- "$1"; }}',
            "zsh": f'{function}() {{ compadd -- ${{(f)"$({VALUES[values]})"}}; }}',
        },
    }
