"""What the pages in docs/ say is so."""

import re
import runpy

import numpy as np
import pytest
from paths import ROOT

from striate.cli.table import COMMANDS
from striate.data import arrays, tensors
from striate.datasets import fetch
from striate.datasets.registry import DATASETS

PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_the_page_of_params_is_that_of_params_yaml():
    page = runpy.run_path(str(ROOT / "docs/make_params.py"))["page"]
    text = (ROOT / "params.yaml").read_text()
    assert (ROOT / "docs/params.md").read_text() == page(text)
    assert page(text.replace("seed: 0", "seed: 1")) != page(text)
    keys = re.findall(r"^  (\w+):", text, re.M)
    assert all(f".{key}` |" in page(text) for key in keys)
    assert page("seed: 0 # a|b *c* <d>").endswith("| `seed` | `0` | a\\|b \\*c\\* \\<d> |\n")


def test_the_page_of_commands_is_that_of_their_help():
    page = runpy.run_path(str(ROOT / "docs/make_cli.py"))["page"]()
    assert (ROOT / "docs/cli.md").read_text() == page
    for name, command in COMMANDS.items():
        assert f"### `striate {name}`" in page
        for flag in (flag for argument in command.arguments for flag in argument.flags):
            assert not flag.startswith("-") or flag in page


def test_the_page_of_params_says_which_stages_read_them():
    text = (ROOT / "docs/params.md").read_text()
    said = {
        section: re.search(rf"^## {section}\n(?:.*\n)*?(Read by .*)$", text, re.M)[1]
        for section in ("seed", "data", "training", "evaluate")
    }
    assert said == {
        "seed": "Read by train and visualize.",
        "data": "Read by train and visualize; download reads only `data.name`, `data.path`,"
        " `data.size`, `data.resize`, `data.test_size` and `data.leave_out`.",
        "training": "Read by train and visualize; evaluate reads only `training.device`,"
        " `training.deterministic` and `training.precision`.",
        "evaluate": "Read by evaluate and visualize.",
    }


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_a_page_links_to_exists(path):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
    outputs = (ROOT / "dvc.yaml").read_text()  # are not in a fresh clone
    for name in re.findall(r"`((?:src|stages|metrics|tests)/[\w/.]+)`", path.read_text()):
        assert (ROOT / name).exists() or f"- {name}\n" in outputs, name


def test_the_data_set_of_the_example_can_be_stored_and_read(tmp_path):
    code, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S)
    exec(code, {})
    dataset = DATASETS.pop("stripes")
    arrays.write(fetch.fetch(dataset, None), tmp_path)
    train = tensors.load_split(tmp_path, "train", "cpu")
    assert train.images.shape == (500, 1, 8, 8)
    pixels = train.images.numpy() / dataset.peak
    assert np.mean(pixels) == pytest.approx(dataset.mean[0], abs=5e-4)
    assert np.std(pixels) == pytest.approx(dataset.std[0], abs=5e-4)


def test_messages_in_the_troubleshooting_are_those_of_the_code():
    code = "".join(path.read_text() for path in (ROOT / "src/striate").rglob("*.py"))
    for said in (
        "could not be fetched", "the loss became", "does this training already",
        "failed, so this run is not logged there", "there is too little memory for this",
        "was begun with", "trials in a row failed",
    ):  # fmt: skip
        assert said in (ROOT / "docs/troubleshooting.md").read_text()
        assert said in code
