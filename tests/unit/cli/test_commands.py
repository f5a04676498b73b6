"""The table of commands: help, groups, errors of usage, start-up and completion."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import commands
import pytest

from striate import cli
from striate.cli import table

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "mlflow", "dvc", "optuna", "pydantic", "numpy", "yaml", "matplotlib", "shtab"}


def test_the_overview_lists_each_command_once_in_its_group(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["striate", "--help"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    groups = {}
    for line in capsys.readouterr().out.splitlines():
        if re.fullmatch(r"\w[\w ]+:", line):
            groups[line[:-1]] = listed = []
        elif line.startswith("  "):
            name, summary = line.split(maxsplit=1)
            assert len(line) <= 80
            assert summary[0].isupper()
            listed.append(name)
    assert groups == {
        "Run experiments": ["data", "recipe", "fetch", "repeat", "tune"],
        "Measure networks and recipes": ["ladder", "ablate", "doubts"],
        "Compare results": ["summary", "experiments", "compare", "pareto", "gate", "ui"],
        "Use a network": ["predict", "evaluate", "export", "promote", "serve"],
        "Share results": ["share", "board", "sync", "verify"],
        "Check the machine": ["doctor"],
        "Set up the shell": ["completion"],
    }
    assert sorted(name for names in groups.values() for name in names) == sorted(table.COMMANDS)


@pytest.mark.parametrize("name", table.COMMANDS)
def test_the_help_of_a_command_has_every_option_with_its_default_and_an_example_that_parses(
    name, monkeypatch, capsys
):
    with pytest.raises(SystemExit) as caught:
        table.parse([name, "--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    command = table.COMMANDS[name]
    for argument in command.arguments:
        assert argument.settings["help"]
        assert argument.flags[0] in shown or argument.settings.get("metavar", "{") in shown
        if "default" in argument.settings:
            assert f"(default: {argument.settings['default']})" in shown
    (example,) = re.findall(r"Example: .*?\bstriate ([^)]*)", shown)
    words = shlex.split(example)
    assert words[0] == name
    found, values = table.parse(words)
    assert found is command
    assert values.keys() <= command.run.__annotations__.keys() - {"return"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "name a command; see `striate --help`"),
        ("predit x", "no command is called 'predit'; did you mean predict?"),
        ("xyz", "no command is called 'xyz'; see `striate --help`"),
        ("--version", "no command is called '--version'; see `striate --help`"),
        ("tune --trails 3", "striate tune has no option --trails; did you mean --trials?"),
        ("tune --trial=3", "striate tune has no option --trial; did you mean --trials?"),
        ("predict x -q", "striate predict has no option -q; see `striate predict --help`"),
        ("tune", "the following arguments are required: --trials; see `striate tune --help`"),
        ("tune --trials x", "--trials: 'x' is not an integer; see `striate tune --help`"),
        ("predict x --top 0", "--top: 0 is not from 1 to 1,000,000; see `striate predict --help`"),
        ("predict x --top -1", "--top: -1 is not from 1 to 1,000,000; see"),
        ("serve --port 65536", "--port: 65536 is not from 0 to 65,535; see `striate serve --help`"),
        ("predict", "the following arguments are required: IMAGE|FOLDER; see `striate predict"),
        ("predict x --top", "--top: expected one argument; see `striate predict --help`"),
        ("predict x --why ''", "--why: the path is empty; see `striate predict --help`"),
        ("data --to ' '", "--to: the path is empty; see `striate data --help`"),
        ("summary x", "unrecognized arguments: x; see `striate summary --help`"),
    ],
)
def test_an_error_of_usage_is_one_line_and_status_2(monkeypatch, capsys, line, said):
    out, err = commands.run(monkeypatch, capsys, *shlex.split(line), status=2)
    assert out == ""
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1


def test_an_unknown_choice_names_the_choices(monkeypatch, capsys):
    _, err = commands.run(monkeypatch, capsys, "export", "--format", "onx", status=2)
    assert all(kind in err for kind in ("'onx'", "onnx", "pt2", "safetensors"))
    assert err.count("\n") == 1


def test_what_follows_two_dashes_is_no_option():
    _, values = table.parse(["predict", "--json", "--", "--odd.png"])
    assert values["paths"] == ["--odd.png"]


def test_a_command_is_one_function(monkeypatch, capsys):
    monkeypatch.setattr(table, "COMMANDS", dict(table.COMMANDS))
    monkeypatch.setattr(cli, "COMMANDS", table.COMMANDS)

    def double(count: int) -> None:
        """Double a number.

        Example: striate double --count 2
        """
        print(2 * count)

    double.__module__ = "striate.cli.share"
    table.command(table.argument("--count", type=table.number(0, 9), default=3, help="it"))(double)
    assert commands.run(monkeypatch, capsys, "double", "--count", "4") == ("8\n", "")
    assert commands.run(monkeypatch, capsys, "double") == ("6\n", "")
    assert re.search(r"Share results:\n(  .*\n)*  double      +Double a number\n", cli.overview())


def test_the_table_of_commands_needs_no_heavy_module():
    code = (
        "import sys; from striate.cli import overview; overview()\n"
        f"print(sorted({HEAVY} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("[]\n", "")


COMPLETE = """
eval "$(striate completion bash)"
read -ra COMP_WORDS <<< "$LINE"
[[ $LINE == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
$(complete -p striate | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """What bash offers for a line, in a repository with a recipe, an experiment and a tag."""
    folder = tmp_path_factory.mktemp("complete")
    (folder / "bin").mkdir()
    script = folder / "bin/striate"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m striate.cli "$@"\n')
    script.chmod(0o755)
    (folder / "recipes").mkdir()
    (folder / "recipes/quick.yaml").touch()
    (folder / "recipes/ladder").mkdir()
    for name in ("new", "_all"):
        (folder / f"recipes/ladder/{name}.yaml").touch()
    (folder / "weights/old").mkdir(parents=True)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
    for command in (
        ["init", "-q", "-b", "trunk"],
        ["commit", "-q", "--allow-empty", "-m", "x"],
        ["tag", "v1"],
        ["update-ref", f"refs/exps/ab/{'0' * 38}/deeper", "HEAD"],
        ["update-ref", "refs/exps/exec/EXEC_HEAD", "HEAD"],
    ):
        subprocess.run([*git, *command], check=True)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"

    def offered(line):
        found = subprocess.run(
            ["bash", "-c", COMPLETE], cwd=folder, capture_output=True, text=True, check=True,
            env=os.environ | {"PATH": path, "LINE": line},
        )  # fmt: skip
        assert found.stderr == ""
        return set(found.stdout.split())

    return offered


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("striate ", set(table.COMMANDS)),
        ("striate s", {"serve", "share", "summary", "sync"}),
        (
            "striate predict x --",
            {"--help", "--checkpoint", "--top", "--json", "--show", "--why", "--device"},
        ),
        ("striate serve --device ", {"auto", "cpu", "cuda", "mps"}),
        ("striate export --format ", {"onnx", "pt2", "safetensors"}),
        ("striate recipe ", {"quick", "ladder/new"}),
        ("striate ablate l", {"ladder/new"}),
        ("striate compare ", {"deeper", "trunk", "v1", "workspace"}),
        ("striate compare trunk d", {"deeper"}),
        ("striate fetch ", {"deeper", "trunk", "v1", "weights", "weights/old"}),
        ("striate fetch deeper --to rec", {"recipes"}),
    ],
)
def test_bash_completes(complete, line, expected):
    assert complete(line) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(monkeypatch, capsys, shell):
    out, err = commands.run(monkeypatch, capsys, "completion", shell)
    assert err == ""
    assert "git for-each-ref" in out
    assert all(name in out for name in table.COMMANDS)
    assert argparse.SUPPRESS not in out
