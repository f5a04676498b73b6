"""What scripts that no test runs take from the package is there."""

import ast
import importlib
import importlib.util

import pytest
from paths import ROOT

SCRIPTS = sorted(
    path
    for folder in ("benchmarks", "deploy", "tests/helpers", "stages")
    for path in (ROOT / folder).glob("*.py")
)


def names_taken(path):
    """Pairs of a module, of the package or beside the script, and a name that is taken from it."""
    tree = ast.parse(path.read_text())
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.module, alias.name
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
    for node in ast.walk(tree):
        named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if named and node.value.id in modules:
            yield modules[node.value.id], node.attr


def is_there(module, name):
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        return "." in module  # a class or a function, whose attributes are its own
    if hasattr(found, name):
        return True
    return importlib.util.find_spec(f"{module}.{name}") is not None


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_name_that_a_script_takes_is_there(path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    own = {"common"} if path.parent.name == "benchmarks" else set()
    for module, name in names_taken(path):
        if module.split(".")[0] == "striate" or module in own:
            assert is_there(module, name), f"{module} has no {name}"
