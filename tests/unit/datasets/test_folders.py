"""A person's own pictures as a data set."""

import json
import os
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import yaml
from paths import ROOT
from PIL import Image
from stages import STAGES, fail_stage, run_stage, write_params
from stored_images import read

from striate.data import arrays, tensors
from striate.datasets import fetch, image_reading, registry
from striate.datasets.registry import DataError
from striate.serving import preprocess

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
    found = read(place, 0, 0.2)
    assert found.classes == ("brick", "grass")
    assert found.train.images.shape == (16, 3, 12, 12)
    assert np.bincount(found.test.labels).tolist() == [2, 2]
    for part in (found.train, found.test):
        reddish = part.images[:, 0].mean((1, 2)) > part.images[:, 1].mean((1, 2))
        assert (reddish == (part.labels == 0)).all()
    values = found.train.images / 255
    assert found.mean == pytest.approx(values.mean((0, 2, 3)), abs=1e-4)
    assert found.std == pytest.approx(values.std((0, 2, 3)), abs=1e-4)
    again = read(place, 0, 0.2)
    assert (again.test.images == found.test.images).all()


def test_images_that_are_left_out_are_not_trained_on_and_the_test_set_stays(place):
    whole = read(place, 0, 0.2)
    assert len(whole.files["train"]) == len(whole.train.labels) == 16
    some = read(place, 0, 0.2, whole.files["train"][3:5])
    assert some.files["train"] == whole.files["train"][:3] + whole.files["train"][5:]
    kept = np.delete(np.arange(16), [3, 4])
    assert (some.train.images == whole.train.images[kept]).all()
    assert (some.test.images == whole.test.images).all()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train/grass/99.png"], "set: 0; not there: 1.: train/grass/99"),
        ([f"train/brick/{n:02d}.png" for n in range(10)], "set: 2; not there: 0.: train/brick/"),
    ],
)
def test_a_list_of_other_files_is_refused(place, names, said):
    with pytest.raises(DataError, match=said):
        read(place, 0, 0.2, names)


def test_a_class_is_not_left_out_whole(place):
    fill(place / "test", COLOURS, count=3, seed=1)
    names = [f"train/brick/{number:02d}.png" for number in range(10)]
    with pytest.raises(DataError, match=r"data\.leave_out leaves no training image of brick"):
        read(place, 0, 0.2, names)


def test_a_folder_test_is_taken_as_it_is(place):
    fill(place / "test", COLOURS, count=3, seed=1)
    found = read(place, 0, 0.2)
    assert (len(found.train.labels), len(found.test.labels)) == (20, 6)
    assert found.duplicates == ()


def test_pictures_of_all_sizes_are_resized(place):
    fill(place / "train", {"grass": GREEN}, count=2, size=(40, 20), seed=1)
    said = r"has 40×20 pixels, and .* has 12×12; set data\.size"
    with pytest.raises(DataError, match=said):
        read(place, 0, 0.2)
    assert read(place, 8, 0.2).train.images.shape[1:] == (3, 8, 8)


def test_gray_files_give_one_channel(tmp_path):
    fill(tmp_path / "train", COLOURS, mode="L")
    assert read(tmp_path, 0, 0.2).train.images.shape[1] == 1
    fill(tmp_path / "train", {"brick": RED}, count=1)
    assert read(tmp_path, 0, 0.2).train.images.shape[1] == 3


def test_pictures_that_are_in_both_parts_are_reported(place):
    fill(place / "test", COLOURS, count=2, seed=1)
    copy = place / "test/brick/copy.bmp"
    Image.open(place / "train/brick/03.png").save(copy)
    found = read(place, 0, 0.2)
    assert found.duplicates == ((str(place / "train/brick/03.png"), str(copy)),)


def test_pictures_that_are_in_two_classes_are_reported(place):
    copy = place / "train/grass/copy.bmp"
    Image.open(place / "train/brick/03.png").save(copy)
    shutil.copy(place / "train/brick/04.png", place / "train/brick/again.png")
    found = read(place, 0, 0.2)
    assert found.conflicts == ((str(place / "train/brick/03.png"), str(copy)),)


