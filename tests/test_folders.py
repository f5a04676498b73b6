"""A person's own pictures as a data set."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from test_stages import STAGES, fail_stage, run_stage, write_params

from striate import datasets, folders, images
from striate.datasets import DataError

GREEN, RED = (20, 200, 30), (200, 20, 30)


def fill(folder, colours, count=10, size=(12, 12), seed=0, mode="RGB"):
    """A folder of noisy pictures of one colour for each class."""
    random = np.random.RandomState(seed)
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            noisy = np.array(colour) + random.randint(-20, 20, (*size[::-1], 3))
            picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)
            picture.save(folder / name / f"{number:02d}.png")


COLOURS = {"grass": GREEN, "brick": RED}


@pytest.fixture
def place(tmp_path):
    fill(tmp_path / "train", COLOURS)
    return tmp_path


def test_classes_are_the_folders_and_a_part_of_each_is_kept_for_the_test(place):
    found = folders.read(place, 0, 0.2)
    assert found.classes == ("brick", "grass")
    assert found.train.images.shape == (16, 3, 12, 12)
    assert np.bincount(found.test.labels).tolist() == [2, 2]
    for part in (found.train, found.test):
        reddish = part.images[:, 0].mean((1, 2)) > part.images[:, 1].mean((1, 2))
        assert (reddish == (part.labels == 0)).all()
    values = found.train.images / 255
    assert found.mean == pytest.approx(values.mean((0, 2, 3)), abs=1e-4)
    assert found.std == pytest.approx(values.std((0, 2, 3)), abs=1e-4)
    again = folders.read(place, 0, 0.2)
    assert (again.test.images == found.test.images).all()


def test_a_folder_test_is_taken_as_it_is(place):
    fill(place / "test", COLOURS, count=3, seed=1)
    found = folders.read(place, 0, 0.2)
    assert (len(found.train.labels), len(found.test.labels)) == (20, 6)
    assert found.twins == ()


def test_pictures_of_all_sizes_are_resized(place):
    fill(place / "train", {"grass": GREEN}, count=2, size=(40, 20), seed=1)
    said = r"is of 40×20 pixels, and .* of 12×12; set data\.size"
    with pytest.raises(DataError, match=said):
        folders.read(place, 0, 0.2)
    assert folders.read(place, 8, 0.2).train.images.shape[1:] == (3, 8, 8)


def test_gray_files_give_one_channel(tmp_path):
    fill(tmp_path / "train", COLOURS, mode="L")
    assert folders.read(tmp_path, 0, 0.2).train.images.shape[1] == 1
    fill(tmp_path / "train", {"brick": RED}, count=1)
    assert folders.read(tmp_path, 0, 0.2).train.images.shape[1] == 3


def test_pictures_that_are_in_both_parts_are_reported(place):
    fill(place / "test", COLOURS, count=2, seed=1)
    copy = place / "test/brick/copy.bmp"
    Image.open(place / "train/brick/03.png").save(copy)
    found = folders.read(place, 0, 0.2)
    assert found.twins == ((str(place / "train/brick/03.png"), str(copy)),)


def test_files_that_cannot_be_read_are_listed(place):
    for name in ("brick/03.png", "grass/05.png"):
        (place / "train" / name).write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        folders.read(place, 0, 0.2)
    for name in ("brick/03.png", "grass/05.png"):
        assert f"{place}/train/{name} cannot be read: it is no picture" in str(caught.value)
    assert "mend these files, or move them out" in str(caught.value)


def empty(place):
    for path in (place / "train").rglob("*.png"):
        path.unlink()


def one_class(place):
    shutil.rmtree(place / "train/brick")


def too_few(place):
    for path in list((place / "train/brick").glob("*"))[1:]:
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda place: (place / "train").rename(place / "other"), "train is no folder; data.path"),
        (empty, "train has folders without a picture: brick, grass; fill or remove them"),
        (one_class, "must have a folder of pictures for each of two classes"),
        (too_few, "the class brick has too few pictures for data.test_size=0.2"),
        (lambda place: fill(place / "test", {"grass": GREEN}), "in one only: brick"),
    ],
)
def test_a_folder_that_cannot_be_a_data_set_is_explained(place, spoil, said):
    spoil(place)
    with pytest.raises(DataError, match=re.escape(said)):
        folders.read(place, 0, 0.2)


def test_more_than_memory_holds_is_refused_before_it_is_taken(place, monkeypatch):
    monkeypatch.setattr(folders, "MOST_BYTES", 1000)
    with pytest.raises(DataError, match="20 pictures of 12×12 pixels, more than fit"):
        folders.read(place, 0, 0.2)


def test_all_stages_take_a_folder_and_say_which_pictures_are_in_both_parts(
    place, monkeypatch, capsys
):
    fill(place / "test", COLOURS, count=4, seed=1)
    Image.open(place / "train/brick/03.png").save(place / "test/brick/copy.png")
    work = place / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("STRIATE_TRACKING", "off")
    write_params(
        work, data__name="folder", data__path=str(place), data__size=8, model__layers=1,
        training__epochs=20, training__batch_size=5, training__learning_rate=0.01,
    )  # fmt: skip
    for name in STAGES:
        run_stage(name)
    said = capsys.readouterr().out
    assert "1 test images are training images, too, to the last pixel:" in said
    assert "test/brick/copy.png is " in said
    manifest = images.load_manifest(Path("data"))
    assert manifest["name"] == "folder"
    assert manifest["classes"] == ["brick", "grass"]
    assert json.loads(Path("metrics/test.json").read_text())["accuracy"] == 1.0
    card = Path("reports/model_card.md").read_text()
    assert "Pictures of its maker's own; nothing is known here of their licence." in card
    assert "brick, grass" in card


def test_a_folder_that_is_not_there_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, data__name="folder", data__path="nowhere", data__size=8)
    assert fail_stage("download", capsys).startswith("error: nowhere/train is no folder; data.path")
    assert not Path("data").exists()


@pytest.mark.slow
def test_cifar10_as_a_folder_of_files_is_cifar10(mirror, tmp_path):
    """The pictures and classes of 500 training and 100 test images come back."""
    datasets.prepare("cifar10", tmp_path / "stored", str(mirror))
    entry = datasets.CATALOGUE["cifar10"]
    expected = {}
    for part, count in (("train", 500), ("test", 100)):
        split = images.load_split(tmp_path / "stored", part, "cpu")
        expected[part] = {
            (bytes(image.numpy()), int(label))
            for image, label in zip(split.images[:count], split.labels, strict=False)
        }
        for number, label in enumerate(split.labels[:count].tolist()):
            target = tmp_path / part / entry.classes[label]
            target.mkdir(parents=True, exist_ok=True)
            values = split.images[number].numpy().transpose(1, 2, 0)
            Image.fromarray(values).save(target / f"{number}.png")
    found = folders.read(tmp_path, 0, 0.5)
    assert found.classes == entry.classes
    for part in ("train", "test"):
        got = getattr(found, part)
        pairs = {(bytes(i), int(k)) for i, k in zip(got.images, got.labels, strict=True)}
        assert pairs == expected[part]


def test_the_committed_folder_exists_for_dvc():
    root = Path(__file__).parent.parent
    values = yaml.safe_load((root / "params.yaml").read_text())
    assert (root / values["data"]["path"]).is_dir()
    assert (root / values["training"]["init_from"]).exists()


def test_a_folder_without_a_picture_is_named(place):
    (place / "train/moss").mkdir()
    with pytest.raises(DataError, match="train has folders without a picture: moss; fill or"):
        folders.read(place, 0, 0.2)
