"""Labelled images that no stage has read: `striate evaluate`."""

import shutil

import commands
import numpy as np
import pytest
from checkpoints import CPU, make_network
from PIL import Image

from striate.serving import inference


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A network, and a folder of 30 images; those of two classes are none of the network's."""
    monkeypatch.chdir(tmp_path)
    trained = make_network(tmp_path / "models")
    images = np.random.RandomState(0).randint(0, 256, (30, 8, 8), np.uint8)
    for number, pixels in enumerate(images):
        file = tmp_path / f"{number:02d}.png"
        Image.fromarray(pixels).save(file)
        (found,) = inference.classify([file], trained, CPU)
        probabilities = found.prediction.probabilities
        guess = probabilities.index(max(probabilities))
        folder = tmp_path / "private" / "abc"[(guess + (number > 26) + (number > 28)) % 3]
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / file.name)
    return tmp_path


def rows(out):
    return [line.split("  ") for line in out.splitlines()[2:]]


def test_the_accuracy_on_a_private_folder_with_its_interval_best_first(place, monkeypatch, capsys):
    make_network(place / "other", confidence=None)
    out, err = commands.run(monkeypatch, capsys, "evaluate", "private", "models", "other")
    assert err == ""
    (name, *cells), (second, *_) = ([c.strip() for c in row if c.strip()] for row in rows(out))
    assert (name, second) == ("models", "other")
    assert cells == ["90.00%", "74.38 to 96.54%", "3 of 30"]


def test_of_a_folder_with_a_test_part_that_part_counts(place, monkeypatch, capsys):
    for folder in sorted((place / "private").iterdir()):
        (place / "whole/test" / folder.name).mkdir(parents=True)
        shutil.copytree(folder, place / "whole/train" / folder.name)
        next(folder.iterdir()).rename(place / "whole/test" / folder.name / "one.png")
    out, _ = commands.run(monkeypatch, capsys, "evaluate", "whole", "models")
    assert "2 of 3" in out


def test_what_cannot_be_scored_is_named_and_the_others_go_on(place, monkeypatch, capsys):
    out, err = commands.run(
        monkeypatch, capsys, "evaluate", "private", "none", "models", status=1
    )  # fmt: skip
    assert err.startswith("error: none: none is not a folder")
    _, err = commands.run(monkeypatch, capsys, "evaluate", "private", "", status=1)
    assert err.startswith("error: : the name of a network is empty")
    assert [row[0] for row in rows(out)] == ["models"]
    (place / "private/a").rename(place / "private/unknown")
    out, err = commands.run(monkeypatch, capsys, "evaluate", "private", "models", status=1)
    assert (out, err) == (
        "",
        "error: models: it was not trained on the class 'unknown'; it knows a, b, c\n",
    )


def test_a_folder_that_is_not_there_is_one_line(place, monkeypatch, capsys):
    _, err = commands.run(monkeypatch, capsys, "evaluate", "nothing", "models", status=2)
    assert err == "error: nothing is not there; name a folder with a folder for each class\n"


def test_a_broken_image_is_named(place, monkeypatch, capsys):
    (place / "private/a/broken.png").write_bytes(b"no image")
    out, err = commands.run(monkeypatch, capsys, "evaluate", "private", "models", "x", status=2)
    assert out == ""
    assert err.startswith("error: private/a/broken.png cannot be read")
    assert err.count("\n") == 1


def test_a_test_part_alone_counts_and_what_is_skipped_is_said(place, monkeypatch, capsys):
    (place / "only").mkdir()
    (place / "private").rename(place / "only/test")
    (place / "only/test/a/notes.txt").write_text("x")
    out, err = commands.run(monkeypatch, capsys, "evaluate", "only", "models")
    assert "3 of 30" in out
    assert err == "note: 1 file skipped: 1 .txt\n"


def test_a_file_is_no_folder(place, monkeypatch, capsys):
    (place / "labels.csv").write_text("path,label")
    _, err = commands.run(monkeypatch, capsys, "evaluate", "labels.csv", "models", status=2)
    assert err == "error: labels.csv is a file; name a folder with a folder for each class\n"
