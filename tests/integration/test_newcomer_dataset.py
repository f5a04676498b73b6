"""Add a data set as a newcomer would: one new file, its name in params.yaml, `make docs`."""

import hashlib
import re

import numpy as np
import pytest
import yaml
from clones import ROOT, Clone

MODULE = '''"""Bright squares in the left or in the right half, from one published file."""

from striate.datasets.registry import Dataset, File, register


def read(folder):
    """Read the arrays of the training and of the test set."""
    import numpy as np

    from striate.data.arrays import LabeledImages

    with np.load(folder / "squares.npz") as arrays:
        train, test = (
            LabeledImages(arrays[f"{split}_images"], arrays[f"{split}_labels"])
            for split in ("train", "test")
        )
    return train, test


register(
    Dataset(
        name="squares",
        classes=("left", "right"),
        shape=(1, 8, 8),
        counts=(200, 100),
        peak=255,
        mean=(0.2,),
        std=(0.3,),
        read=read,
        page="https://example.org/squares",
        licence="CC0",
        file_sets=((File("squares.npz", SIZE, "SHA256"),),),
    )
)
'''
PATH = "src/striate/datasets/squares.py"
STAGES = ("download", "train", "evaluate", "visualize")


def publish(mirror):
    """Write the published file; returns its size and SHA-256."""
    random = np.random.RandomState(0)
    arrays = {}
    for split, count in (("train", 200), ("test", 100)):
        labels = np.arange(count) % 2
        images = random.randint(0, 60, (count, 1, 8, 8), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[0, 2:6, 4 * label : 4 * label + 4] += 180
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    mirror.mkdir()
    np.savez(mirror / "squares.npz", **arrays)
    content = (mirror / "squares.npz").read_bytes()
    return len(content), hashlib.sha256(content).hexdigest()


def ran(said):
    return [stage for stage in STAGES if f"Running stage '{stage}'" in said]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A commit of this tree, and in its working tree what the newcomer changes."""
    folder = tmp_path_factory.mktemp("newcomer")
    size, sha256 = publish(folder / "mirror")
    clone = Clone.unrun(folder / "striate", {"STRIATE_MIRROR": str(folder / "mirror")})
    params = (ROOT / "params.yaml").read_text()
    (clone.folder / "params.yaml").write_text(params)
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "Start.")
    (clone.folder / PATH).write_text(MODULE.replace("SIZE", str(size)).replace("SHA256", sha256))
    params, count = re.subn(
        r"(?m)^(  name: )digits( +# )", r"\1squares\2squares (1×8×8, 200 + 100 images) | ", params
    )
    assert count == 1
    (clone.folder / "params.yaml").write_text(params)
    clone.run("python", "docs/make_params.py")  # make docs
    return clone


@pytest.fixture(scope="module")
def said(clone):
    """What `dvc repro` printed."""
    touched = clone.run("git", "status", "--porcelain").splitlines()
    assert sorted(line[3:] for line in touched) == ["docs/params.md", "params.yaml", PATH]
    return clone.run("dvc", "repro")


@pytest.mark.slow
def test_all_stages_run_on_it(clone, said):
    assert ran(said) == list(STAGES)
    assert "squares: 200 training and 100 test images in data/" in said
    assert clone.json("metrics/test.json")["accuracy"] > 0.95
    assert clone.json("data/source.json") == {
        "name": "squares", "page": "https://example.org/squares", "licence": "CC0",
    }  # fmt: skip


@pytest.mark.slow
def test_it_is_named_in_messages_reports_and_docs(clone, said):
    path = clone.folder / "params.yaml"
    params = path.read_text()
    path.write_text(params.replace("name: squares ", "name: square "))
    error = clone.run("dvc", "repro", status=255)
    path.write_text(params)
    assert re.search(r"data\.name is 'square'; it must be one of .*\bsquares\b", error)
    assert "squares" in clone.striate("summary")
    card = (clone.folder / "reports/model_card.md").read_text()
    assert "squares, https://example.org/squares. Its publisher states this licence: CC0" in card
    assert "squares (1×8×8, 200 + 100 images)" in (clone.folder / "docs/params.md").read_text()


@pytest.mark.slow
def test_an_edit_of_the_licence_trains_and_evaluates_nothing(clone, said):
    module = clone.folder / PATH
    module.write_text(module.read_text().replace("CC0", "CC BY 4.0"))
    assert ran(clone.run("dvc", "repro")) == ["download", "visualize"]
    assert clone.json("data/source.json")["licence"] == "CC BY 4.0"
    assert "states this licence: CC BY 4.0" in (clone.folder / "reports/model_card.md").read_text()


@pytest.mark.slow
def test_an_experiment_from_before_its_source_was_stored_is_whole(clone, said):
    path = clone.folder / "dvc.lock"
    lock = yaml.safe_load(path.read_text())
    for stage in lock["stages"].values():
        for kind in ("deps", "outs"):
            stage[kind] = [file for file in stage[kind] if file["path"] != "data/source.json"]
    path.write_text(yaml.safe_dump(lock, sort_keys=False))
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "Run.")
    clone.striate("sync")
    assert "left out" not in clone.striate("experiments")
    assert "MLflow agrees with DVC on" in clone.striate("verify")
