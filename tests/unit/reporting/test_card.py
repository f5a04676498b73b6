"""The model card."""

import re

import numpy as np
import pytest
import torch
import yaml
from paths import ROOT

from striate.config import params
from striate.evaluation import metrics, scores
from striate.models import calibration, prediction
from striate.reporting import model_card

CLASSES = ["cat", "dog|<b>", "`fish`"]
PART = {"count": 40, "per_class": [10, 12, 18], "sha256": {"images.npy": "0" * 64}}
MANIFEST = {
    "name": "digits", "shape": [1, 8, 8], "peak": 16, "classes": CLASSES,
    "frame": {"background": "dark", "extent": 0.9},
    "train": PART, "test": PART | {"sha256": {"images.npy": "f" * 64}},
}  # fmt: skip


@pytest.fixture(scope="module")
def predictions():
    random = np.random.RandomState(0)
    logits = random.randn(40, 3).astype(np.float32)
    return torch.from_numpy(logits), torch.from_numpy(random.randint(0, 3, 40))


def measure(predictions):
    return metrics.measure(metrics.predictions_of(*predictions))


def arrays_of(predictions):
    return [values.numpy() for values in predictions]


def write(predictions, confidence=None, more=None, **data):
    settings = params.load(ROOT / "params.yaml")
    settings = settings.model_copy(update={"data": settings.data.model_copy(update=data)})
    train = {"train_accuracy": 0.5, "epochs": 2, "kept_epoch": 2, "parameters": 1234}
    train |= more or {}
    return model_card.card(
        settings, MANIFEST | {"name": settings.data.name},
        {"train": train, "test": measure(predictions)}, {"confidence": confidence},
        {"striate.checkpoint": "0123.dir"}, *arrays_of(predictions),
    )  # fmt: skip


def test_the_front_matter_holds_the_scores(predictions):
    text = write(predictions)
    front = yaml.safe_load(text.split("---\n")[1])
    measured = measure(predictions)
    (model,) = front["model-index"]
    (result,) = model["results"]
    found = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert found == {
        "accuracy": measured["accuracy"],
        "f1": measured["macro_f1"],
        "loss": measured["loss"],
    }
    assert front["pipeline_tag"] == "image-classification"


def test_the_numbers_of_each_class_and_their_sum_are_there(predictions):
    text = write(predictions)
    confusion = scores.confusion_matrix(*arrays_of(predictions))
    rows = re.findall(r"^\| (.+?) \| (\d+) \| (\d+) \| [\d.]+% \|", text, re.M)
    assert [row[0] for row in rows] == ["cat", r"dog\|\<b\>", r"\`fish\`"]
    assert [int(row[1]) for row in rows] == confusion.sum(1).tolist()
    assert [int(row[2]) for row in rows] == np.diag(confusion).tolist()
    assert "`0123.dir`" in text
    assert "`" + "f" * 64 + "`" in text
    assert "dvc exp run -S seed=0 -S data.name=digits" in text


def test_validation_comes_before_test(predictions):
    said = "Validation accuracy, by which to choose among experiments: 75.00% of 4 images (95%"
    text = write(predictions, more={"val_accuracy": 0.75})
    assert text.index(said) < text.index("On 40 test images")
    assert "Validation accuracy" not in write(predictions, val_size=0)


def test_it_says_what_was_calibrated_or_that_nothing_was(predictions):
    logits, labels = predictions
    confidence = calibration.confidence(logits.repeat(3, 1), labels.repeat(3))
    told = write(predictions, confidence)
    assert f"divided by {confidence['temperature']:.3f}" in told
    assert "of the test images 5.00%" in told
    assert "not calibrated" not in told
    silent = write(predictions, None, val_size=0)
    assert "Fewer than 100 images were held out for validation" in silent
    assert "flagged. Of the validation" not in silent


def test_data_of_ones_own_have_no_licence_that_is_known(predictions):
    assert "CC BY 4.0" in write(predictions)
    own = write(predictions, name="folder", path="images")
    assert "Pictures of its maker's own; nothing is known here of their licence." in own
    assert "CC BY 4.0" not in own


def test_intervals_hold_what_is_measured_and_shrink_with_more_images(predictions):
    logits, labels = predictions
    confusion = scores.confusion_matrix(*arrays_of(predictions))
    macro = measure(predictions)["macro_f1"]
    low, high = model_card.f1_interval(confusion)
    assert low < macro < high
    narrow = model_card.f1_interval(confusion * 100)
    assert narrow[1] - narrow[0] < (high - low) / 5
    low, high = model_card.loss_interval(*arrays_of(predictions))
    assert low < prediction.mean_loss(logits, labels) < high
    assert model_card.f1_interval(confusion) == model_card.f1_interval(confusion)


def test_names_are_shown_as_they_are():
    assert model_card.escaped("a|b\n*c*") == r"a\|b \*c\*"
