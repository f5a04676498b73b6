"""Which stages DVC would run after an edit of each package."""

import json

import pytest
from clones import ROOT, Clone

STAGES = {"download", "train", "evaluate", "visualize"}
# Package → the stages whose outputs it shapes. What is not named here shapes none.
SHAPES = {
    "data": STAGES,
    "datasets": {"download"},
    "models": STAGES - {"download"},
    "training": {"train"},
    "evaluation": {"evaluate", "visualize"},
    "reporting": {"visualize"},
}
PACKAGE = ROOT / "src/striate"
PACKAGES = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
MODULES = sorted(path.name for path in PACKAGE.glob("*.py"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return Clone.of_this_tree(tmp_path_factory.mktemp("edits") / "striate")


def stages_out_of_date(clone):
    """The stages that `dvc repro` would run, but for what follows from their new outputs."""
    return set(json.loads(clone.run("dvc", "status", "--json")))


def edit(clone, path, before="", after="\n# Edited.\n"):
    """Change a file of the package; returns the stages that are then out of date."""
    file = clone.folder / "src/striate" / path
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after) if before else text + after)
    try:
        return stages_out_of_date(clone)
    finally:
        file.write_text(text)


def test_every_package_is_in_the_table():
    assert SHAPES.keys() <= set(PACKAGES)


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_an_edit_of_a_package_runs_the_stages_that_it_shapes(clone, package):
    assert edit(clone, f"{package}/__init__.py") == SHAPES.get(package, set())


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_an_edit_of_a_module_beside_the_packages_runs_none(clone, module):
    assert edit(clone, module) == set()


@pytest.mark.slow
def test_compiled_code_is_no_edit(clone):
    folder = clone.folder / "src/striate/models/__pycache__"
    folder.mkdir(exist_ok=True)
    (folder / "anything.cpython-311.pyc").write_bytes(b"compiled")
    assert stages_out_of_date(clone) == set()
