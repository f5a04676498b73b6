"""The model card."""

import re

import numpy as np
import pytest
import yaml
from made_up import SEEDS, made_up_results

from striate.evaluation import scores
from striate.models.model_json import FALSE_ALARMS
from striate.reporting import model_card
from striate.reporting.figures import filters

CLASSES = ["cat", "dog|<b>", "`fish`"]
SOURCE = {"name": "digits", "page": "https://publisher.example/digits", "licence": "CC BY 4.0"}


def write(**changes):
    return model_card.card(made_up_results(CLASSES, **changes))


@pytest.fixture(scope="module")
def results():
    return made_up_results(CLASSES)


def test_the_front_matter_holds_the_scores(results):
    front = yaml.safe_load(model_card.card(results).split("---\n")[1])
    (model,) = front["model-index"]
    (result,) = model["results"]
    found = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert found == {
        "accuracy": results.test["accuracy"],
        "f1": results.test["macro_f1"],
        "loss": results.test["loss"],
    }
    assert front["pipeline_tag"] == "image-classification"


def test_the_numbers_of_each_class_and_their_sum_are_there(results):
    text = model_card.card(results)
    rows = re.findall(r"^\| (.+?) \| (\d+) \| (\d+) \| [\d.]+% \|", text, re.M)
    assert [row[0] for row in rows] == ["cat", r"dog\|\<b\>", r"\`fish\`"]
    assert [int(row[1]) for row in rows] == results.confusion.sum(1).tolist()
    assert [int(row[2]) for row in rows] == np.diag(results.confusion).tolist()
    assert "`0123.dir`" in text
    assert "`" + "f" * 64 + "`" in text
    assert "dvc exp run -S seed=0 -S data.name=digits" in text


def test_validation_comes_before_test():
    validation = "Validation accuracy, for choosing among experiments: 75.00% of 4 images (95%"
    text = write(train={"val_accuracy": 0.75})
    assert text.index(validation) < text.index("On 40 test images")
    assert "Validation accuracy" not in write(data__val_size=0)


def test_the_mean_over_seeds_is_stated_where_there_are_several():
    assert "test accuracy 40.00% ± 17.32%" in write(seeds=SEEDS)
    assert "The seed draws" not in write()


def test_calibration_and_flag_are_described_or_their_absence_is(results):
    threshold = float(np.quantile(scores.energy(results.logits), 1 - FALSE_ALARMS))
    calibrated = write(confidence={"temperature": 1.5, "energy": threshold})
    assert "with temperature 1.500" in calibrated
    assert "5.00% of the test set, all false positives" in calibrated
    assert "not calibrated" not in calibrated
    text = write(data__val_size=0)
    assert "The validation set has fewer than 100 images" in text
    assert "false positives" not in text


def test_licence_and_page_are_those_of_the_publisher_or_unknown():
    line = "digits, https://publisher.example/digits. Its publisher states this licence: CC BY 4.0"
    assert line in write(source=SOURCE)
    own = write(data__name="folder", data__path="images")
    assert "Images from a folder; their licence is unknown." in own


def test_a_licence_of_the_first_weights_applies_to_these(results):
    assert "Training began" not in write()
    assert "These weights have no licence yet: choose one" in write()
    begun = {"training__init_from": "weights/r"}
    text = write(**begun)
    assert "Training began with the weights in weights/r, whose licence applies to these" in text
    assert "have no licence yet" not in text
    note = {"arch": "timm:r.a1", "source": "https://hub.example/r", "license": "cc-by-nc-4.0"}
    results = made_up_results(CLASSES, **begun)
    results.description["pretrained"] = note
    assert (
        "\nTraining began with the weights in weights/r, which come from those of timm:r.a1,"
        " <https://hub.example/r>. Their licence is cc-by-nc-4.0, as timm states, and applies to"
        " these weights, too.\nChoose one for these weights that it allows"
    ) in model_card.card(results)
    results.description["pretrained"] = note | {"source": "a_b.pth", "license": None}
    text = model_card.card(results)
    assert r", the file a\_b.pth. Their licence is not known here, and applies to" in text


@pytest.mark.parametrize(
    ("arch", "kind", "drawn"),
    [
        ("convnet", "convolutional network", "each convolution"),
        ("gabor", "convolutional network", "each convolution"),
        ("convmixer", "convolutional network", "each convolution"),
        ("mlp", "multilayer perceptron", "the first layer, an image for each hidden unit"),
        ("vit", "vision transformer", "each convolution"),
        ("timm:resnet18", "network of timm", "each convolution"),
        ("newcomer", "network", "each convolution"),
    ],
)
def test_a_network_is_called_what_it_is(arch, kind, drawn):
    results = made_up_results(CLASSES, model__arch=arch)
    assert f"\nA {kind} with 1,234 parameters that sorts" in model_card.card(results)
    assert filters.caption(results).startswith(f"The weights of {drawn}: grey is near zero")


def test_intervals_hold_what_is_measured_and_shrink_with_more_images(results):
    low, high = model_card.f1_interval(results.confusion)
    assert low < results.test["macro_f1"] < high
    narrow = model_card.f1_interval(results.confusion * 100)
    assert narrow[1] - narrow[0] < (high - low) / 5
    assert model_card.f1_interval(results.confusion) == (low, high)
    low, high = model_card.loss_interval(results.logits, results.labels)
    assert low < results.test["loss"] < high


def test_names_are_shown_as_they_are():
    assert model_card.escaped("a|b\n*c*") == r"a\|b \*c\*"
