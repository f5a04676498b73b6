"""Write docs/cli.md from the commands' own descriptions, which are the home of these facts."""

from pathlib import Path

from cells import cell

from striate.cli import GROUPS
from striate.cli.table import COMMANDS, Argument, Command

ROOT = Path(__file__).parent.parent
HEAD = """# Every command

From the help texts of [`src/striate/cli/`](../src/striate/cli/), by `make docs`. In the shell,
`striate --help` lists the commands and `striate COMMAND --help` describes one.
"""


def page() -> str:
    """All commands by group, in the order of `striate --help`."""
    lines = [HEAD]
    for group in GROUPS:
        lines += [f"## {(group.__doc__ or '').splitlines()[0].removesuffix('.')}", ""]
        for name, command in COMMANDS.items():
            if command.run.__module__ == group.__name__:
                lines += [*described(name, command), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def described(name: str, command: Command) -> list[str]:
    """The section of one command: what it does, its arguments in a table, an example."""
    _, description, example = command.texts
    lines = [f"### `striate {name}`", "", description, ""]
    if command.arguments:
        lines += ["| argument | what it is |", "|---|---|"]
        lines += [row(argument) for argument in command.arguments]
        lines.append("")
    return [*lines, f"Example: `{example.removeprefix('Example: ')}`"]


def row(argument: Argument) -> str:
    """A row of the table: flags with the values that they take, and the help."""
    settings = argument.settings
    value = settings.get("metavar") or "|".join(settings.get("choices", ()))
    shown = ", ".join(argument.flags)
    if not argument.flags[0].startswith("-"):
        shown = (value or shown) + (" ..." if settings.get("nargs") == "+" else "")
    elif settings.get("action") != "store_true":
        shown += f" {value or argument.flags[-1].lstrip('-').upper()}"
    said = settings["help"] % settings
    said = said.removesuffix(" (default: None)") + " (required)" * settings.get("required", False)
    return "| `{}` | {} |".format(shown.replace("|", "\\|"), cell(said))


if __name__ == "__main__":
    (ROOT / "docs/cli.md").write_text(page())
