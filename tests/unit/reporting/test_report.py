"""The page that shows one experiment."""

import base64
import io
import re

import numpy as np
import pytest
from pages import Page
from paths import ROOT
from PIL import Image

from striate.config import params
from striate.evaluation import metrics, scores
from striate.reporting import figures, report

PICTURES = (
    "curves", "curves_stacked", "confusion", "calibration", "feature_maps", "filters_layer1",
)  # fmt: skip
CLASSES = ["cat", "<b>dog</b>", 'fish & "chips"']


@pytest.fixture(scope="module")
def logits():
    random = np.random.RandomState(0)
    return random.randn(40, 3).astype(np.float32)


@pytest.fixture(scope="module")
def labels():
    return np.random.RandomState(1).randint(0, 3, 40)


@pytest.fixture(scope="module")
def text(logits, labels):
    import torch

    measured = metrics.measure(
        metrics.predictions_of(torch.from_numpy(logits), torch.from_numpy(labels))
    )
    images = np.random.RandomState(2).rand(40, 3, 4, 4).astype(np.float32)
    png = figures.png(figures.learning_curves({"epoch": [1], "train_loss": [1.0]}))
    train = {"train_accuracy": 0.5, "val_accuracy": 0.25, "epochs": 2, "kept_epoch": 2,
             "parameters": 1234}  # fmt: skip
    settings = params.load(ROOT / "params.yaml")
    return report.page(
        settings,
        {"train": {"count": 40}, "classes": CLASSES},
        {"train": train, "test": measured},
        {"striate.checkpoint": "0123.dir"},
        dict.fromkeys(PICTURES, png),
        scores.confusion_matrix(logits, labels),
        scores.calibration(scores.softmax(logits), labels),
        {
            "samples": report.samples(images, labels, CLASSES),
            "predictions": report.predictions(images, labels, logits, CLASSES),
            "mistakes": report.mistakes(images, labels, logits, CLASSES),
        },
    )  # fmt: skip


def test_it_needs_nothing_but_itself(text):
    addresses = Page(text).addresses
    assert len(addresses) > 50
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert "<script" not in text


def test_every_part_that_is_named_at_its_head_is_there(text):
    page = Page(text)
    named = [address[1:] for address in page.addresses if address.startswith("#")]
    assert len(named) == 11
    assert named == page.ids


def test_names_of_classes_are_text_and_no_markup(text):
    page = Page(text)
    assert "<b>dog" not in text
    assert "<b>dog</b>" in page.words
    assert 'fish & "chips"' in page.words


def test_the_numbers_are_those_of_the_files(text, logits, labels):
    words = " ".join(" ".join(Page(text).words).split())
    wrong = int((logits.argmax(1) != labels).sum())
    low, high = scores.wilson(40 - wrong, 40)
    assert f"{100 * (40 - wrong) / 40:.2f}% {100 * low:.2f} to {high:.2%}" in words
    assert f"test errors {wrong} of 40 images" in words
    assert "learnt from 36 images of digits in 2 epochs of adam with batches of 100" in words
    assert "validation accuracy 25.00% 4.56 to 69.94%" in words  # 1 of 4
    assert "git log --all --oneline -S 0123.dir -- dvc.lock" in words
    assert "-S model.layers=2" in words


def test_validation_comes_before_test(text):
    words = " ".join(" ".join(Page(text).words).split())
    assert words.index("validation accuracy 25.00%") < words.index("test errors")
    assert "Choose among experiments by validation accuracy: each was scored on the" in words
    assert "(data.val_size)" in report.choice_said({"train_accuracy": 1.0})


def test_a_mistake_is_framed_and_named(logits, labels):
    images = np.zeros((40, 1, 4, 4), np.float32)
    tiles = report.predictions(images, labels, logits, CLASSES)
    guesses = logits.argmax(1)
    assert [tile.wrong for tile in tiles] == (guesses != labels).tolist()
    first = int(np.flatnonzero(guesses != labels)[0])
    assert tiles[first].caption == f"{CLASSES[guesses[first]]}, not {CLASSES[labels[first]]}"
    where, sure = scores.surest_mistakes(logits, labels)
    surest = report.mistakes(images, labels, logits, CLASSES)[0].caption
    assert surest == f"{CLASSES[guesses[where[0]]]} {sure[0]:.1%}, is {CLASSES[labels[where[0]]]}"


def test_a_metric_that_older_results_lack_is_a_dash():
    train = {"train_accuracy": 0.5, "epochs": 2, "parameters": 10}
    tiles = report.headline(train, {"accuracy": 0.75, "n": 4}, 0)
    assert {tile["name"]: tile["value"] for tile in tiles} == {
        "test accuracy": "75.00%", "test errors": "–", "training accuracy": "50.00%",
        "test loss": "–", "macro F1": "–", "calibration error": "–", "parameters": "10",
    }  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tile_holds_the_pixels_of_its_image(channels):
    image = np.random.RandomState(0).randint(0, 256, (channels, 5, 7))
    source = report.tile(image / 255, "seven").source
    content = base64.b64decode(re.fullmatch("data:image/png;base64,(.*)", source)[1])
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    expected = image[0] if channels == 1 else image.transpose(1, 2, 0)
    assert (pixels == expected).all()


@pytest.mark.parametrize(("accuracy", "said"), [(0.9, "too unsure"), (0.3, "too sure")])
def test_calibration_is_said_in_a_sentence(accuracy, said):
    rows = [{"count": 10, "confidence": 0.6, "accuracy": accuracy}]
    assert f"the network is {said} by 30.00%" in report.calibration_said(rows)


@pytest.mark.parametrize(
    ("labels", "count", "chosen"),
    [
        ([0, 0, 0, 1, 1, 2], 36, [0, 3, 5, 1, 4, 2]),
        ([2, 0, 0, 1, 0], 4, [1, 3, 0, 2]),
        ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], 3, [0, 4, 8]),
        ([7], 36, [0]),
    ],
)
def test_images_are_chosen_from_all_classes_in_turn(labels, count, chosen):
    assert report.spread(np.array(labels), count).tolist() == chosen


def test_params_of_folders_are_shown_for_folders_only_and_filters_come_last(text):
    words = Page(text).words
    assert "data.val_size" in words
    assert not {"data.path", "data.size", "data.test_size"} & set(words)
    ids = Page(text).ids
    assert ids.index("confusion") < ids.index("features") < ids.index("filters")
