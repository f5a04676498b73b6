"""The shape of the tests: what they share lies in tests/helpers, and names are unique."""

import ast
from collections import Counter

import pytest
from conftest import LONG
from paths import ROOT

MODULES = sorted((ROOT / "tests").rglob("test_*.py"))
NAMES = Counter(path.stem for path in MODULES)


def imported(path):
    """The modules that a file imports, at its top or in its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize(
    "path", [*MODULES, *(ROOT / "tests/helpers").glob("*.py")], ids=lambda path: path.name
)
def test_no_module_imports_a_test_module(path):
    assert NAMES.keys() & set(imported(path)) == set()


def test_test_modules_have_names_of_their_own():
    assert max(NAMES.values()) == 1
    assert {f"test_{name}" for name in LONG} <= NAMES.keys()
