"""Doubtful labels: their order, the estimate, and the files that are written."""

import csv

import numpy as np
import pytest

from striate.analysis import doubts, doubts_page
from striate.analysis.doubts import Doubt
from striate.analysis.doubts_page import Images

CLASSES, COUNT = 5, 2000


@pytest.fixture
def flipped():
    """Sharp probabilities, and labels of which forty are wrong; returns these, too."""
    random = np.random.RandomState(0)
    true = random.randint(0, CLASSES, COUNT)
    probabilities = random.random_sample((COUNT, CLASSES)) * 0.1 + 0.02
    probabilities[np.arange(COUNT), true] += 0.9
    probabilities /= probabilities.sum(1, keepdims=True)
    wrong = random.choice(COUNT, 40, replace=False)
    labels = true.copy()
    labels[wrong] = (labels[wrong] + 1) % CLASSES
    return probabilities, labels, true, {*wrong.tolist()}


def test_flipped_labels_are_doubted_the_least_probable_first(flipped):
    probabilities, labels, true, wrong = flipped
    found = doubts.doubtful(probabilities, labels)
    assert {one.image for one in found} == wrong
    shares = [one.label_probability for one in found]
    assert shares == sorted(shares)
    for one in found:
        assert (one.label, one.suggested) == (labels[one.image], true[one.image])
        assert one.suggested_probability == probabilities[one.image].max()
    assert 15 <= doubts.estimated_wrong(probabilities, labels) <= 40


def test_nothing_is_doubted_where_all_agree(flipped):
    probabilities, _, true, _ = flipped
    assert doubts.doubtful(probabilities, true) == []
    assert doubts.estimated_wrong(probabilities, true) == 0


RANKED = [Doubt(2, 0, 1, 0.01, 0.9), Doubt(0, 1, 0, 0.2, 0.7), Doubt(3, 1, 0, 0.4, 0.5)]


def images(split="train", files=("a.png", "b.png", "c.png", "d.png"), left_out=()):
    pixels = np.zeros((4, 1, 6, 6), np.uint8)
    return Images(split, pixels, ["x, y", "z"], 255, [*files], [*left_out])


def test_a_table_a_page_and_as_many_files_as_are_estimated(tmp_path):
    written = doubts_page.write(images(), RANKED, 2, tmp_path)
    assert [path.name for path in written] == ["index.html", "doubts.csv", "leave_out.txt"]
    assert (tmp_path / "leave_out.txt").read_text() == "c.png\na.png\n"
    rows = list(csv.DictReader((tmp_path / "doubts.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == ["c.png", "a.png", "d.png"]
    assert rows[0]["label"] == "x, y"
    page = (tmp_path / "index.html").read_text()
    assert page.count("<figure") == 3
    assert "x, y 1.0%, or z 90.0%" in page
    assert "estimates 2 wrong labels" in page


def test_an_edited_list_is_not_overwritten_and_earlier_ones_are_kept(tmp_path):
    doubts_page.write(images(), RANKED, 2, tmp_path)
    (tmp_path / "leave_out.txt").write_text("c.png\n")
    written = doubts_page.write(images(left_out=["gone.png"]), RANKED, 1, tmp_path)
    assert (tmp_path / "leave_out.txt").read_text() == "c.png\n"
    assert written[2].read_text() == "gone.png\nc.png\n"
    assert 'href="leave_out.new.txt"' in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(("split", "files"), [("test", ["a", "b", "c", "d"]), ("train", [])])
def test_no_list_of_test_images_or_without_files(tmp_path, split, files):
    written = doubts_page.write(images(split, files), RANKED[:1], 1, tmp_path)
    assert [path.name for path in written] == ["index.html", "doubts.csv"]
    assert "leave_out" not in (tmp_path / "index.html").read_text()


def test_an_empty_table_has_its_header(tmp_path):
    doubts_page.write(images(files=()), [], 0, tmp_path)
    assert (tmp_path / "doubts.csv").read_text() == (
        "index,label,suggested,label_probability,suggested_probability\n"
    )
