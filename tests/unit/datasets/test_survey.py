"""A look at a folder: what is planted is found, and nothing else."""

import shutil

import numpy as np
import pytest
from commands import run
from PIL import Image, ImageDraw, ImageEnhance

from striate.analysis import data_page
from striate.datasets import layouts, parallel_reading, survey

COLOURS = {"cat": (200, 60, 40), "dog": (40, 60, 200), "owl": (60, 190, 60)}


def picture(seed, size, colour):
    """Blurred noise with four discs of a colour."""
    random = np.random.RandomState(seed)
    noise = Image.fromarray(random.randint(0, 256, (6, 6, 3), np.uint8))
    image = noise.resize(size, Image.Resampling.BICUBIC)
    for _ in range(4):
        x, y = random.randint(0, size[0]), random.randint(0, size[1])
        shade = tuple((np.array(colour) + random.randint(-40, 40, 3)).clip(0, 255).tolist())
        ImageDraw.Draw(image).ellipse([x, y, x + size[0] // 4, y + size[1] // 4], fill=shade)
    return image


@pytest.fixture
def images(tmp_path):
    seed = 0
    for part, count in (("train", 30), ("val", 6), ("test", 6)):
        for name, colour in COLOURS.items():
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                seed += 1
                file = tmp_path / "images" / part / name / f"{number:02}.png"
                picture(seed, (64, 64), colour).save(file)
    return tmp_path / "images"


def found_in(images):
    layout = layouts.find(images)
    seen = survey.look(layout)
    return data_page.findings(layout, seen, survey.near_duplicates(seen))


def test_processes_find_what_threads_find(images, monkeypatch):
    layout = layouts.find(images)
    alone = survey.look(layout)
    monkeypatch.setattr(parallel_reading, "PROCESSES_FROM", 0)
    assert survey.look(layout) == alone


def test_nothing_is_found_where_nothing_is_wrong(images):
    assert found_in(images) == []


def leak(root):
    image = Image.open(root / "train/cat/01.png").resize((80, 80))
    ImageEnhance.Brightness(image).enhance(1.03).save(root / "test/cat/leak.jpg", quality=70)
    return "1 pair of nearly equal images between parts", ["test/cat/leak.jpg is nearly"]


def two_classes(root):
    shutil.copy(root / "train/dog/02.png", root / "train/cat/wrong.png")
    return "1 pair of nearly equal images in two classes", ["train/cat/wrong.png"]


def twice(root):
    Image.open(root / "train/dog/04.png").save(root / "train/dog/again.jpg", quality=60)
    return "1 pair of nearly equal images of one part and class", ["train/dog/again.jpg"]


def unreadable(root):
    (root / "train/cat/broken.png").write_bytes(b"no image")
    whole = (root / "val/dog/03.png").read_bytes()
    (root / "val/dog/03.png").write_bytes(whole[: len(whole) // 2])
    return "2 files cannot be read", ["train/cat/broken.png", "val/dog/03.png"]


def several_sizes(root):
    picture(1000, (200, 64), (1, 1, 1)).save(root / "train/cat/wide.png")
    return "2 sizes of images", ["64×64: 126", "200×64: 1"]


def unequal(root):
    for file in sorted((root / "train/owl").iterdir())[4:]:
        file.unlink()
    return "cat has 8 times as many training images as owl", []


def few(root):
    for file in sorted((root / "train/owl").iterdir())[12:]:
        file.unlink()
    return "1 of 3 classes have fewer than 20 training images", ["owl: 12"]


def skipped(root):
    (root / "train/dog/notes.txt").write_text("x")
    return "1 file skipped: 1 .txt", []


@pytest.mark.parametrize(
    "plant", [leak, two_classes, twice, unreadable, several_sizes, unequal, few, skipped]
)
def test_what_is_planted_is_found(images, plant):
    what, details = plant(images)
    findings = {one.what: one.details for one in found_in(images)}
    assert what in findings
    assert all(any(part in told for told in findings[what]) for part in details)
    allowed = {leak: 2, unequal: 2}  # a leak has another size, too; four images are few
    assert len(findings) == allowed.get(plant, 1)


@pytest.mark.parametrize("count", [10, 300])
def test_equal_images_are_found_however_many_share_a_hash(tmp_path, count):
    """Plain images all have one hash."""
    seen = []
    for number in range(count):
        gray = Image.new("L", (20, 20), number * 250 // count)
        thumbnail = survey.thumbnail(gray)
        seen.append(
            survey.Seen(tmp_path, "train", 0, (20, 20), "L", survey.difference_hash(gray),
                        thumbnail, "")
        )  # fmt: skip
    seen.append(seen[3])
    assert (3, count) in survey.near_duplicates(seen)


def test_the_command_counts_and_says_where_the_page_is(images, tmp_path, monkeypatch, capsys):
    what, _ = leak(images)
    monkeypatch.chdir(tmp_path)
    out = run(monkeypatch, capsys, "data", images, "--to", "page.html")[0].splitlines()
    assert [line.split() for line in out[:2]] == [
        ["class", "training", "validation", "test"], ["-----", "--------", "----------", "----"],
    ]  # fmt: skip
    assert out[2].split() == ["cat", "30", "6", "7"]
    assert any(line.startswith(f"{what}: they leak into the score") for line in out)
    page = (tmp_path / "page.html").read_text()
    assert "leak.jpg" in page
    assert page.count("<figure") == 2 + 3 * data_page.SAMPLES
    (images / "train/cat/broken.png").write_bytes(b"")
    out = run(monkeypatch, capsys, "data", images, "--to", "page.html", status=1)[0].splitlines()
    assert out[2].split() == ["cat", "30", "6", "7"]  # without the broken one
    err = run(monkeypatch, capsys, "data", "nowhere", status=2)[1]
    assert "error: data.path is nowhere, which is not a folder" in err
