"""The table of commands: a function in a group's module, what it takes, and how that is parsed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from striate.errors import UserError

Run = TypeVar("Run", bound=Callable[..., None])


class Argument(NamedTuple):
    """An argument or option as `argparse` takes it, and what completes it in a shell."""

    flags: tuple[str, ...]
    settings: dict[str, Any]
    values: str | None


class Command(NamedTuple):
    """A function, and the arguments that it takes by name."""

    run: Callable[..., None]
    arguments: tuple[Argument, ...]

    @property
    def texts(self) -> tuple[str, str, str]:
        """The summary, the description and the example: the paragraphs of the docstring."""
        summary, *body, example = (
            " ".join(paragraph.split()) for paragraph in (self.run.__doc__ or "").split("\n\n")
        )
        return summary, " ".join([summary, *body]), example


COMMANDS: dict[str, Command] = {}


def argument(*flags: str, values: str | None = None, **settings: Any) -> Argument:
    """Describe an argument or option; a default is appended to its help.

    Args:
        flags: the name of an argument, or the flags of an option.
        values: what completes it, a key of `completion.VALUES`.
        settings: what `argparse.ArgumentParser.add_argument` takes.
    """
    if "default" in settings:
        settings["help"] += " (default: %(default)s)"
    return Argument(flags, settings, values)


def command(*arguments: Argument) -> Callable[[Run], Run]:
    """Register a function as the command of its name.

    Its docstring is the help: a summary, a description, and a paragraph `Example: striate …`.
    """

    def register(run: Run) -> Run:
        COMMANDS[run.__name__] = Command(run, arguments)
        return run

    return register


def number(least: int, most: int) -> Callable[[str], int]:
    """A type for `argument`: an integer within limits, both included."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r:.60} is not an integer") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not from {least} to {most:,}")
        return value

    return read


def a_path(text: str) -> Path:
    """A type for `argument`: the path of a file or folder; an unset shell variable gives none."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    if re.match(r"[A-Za-z][\w+.-]*://", text):
        raise argparse.ArgumentTypeError(f"{text} is an address; name a path on this machine")
    return Path(text)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line each."""

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` that names the help."""
        raise UserError(f"{message.removeprefix('argument ')}; see `{self.prog} --help`")


def add_arguments(parser: argparse.ArgumentParser, chosen: Command) -> None:
    """Give a parser the texts and the arguments of a command."""
    _, parser.description, parser.epilog = chosen.texts
    for flags, settings, values in chosen.arguments:
        action = parser.add_argument(*flags, **settings)
        action.complete = values  # type: ignore[attr-defined]  # completion.py reads it


def parse(words: Sequence[str]) -> tuple[Command, dict[str, Any]]:
    """The command that a command line names, and the values of its arguments.

    Raises:
        UserError: the line cannot be understood.
        SystemExit: it asked for help, which has been printed.
    """
    if not words:
        raise UserError("name a command; see `striate --help`")
    name, *rest = words
    if name not in COMMANDS:
        raise UserError(f"no command is called {name!r}{_suggestion(name, COMMANDS, 'striate')}")
    chosen = COMMANDS[name]
    parser = Parser(prog=f"striate {name}", allow_abbrev=False)
    add_arguments(parser, chosen)
    _check_options(rest, chosen, parser.prog)
    return chosen, vars(parser.parse_args(rest))


def _check_options(words: Sequence[str], chosen: Command, prog: str) -> None:
    """Refuse an unknown option before a missing one is complained of, which it may be."""
    known = ["-h", "--help", *(flag for argument in chosen.arguments for flag in argument.flags)]
    for word in words[: words.index("--") if "--" in words else None]:
        flag = word.partition("=")[0]
        is_option = flag.startswith("-") and not flag[1:2].isdigit() and flag != "-"
        if is_option and flag not in known:
            raise UserError(f"{prog} has no option {flag}{_suggestion(flag, known, prog)}")


def _suggestion(word: str, known: Sequence[str] | dict[str, Any], prog: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; see `{prog} --help`"