def test_files_that_cannot_be_read_are_listed(place):
    for name in ("brick/03.png", "grass/05.png"):
        (place / "train" / name).write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        read(place, 0, 0.2)
    for name in ("brick/03.png", "grass/05.png"):
        assert f"{place}/train/{name} cannot be read: it is not an image" in str(caught.value)
    assert "repair these files, or move them out" in str(caught.value)


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
        (
            lambda place: (place / "train").rename(place / "other"),
            "must have a folder of images for each of two classes",
        ),
        (empty, "train has folders without images: brick, grass; fill or remove them"),
        (one_class, "must have a folder of images for each of two classes"),
        (too_few, "the class brick has too few images for data.test_size=0.2"),
        (lambda place: fill(place / "test", {"grass": GREEN}), "in one only: brick"),
    ],
)
def test_a_folder_that_cannot_be_a_data_set_is_explained(place, spoil, said):
    spoil(place)
    with pytest.raises(DataError, match=re.escape(said)):
        read(place, 0, 0.2)


def test_all_stages_take_a_folder_and_say_which_pictures_are_in_both_parts(
    place, monkeypatch, capsys
):
    fill(place / "test", COLOURS, count=4, seed=1)
    Image.open(place / "train/brick/03.png").save(place / "test/brick/copy.png")
    Image.open(place / "train/grass/01.png").save(place / "train/brick/other.png")
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
    assert "1 images held out are identical to training images:" in said
    assert "test/brick/copy.png is " in said
    assert "1 images are identical but in two classes:" in said
    assert "train/grass/01.png is " in said
    manifest = arrays.load_manifest(Path("data"))
    assert manifest["name"] == "folder"
    assert manifest["classes"] == ["brick", "grass"]
    assert json.loads(Path("metrics/test.json").read_text())["accuracy"] == 1.0
    card = Path("reports/model_card.md").read_text()
    assert "Images from a folder; their licence is unknown." in card
    assert "brick, grass" in card


def test_a_folder_that_is_not_there_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, data__name="folder", data__path="nowhere", data__size=8)
    assert fail_stage("download", capsys) == (
        "error: data.path is nowhere, which is not a folder; set it to the folder of your own"
        " images, such as -S data.path=images, or to an archive of one (.zip, .tar, .tar.gz, .tgz,"
        " .tar.bz2, .tar.xz)\n"
    )
    assert not Path("data").exists()


@pytest.mark.slow
def test_cifar10_as_a_folder_of_files_is_cifar10(mirror, tmp_path):
    """The pictures and classes of 500 training and 100 test images come back."""
    fetch.prepare("cifar10", tmp_path / "stored", str(mirror))
    entry = registry.DATASETS["cifar10"]
    expected = {}
    for part, count in (("train", 500), ("test", 100)):
        split = tensors.load_split(tmp_path / "stored", part, "cpu")
        expected[part] = {
            (bytes(image.numpy()), int(label))
            for image, label in zip(split.images[:count], split.labels, strict=False)
        }
        for number, label in enumerate(split.labels[:count].tolist()):
            target = tmp_path / part / entry.classes[label]
            target.mkdir(parents=True, exist_ok=True)
            values = split.images[number].numpy().transpose(1, 2, 0)
            Image.fromarray(values).save(target / f"{number}.png")
    found = read(tmp_path, 0, 0.5)
    assert found.classes == entry.classes
    for part in ("train", "test"):
        got = getattr(found, part)
        pairs = {(bytes(i), int(k)) for i, k in zip(got.images, got.labels, strict=True)}
        assert pairs == expected[part]


def test_the_committed_paths_exist_for_dvc():
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert (ROOT / values["data"]["path"]).is_file()
    assert (ROOT / values["training"]["init_from"]).exists()


def test_a_folder_without_a_picture_is_named(place):
    (place / "train/moss").mkdir()
    with pytest.raises(DataError, match="train has folders without images: moss; fill or"):
        read(place, 0, 0.2)
    (place / "train/moss/a.heic").touch()
    with pytest.raises(DataError, match=r"images: moss \(1 file skipped: 1 \.heic\); fill or"):
        read(place, 0, 0.2)


