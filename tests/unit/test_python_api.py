"""What `import striate` offers a notebook."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from repositories import start

import striate
from striate.data import arrays
from striate.datasets import fetch
from striate.errors import UserError
from striate.tracking import records
from striate.tracking.records import LeftOut, Name, Record

RANDOM = np.random.RandomState(0)
IMAGES = RANDOM.rand(6, 1, 8, 8).astype(np.float32)
LABELS = np.array([0, 1, 2, 2, 1, 0])


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository without results; the working directory is a folder in it."""
    start(tmp_path)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def record(name, seed, val, **changes):
    params = {"seed": seed, "model.layers": 2, "model.width": 16, "training.epochs": 5}
    params |= {key.replace("__", "."): value for key, value in changes.items()}
    train = {"train_loss": 0.2, "val_accuracy": val, "parameters": 100}
    test = {"accuracy": val - 0.01, "errors": 7, "n": 360}
    identity = {records.DATA: "d", "x": name}
    return Record([Name(name, "c", "b")], identity, params, train, test, "c", {}, [])


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import striate, sys;"
        "print(sorted({'numpy', 'pandas', 'torch', 'dvc', 'mlflow', 'matplotlib', 'pydantic'}"
        " & sys.modules.keys()), sorted({'load', 'runs', 'show'} - set(dir(striate))))"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said == "[] []\n"
    with pytest.raises(AttributeError, match="has no attribute 'sow'"):
        _ = striate.sow


def test_runs_have_a_row_for_each_seed_with_what_differs(repository, monkeypatch):
    found = [
        record("main-seed1", 1, 0.96),
        record("main", 0, 0.97),
        record("wide", 0, 0.99, model__width=[8, 32]),
    ]
    left_out = [LeftOut("old", "another pipeline")]
    monkeypatch.setattr(records, "find", lambda root: records.Found(found, left_out, None))
    with pytest.warns(UserWarning, match="left out: old: another pipeline"):
        table = striate.runs()
    assert list(table.index) == ["wide", "main", "main-seed1"]
    assert list(table.columns) == [
        "setting", "seed", "model.width", "val_accuracy", "test_accuracy", "test_errors",
        "parameters", "train_loss", "test_n",
    ]  # fmt: skip
    assert list(table["model.width"]) == ["[8, 32]", 16, 16]
    assert list(table["seed"]) == [0, 0, 1]
    means = table.groupby("setting")["val_accuracy"].mean()
    assert means.to_dict() == pytest.approx({"wide": 0.99, "main": 0.965})


def test_runs_that_repeat_a_seed_are_left_out_and_named(repository, monkeypatch):
    found = [record("main", 0, 0.97), record("again", 0, 0.96)]
    monkeypatch.setattr(records, "find", lambda root: records.Found(found, [], None))
    with pytest.warns(UserWarning, match="repeat a seed: again"):
        assert list(striate.runs().index) == ["main"]


def test_without_an_experiment_or_a_repository_the_message_says_so(
    repository, tmp_path_factory, monkeypatch
):
    with pytest.raises(UserError, match="no experiment has finished here yet"):
        striate.runs()
    with pytest.raises(UserError, match=r"manifest\.json is not there; `dvc repro` makes it"):
        striate.load()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(UserError, match="is not in a DVC repository"):
        striate.runs()


def test_data_come_by_name_and_from_the_repository(repository, monkeypatch):
    by_name = striate.load("digits")
    fetch.prepare("digits", repository / "data", None)
    monkeypatch.setattr(fetch, "fetch", None)  # data/ holds them
    for data in (by_name, striate.load("digits"), striate.load()):
        assert (data.name, data.classes) == ("digits", list("0123456789"))
        assert data.train_images.shape == (1437, 1, 8, 8)
        assert data.test_images.shape == (360, 1, 8, 8)
        assert (data.train_images.dtype, data.train_images.max()) == (np.float32, 1)
        assert np.bincount(data.test_labels).sum() == 360
        assert (data.train_labels == by_name.train_labels).all()
        assert (data.test_images == by_name.test_images).all()
    pixels, _ = arrays.map_split(repository / "data", "test")
    assert (by_name.test_images * 16 == pixels).all()


