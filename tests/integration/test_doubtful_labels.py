"""`striate doubts` on images of which some have a wrong label."""

import csv

import numpy as np
import pytest
from clones import Clone
from PIL import Image

WRONG = {
    "train/dark/05.png": "bright",
    "train/bright/11.png": "dark",
    "train/bright/20.png": "dark",
}
COUNT = 40


def fill(folder):
    """Dark and bright images, of which three lie in the wrong folder."""
    random = np.random.RandomState(0)
    for name, level in (("dark", 60), ("bright", 190)):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(COUNT):
            file = f"train/{name}/{number:02d}.png"
            own = {"dark": 60, "bright": 190}[WRONG.get(file, name)] if file in WRONG else level
            pixels = (own + random.randint(-30, 30, (12, 12))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / file)


@pytest.mark.slow
def test_wrong_labels_come_first_and_can_be_left_out(tmp_path):
    clone = Clone.of_this_tree(
        tmp_path / "repository", training__epochs=8, model__width=4, training__batch_size=16
    )
    fill(clone.folder / "images")
    own = ["-S", "data.name=folder", "-S", "data.path=images", "-S", "data.test_size=0.1"]
    planned = clone.striate("doubts", *own, "--folds", "4", "--dry-run")
    assert planned.endswith("\n4 trainings would run\n")
    said = clone.striate("doubts", *own, "--folds", "4")
    assert (
        " of 72 training images are classified otherwise than labelled; confident learning " in said
    )
    folder = clone.folder / "reports/doubts"
    rows = list(csv.DictReader((folder / "doubts.csv").read_text().splitlines()))
    trained_on = {row["file"] for row in rows[:3]}
    held_for_test = {*WRONG} - trained_on
    assert trained_on <= {*WRONG}
    assert len(held_for_test) <= 1
    for row in rows[:2]:
        assert row["suggested"] == WRONG[row["file"]]
    page = (folder / "index.html").read_text()
    assert rows[0]["file"] in page
    assert page.count("<figure") == len(rows)
    listed = clone.folder / "kept_out.txt"
    listed.write_text("".join(f"{row['file']}\n" for row in rows[:2]))
    clone.run("dvc", "exp", "run", *own, "-S", "data.leave_out=kept_out.txt")
    assert '"count": 70' in (clone.folder / "data/manifest.json").read_text()
    # All is there: nothing trains again.
    clone.run("git", "checkout", "params.yaml")
    said = clone.striate("doubts", *own, "--folds", "4", "--test", "--to", "reports/of_test")
    assert "0 experiments to run" in said
    assert " of 8 test images are classified otherwise than labelled; confident learning " in said
    table = (clone.folder / "reports/of_test/doubts.csv").read_text().splitlines()
    assert table[0].startswith("file,index,label,suggested,")
    assert {row.split(",")[0] for row in table[1:]} == held_for_test
    assert not (clone.folder / "reports/of_test/leave_out.txt").exists()
    clone.settle()
