"""Folders of one's own, of unequal classes and of many: what is measured, shown and refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as reference
from stages import STAGES, fail_stage, run_stage, write_params

from striate.data import arrays

UNEQUAL = {"common": 40, "some": 15, "rare": 6}


def fill(folder, sizes):
    """Noise of one colour for each class, which overlap."""
    random = np.random.RandomState(0)
    for name, count in sizes.items():
        (folder / name).mkdir(parents=True)
        colour = random.randint(60, 200, 3)
        for number in range(count):
            noise = random.randint(-60, 60, (8, 8, 3)) + random.randint(-60, 60, 3)
            picture = Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8))
            picture.save(folder / name / f"{number:02d}.png")


@pytest.fixture
def work(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("STRIATE_TRACKING", "off")
    return folder


def run(work, sizes, stages=STAGES, **changes):
    """Run stages on a folder of such classes."""
    place = work.parent / "pictures"
    if not place.exists():
        fill(place / "train", sizes)
    write_params(
        work, data__name="folder", data__path=str(place), training__batch_size=8,
        training__epochs=3, **changes,
    )  # fmt: skip
    for name in stages:
        run_stage(name)


def predicted():
    """The labels and the logits of the test images."""
    return np.load("data/test/labels.npy"), np.load("predictions/logits.npy")


def weights():
    return torch.load("models/cnn_trained.ckpt")


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_unequal_classes_are_weighted_and_their_balanced_accuracy_is_shown(work, capsys):
    run(work, UNEQUAL, training__class_weights="balanced")
    said = capsys.readouterr().out
    sizes = np.bincount(np.load("data/train/labels.npy"))
    assert re.search(r", on cpu, .*class weights from 0\.\d+ to \d\.\d+$", said, re.M)
    assert sizes.max() > 2 * sizes.min()
    labels, logits = predicted()
    test = json.loads(Path("metrics/test.json").read_text())
    assert list(test) == ["accuracy", "loss", "macro_f1", "balanced_accuracy", "ece", "errors", "n"]
    expected = reference.balanced_accuracy_score(labels, logits.argmax(1))
    assert test["balanced_accuracy"] == pytest.approx(expected)
    shown = f"{expected:.2%}"
    assert f"; balanced accuracy {shown};" in said
    page = Path("reports/index.html").read_text()
    assert re.search(rf">balanced accuracy</span><b>{shown}</b><span [^>]*>mean recall", page)
    card = Path("reports/model_card.md").read_text()
    assert re.search(rf"^\| balanced accuracy \(bootstrap\) \| {shown} \| [\d.]+ to [\d.]+% \|$",
                     card, re.M)  # fmt: skip


def test_so_many_of_each_class_are_trained_on_wherever_images_lie(work, capsys):
    run(work, UNEQUAL, STAGES[:2], data__per_class=3, data__residency="device")
    assert "9 images in memory" in capsys.readouterr().out
    first = weights()
    run(work, UNEQUAL, STAGES[1:2], data__per_class=3, data__residency="disk")
    assert "9 images on disk" in capsys.readouterr().out
    assert same(weights(), first)
    # Equal classes have equal weights.
    run(work, UNEQUAL, STAGES[1:], data__per_class=3, training__class_weights="balanced")
    assert "class weights from 1 to 1" in capsys.readouterr().out
    card = Path("reports/model_card.md").read_text()
    assert "\nOf those that were not held out, 3 of each class were drawn to train on.\n" in card
    assert "3 epochs of adam on 9 images" in card
    assert "was trained on 9 images of folder" in Path("reports/index.html").read_text()


def test_more_than_a_class_has_is_one_line_and_status_2(work, capsys):
    run(work, UNEQUAL, STAGES[:1], data__per_class=40)
    left = min(arrays.load_manifest(Path("data"))["train"]["per_class"])
    assert left == 5
    assert fail_stage("train", capsys) == (
        "error: data.per_class is 40; the largest possible value is 4: class rare has no more"
        " images beside the validation set\n"
    )
    assert not Path("models").exists()
    for key, wrong, said in (
        (
            "data__per_class",
            -1,
            "data.per_class is -1; it must be a whole number from 0 to 1000000",
        ),
        (
            "training__class_weights",
            "equal",
            "training.class_weights is equal; it must be one of none, balanced",
        ),
    ):
        write_params(work, **{key: wrong})
        err = fail_stage("train", capsys)
        assert err.count("\n") == 1
        assert said in err.replace("'", "")


def test_of_twelve_classes_the_likeliest_five_count(work, capsys):
    run(work, {f"class{number:02d}": 10 for number in range(12)})
    labels, logits = predicted()
    test = json.loads(Path("metrics/test.json").read_text())
    assert list(test) == ["accuracy", "loss", "macro_f1", "top5_accuracy", "ece", "errors", "n"]
    expected = reference.top_k_accuracy_score(labels, logits, k=5)
    assert test["top5_accuracy"] == pytest.approx(expected)
    assert f"; top-5 accuracy {expected:.2%};" in capsys.readouterr().out
    assert f">top-5 accuracy</span><b>{expected:.2%}</b>" in Path("reports/index.html").read_text()
    card = Path("reports/model_card.md").read_text()
    assert re.search(r"^\| top-5 accuracy \(Wilson\) \| [\d.]+% \| [\d.]+ to [\d.]+% \|$", card,
                     re.M)  # fmt: skip
