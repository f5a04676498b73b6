"""Networks of timm as a person trains them: own images, `striate fetch`, `dvc exp run`."""

import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from clones import Clone
from PIL import Image

pytestmark = pytest.mark.slow

CLASSES = ("blue", "green", "red")


def write_images(folder):
    """Noise with a square of one colour."""
    random = np.random.RandomState(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(16):
            pixels = random.randint(0, 90, (32, 32, 3)).astype(np.uint8)
            pixels[8:24, 8:24, 2 - label] = 250
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A repository with own images, in which nothing has run."""
    clone = Clone.unrun(
        tmp_path_factory.mktemp("timm") / "striate", {"STRIATE_TRACKING": "off"},
        data__name="folder", data__path="images", data__val_size=9, training__epochs=1,
        training__batch_size=9,
    )  # fmt: skip
    write_images(clone.folder / "images/train")
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "Start.")
    return clone


def publish(clone, name):
    """Write weights as timm does, and fetch them; returns their folder."""
    torch.manual_seed(1)
    safetensors.torch.save_file(
        timm.create_model(name).state_dict(), clone.folder / "w.safetensors"
    )
    said = clone.striate("fetch", f"timm:{name}", "--from", "w.safetensors")
    assert said == f"weights/timm-{name}\n"
    return said.strip()


def run(clone, name, **changes):
    """Run an experiment; returns what it printed, `model.json` and the model card."""
    changes |= {"model.arch": f"timm:{name}"}
    options = [f"-S={key}={value}" for key, value in changes.items()]
    said = clone.run("dvc", "exp", "run", *options)
    card = (clone.folder / "reports/model_card.md").read_text()
    return said, clone.json("models/model.json"), card


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_it_is_trained_from_scratch_and_from_weights_of_a_file(clone, name):
    _, description, card = run(clone, name)
    assert description["architecture"]["arch"] == f"timm:{name}"
    assert "pretrained" not in description
    assert "\nA network of timm with " in card
    assert "These weights have no licence yet" in card
    folder = publish(clone, name)
    begin = {"model.pretrained": "true", "training.init_from": folder, "data.normalize": "unit"}
    for freeze in ("none", "features"):
        said, description, card = run(clone, name, **begin, **{"training.freeze": freeze})
        assert f"weights from {folder}: " in said
        assert description["pretrained"] == clone.json(f"{folder}/pretrained.json")
        assert "the file w.safetensors. Their licence is not known here, and applies" in card
    expected = (timm.create_model(name, num_classes=0).head_hidden_size + 1) * len(CLASSES)
    assert clone.json("metrics/train.json")["parameters"] == expected
    # DVC has it already, until a byte of the weights changes.
    assert "Running stage" not in clone.run("dvc", "repro")
    note = clone.folder / folder / "pretrained.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"source": "other"}))
    assert "train" in json.loads(clone.run("dvc", "status", "--json"))


def test_without_the_hub_nothing_is_trained(clone, tmp_path, monkeypatch):
    monkeypatch.setitem(clone.env, "HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(clone.env, "HF_HOME", str(tmp_path))
    said = clone.striate("fetch", "timm:resnet18", status=2)
    assert said.splitlines()[0] == "weights/no-such-network"
    assert "error: the weights of timm:resnet18 could not be fetched" in said
    assert "striate fetch timm:resnet18 --from FILE" in said