def test_what_is_hidden_or_left_by_systems_is_counted_and_not_learnt(place, monkeypatch, capsys):
    cats = place / "train/brick"
    for name in (".ipynb_checkpoints", ".thumbnails", "__MACOSX", "@eaDir", "deep/.git"):
        shutil.copytree(place / "train/grass", cats / name)
    for name in (".ipynb_checkpoints", "lost+found", "$RECYCLE.BIN", "System Volume Information"):
        shutil.copytree(place / "train/grass", place / "train" / name)
    for name in ("._00.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (cats / name).write_bytes(b"")
    for name in ("a.heic", "b.HEIC", "notes.txt", "README"):
        (cats / name).write_bytes(b"")
    shutil.copy(cats / "00.png", place / "train")
    shutil.copytree(cats, place / "extra/brick")
    found = read(place, 0, 0.2)
    assert found.classes == ("brick", "grass")
    assert len(found.train.labels) + len(found.test.labels) == 20
    assert found.skipped == {
        "hidden": 94, ".heic": 2, ".txt": 1, "without extension": 1, "not in a class folder": 1,
        "outside train": 10,
    }  # fmt: skip
    monkeypatch.chdir(place)
    write_params(place, data__name="folder", data__path=str(place), model__layers=1)
    run_stage("download")
    assert capsys.readouterr().out.startswith(
        "note: 109 files skipped: 94 hidden, 10 outside train, 2 .heic, 1 .txt,"
        " 1 not in a class folder, 1 without extension\n"
    )


def test_no_folder_is_walked_twice(place, monkeypatch):
    shutil.copytree(place / "train", place / "extra/train")
    shutil.copy(place / "train/brick/00.png", place)
    walked, scandir = [], os.scandir

    def note(path):
        if not isinstance(path, int):  # a descriptor, of what is removed
            walked.append(Path(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", note)
    found = image_reading.list_images(place, without=("train", "test"))
    assert len(found.files) == 21
    assert place / "extra/train/brick" in walked
    assert place / "train" not in walked
    walked.clear()
    assert read(place, 0, 0.2).skipped == {"outside train": 21}
    assert walked.count(place / "train/brick") == 1


def test_folders_inside_a_class_belong_to_it_whatever_they_are_called(place):
    (place / "train/brick/wall.png").mkdir()
    shutil.copy(place / "train/brick/00.png", place / "train/brick/wall.png/x.png")
    found = read(place, 0, 0.2)
    assert len(found.train.labels) + len(found.test.labels) == 21


@pytest.mark.parametrize(
    "linked", ["train", "test", "train/brick", "test/brick", "train/brick/new"]
)
def test_a_linked_folder_is_refused_because_dvc_does_not_look_behind_it(place, linked):
    shutil.copytree(place / "train", place / "test")
    link = place / linked
    if link.exists():
        link.rename(place / "elsewhere")
    else:
        shutil.copytree(place / "train/brick", place / "elsewhere")
    link.symlink_to(place / "elsewhere")
    with pytest.raises(DataError, match=f"^{link} is a link to a folder, and DVC does not see"):
        read(place, 0, 0.2)
    link.unlink()
    link.symlink_to("nowhere")
    with pytest.raises(DataError, match=f"^{link} is "):
        read(place, 0, 0.2)


def test_a_hidden_link_is_left_out_and_not_followed(place):
    for link in (
        place / "train/.cache",
        place / "train/brick/.cache",
        place / "train/brick/@eaDir",
    ):
        link.symlink_to(place / "train/grass")
    (place / "train/brick/.broken").symlink_to("nowhere")
    found = read(place, 0, 0.2)
    assert found.skipped == {"hidden": 4}
    assert len(found.train.labels) + len(found.test.labels) == 20


def test_a_linked_path_and_linked_files_are_taken_and_broken_ones_named(place, tmp_path):
    (place / "train/brick/00.png").rename(place / "moved.png")
    link = place / "train/brick/00.png"
    link.symlink_to(place / "moved.png")
    os.link(place / "moved.png", place / "train/brick/hard.png")
    (tmp_path / "link").symlink_to(place)
    found = read(tmp_path / "link", 0, 0.2)
    assert len(found.train.labels) + len(found.test.labels) == 21
    (place / "moved.png").unlink()
    with pytest.raises(DataError, match=rf"{link} cannot be read: No such file or directory"):
        read(place, 0, 0.2)


def test_pipes_and_sockets_are_not_waited_for(place, monkeypatch):
    monkeypatch.chdir(place / "train/brick")  # an address of a socket is short
    os.mkfifo("pipe.png")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket.png")
        assert read(place, 0, 0.2).skipped == {"not regular": 2}


def test_a_folder_that_may_not_be_read_is_named(place, monkeypatch, capsys):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("brick"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.chdir(place)
    write_params(place, data__name="folder", data__path=".")
    assert fail_stage("download", capsys) == "error: train/brick: Permission denied\n"


@pytest.mark.parametrize("parts", [("train", "train"), ("train", "test")])
@pytest.mark.parametrize(
    ("one", "other"),
    [("caf\u00e9", "cafe\u0301"), ("moss", "moss ")],
)
def test_classes_whose_names_only_look_equal_are_refused(place, parts, one, other):
    shutil.copytree(place / "train", place / "test")
    for part, name in zip(parts, (one, other), strict=True):
        shutil.copytree(place / "train/brick", place / part / name)
    with pytest.raises(DataError, match=r"look the same, but .* give the class one name$") as error:
        read(place, 0, 0.2)
    assert ascii(one) in str(error.value)
    assert ascii(other) in str(error.value)


def test_names_that_differ_in_case_are_classes_of_their_own(place):
    for name in ("a", "A"):
        shutil.copytree(place / "train/brick", place / "train" / name)
    assert read(place, 0, 0.2).classes == ("A", "a", "brick", "grass")


def test_all_pictures_have_one_range(tmp_path):
    """A class is not told by the largest value of a picture."""
    random = np.random.RandomState(0)
    for name, largest in (("dark", 240), ("bright", 40_000)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(10):
            values = random.randint(largest // 2, largest, (8, 8)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "train" / name / f"{number}.png")
    found = read(tmp_path, 0, 0.2)
    levels = [found.train.images[found.train.labels == label].mean() for label in (0, 1)]
    assert levels == pytest.approx([30_000 / 257, 180 / 257], abs=3)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(
    ("size", "side"), [(0, (40, 40)), (16, (64, 64)), (16, (16, 16)), ([16, 24], (50, 33))]
)
@pytest.mark.parametrize("kind", ["on paper", "noise", "colour", "16 bits"])
def test_a_file_gives_the_same_pixels_in_training_and_in_predict(
    tmp_path, size, side, kind, resize
):
    """Also where all pictures have plain paper: sizes and places may be what tells classes."""
    random = np.random.RandomState(0)
    for name, drawn in (("big", 12), ("small", 4)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(5):
            values = np.full(side, 255, np.uint8)
            top, left = random.randint(0, min(side) - drawn, 2)
            values[top : top + drawn, left : left + drawn] = 0
            if kind == "noise":
                values = random.randint(0, 256, side, np.uint8)
            if kind == "colour":
                values = np.stack([values, values // 2, 255 - values], axis=-1)
            if kind == "16 bits":
                values = values.astype(np.uint16) * 200
            Image.fromarray(values).save(tmp_path / "train" / name / f"{number}.png")
    found = read(tmp_path, size, 0.2, resize=resize, folder=tmp_path / "data")
    manifest = arrays.load_manifest(tmp_path / "data")
    learnt = {image.tobytes() for image in np.concatenate([found.train.images, found.test.images])}
    seen = {
        preprocess.prepare(
            image_reading.read(file), manifest["shape"], manifest["peak"], manifest["frame"]
        ).tobytes()
        for file in tmp_path.glob("train/*/*.png")
    }
    assert seen == learnt
