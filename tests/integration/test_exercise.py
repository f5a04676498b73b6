"""The exercise as a notebook: its two files agree, and its cells run top to bottom."""

import re
import sys

import jupytext
import nbformat
import pytest
from clones import Clone
from paths import ROOT

NOTEBOOK = ROOT / "notebooks/exercise.ipynb"
MOST_BYTES = 500_000  # with all outputs; what a page on the web shows without waiting


def cells(path):
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def test_the_notebook_and_its_script_have_the_same_cells_and_no_outputs():
    assert cells(NOTEBOOK) == cells(NOTEBOOK.with_suffix(".py"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 8 <= len(code) <= 12
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def said(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.walk
def test_all_cells_run_in_a_clone(tmp_path):
    clone = Clone.of_this_tree(tmp_path / "striate")
    clone.env["PYTHONPATH"] = str(clone.folder / "src")  # the kernel starts in notebooks/
    clone.run(
        "jupyter", "execute", "notebooks/exercise.ipynb", "--output=executed", "--timeout=1000"
    )
    path = clone.folder / "notebooks/executed.ipynb"
    assert path.stat().st_size < MOST_BYTES
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    shown = [output.data for cell in code for output in cell.outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 4
    table = next(data["text/html"] for data in shown if "text/html" in data)
    assert all(f"<th>{name}</th>" in table for name in ("main", "deeper", "shifted", "longer"))
    text = "\n".join(map(said, code))
    assert "longer against main, the same 5 seeds: +" in text
    assert "ERROR" not in text
    assert "it/s" not in text
    assert "images/s" not in text  # no progress bars
    # The workspace keeps the network of params.yaml.
    assert clone.run("git", "status", "--short") == ""
    assert clone.json("metrics/test.json")["n"] == 360
    names = clone.run("dvc", "exp", "list", "--name-only").split()
    assert {"longer-seed4", "main-seed4"} <= set(names)


@pytest.mark.slow
def test_what_the_page_of_python_shows_runs(tmp_path):
    clone = Clone.of_this_tree(tmp_path / "striate", training__epochs=1, model__width=4)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.S)
    assert len(code) == 3
    last = "print(striate.runs().columns.tolist(), len(said))"
    printed = clone.run(sys.executable, "-W", "error", "-c", "\n".join([*code, last]))
    assert "'val_accuracy', 'test_accuracy', 'test_errors', 'parameters'" in printed
    assert printed.endswith(" 360\n")