def test_an_unknown_data_set_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r"no data set is called 'mnits'; there are cifar10, .*mni"):
        striate.load("mnits")
    with pytest.raises(UserError, match=r"load\(\) without a name reads your own images"):
        striate.load("folder")


def texts(picture):
    return [text.get_text() for axes in picture.figure.axes for text in axes.texts]


def test_pictures_have_the_names_of_classes_or_what_a_network_said(tmp_path):
    plain = striate.show(IMAGES[:, 0])
    assert (texts(plain), plain.figure.get_suptitle()) == ([""] * 6, "6 images")
    assert texts(striate.show(IMAGES, LABELS)) == list("012210")
    named = striate.show(IMAGES, LABELS, classes=np.array(["cat", "dog", "emu"]))
    assert texts(named)[:3] == ["cat", "dog", "emu"]
    guesses = [0, 1, 2, 3, 1, 0]
    judged = striate.show(IMAGES, LABELS, guesses)
    assert texts(judged) == ["0:0", "1:1", "2:2", "3:2", "1:1", "0:0"]
    assert judged.figure.get_suptitle() == "predicted:true, 5 of 6 images correct"
    assert len(judged.figure.axes[0].patches) == 1
    judged.save(tmp_path / "judged.png")
    content, shown = judged._repr_png_()
    assert content == (tmp_path / "judged.png").read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        assert 0 < shown["width"] < image.width


@pytest.mark.parametrize(
    ("arguments", "classes", "message"),
    [
        ((np.zeros((6, 1, 8, 8), np.uint8),), None, "must be floats in 0..1, not uint8"),
        ((IMAGES[0, 0],), None, "images must be "),
        ((np.zeros((401, 1, 2, 2)),), None, r"401 images are too many to show; try images\[:100\]"),
        ((IMAGES, LABELS[:5]), None, "6 images need as many labels"),
        ((IMAGES, []), None, r"6 images need as many labels, not \(0,\)"),
        ((IMAGES, LABELS / 2), None, "labels must be integers"),
        ((IMAGES, list("abccba")), None, "labels must be integers"),
        ((IMAGES, [np.nan] * 6), None, "labels must be integers"),
        ((IMAGES, LABELS, []), None, r"6 images need as many labels, not \(0,\)"),
        ((IMAGES, -1 - LABELS), None, "labels and predictions must be 0 or more"),
        ((IMAGES, -1 - LABELS), list("abc"), "labels span -3..-1 but there are 3 class names"),
        ((IMAGES * 16,), None, r"pixels span 0.*; they must be in 0..1: divide those of 8 bits"),
        ((IMAGES - 0.5,), None, "pixels span -0.4.*; they must be in 0..1$"),
        ((IMAGES * np.nan,), None, "pixels span nan..nan; they must be in 0..1"),
        ((IMAGES, LABELS), 5, "classes must be a list of names, not 5"),
        ((IMAGES, LABELS), "abc", "classes must be a list of names, not 'abc'"),
        ((IMAGES, LABELS), np.array([]), "labels span 0..2 but there are 0 class names"),
        ((IMAGES, LABELS), ["cat", "dog"], "labels span 0..2 but there are 2 class names"),
        ((IMAGES, LABELS, LABELS + 1), ["a", "b", "c"], "labels span 1..3 but there are 3 class"),
        ((IMAGES, None, LABELS), None, "predicted needs the true labels"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments, classes, message):
    with pytest.raises(ValueError, match=message):
        striate.show(*arguments, classes=classes)


def test_a_tensor_with_gradients_is_shown_as_its_values_are():
    tensor = torch.from_numpy(IMAGES).requires_grad_()
    shown, expected = striate.show(tensor), striate.show(IMAGES)
    assert shown._repr_png_() == expected._repr_png_()


@pytest.mark.parametrize("name", ["", "x.foo", "noext"])
def test_a_picture_is_saved_under_the_name_of_a_picture(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"the name of a picture must end with \.png, not '"):
        striate.show(IMAGES).save(name)
    assert list(tmp_path.iterdir()) == []
