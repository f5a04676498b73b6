"""What VS Code and a dev container are told is there."""

import json
import re

from paths import ROOT

CONTAINER = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
RECOMMENDED = json.loads((ROOT / ".vscode/extensions.json").read_text())["recommendations"]


def test_the_container_has_the_oldest_python_that_is_supported():
    supported = re.search(r'requires-python = ">=(3\.\d+)', (ROOT / "pyproject.toml").read_text())
    assert re.search(r"python:(3\.\d+)", CONTAINER["image"])[1] == supported[1]


def test_the_container_ends_with_the_results():
    assert CONTAINER["postCreateCommand"] == "make repro"
    assert re.search(r"^repro:", (ROOT / "Makefile").read_text(), re.M)
    interpreter = CONTAINER["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    venv = re.search(r"^VENV := (\S+)", (ROOT / "Makefile").read_text(), re.M)[1]
    assert interpreter == f"${{containerWorkspaceFolder}}/{venv}/bin/python"


def test_the_container_has_the_extensions_that_are_recommended():
    assert CONTAINER["customizations"]["vscode"]["extensions"] == RECOMMENDED
    assert {"iterative.dvc", "ms-python.python", "ms-toolsai.jupyter"} <= set(RECOMMENDED)
