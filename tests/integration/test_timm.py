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


def test_it_is_trained_from_scratch(clone):
    _, description, card = run(clone, "test_resnet")
    assert description["architecture"]["arch"] == "timm:test_resnet"
    assert "pretrained" not in description
    assert "\nA network of timm with " in card
    assert "These weights have no licence yet" in card


# That each network takes each way is a test of the stages, in test_timm_network.py.
@pytest.mark.parametrize(
    ("name", "freeze"), [("test_vit", "none"), ("mobilenetv3_small_050", "features")]
)
def test_it_begins_with_weights_of_a_file(clone, name, freeze):
    folder = publish(clone, name)
    begin = {"model.pretrained": "true", "training.init_from": folder, "data.normalize": "unit"}
    said, description, card = run(clone, name, **begin, **{"training.freeze": freeze})
    assert f"weights from {folder}: " in said
    assert description["pretrained"] == clone.json(f"{folder}/pretrained.json")
    assert "the file w.safetensors. Their licence is not known here, and applies" in card
    found = clone.json("metrics/train.json")["parameters"]
    head = (timm.create_model(name, num_classes=0).head_hidden_size + 1) * len(CLASSES)
    assert found == head if freeze == "features" else found > head
    # DVC has it already, until the notes of the weights change.
    assert json.loads(clone.run("dvc", "status", "--json")) == {}
    note = clone.folder / folder / "pretrained.json"
    note.write_text(json.dumps(clone.json(note) | {"license": "mit"}))
    assert "train" in json.loads(clone.run("dvc", "status", "--json"))


def test_without_the_hub_nothing_is_trained(clone, tmp_path, monkeypatch):
    monkeypatch.setitem(clone.env, "HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(clone.env, "HF_HOME", str(tmp_path))
    said = clone.striate("fetch", "timm:resnet18", status=2)
    assert said.splitlines()[0] == "weights/no-such-network"
    assert "error: the weights of timm:resnet18 could not be fetched" in said
    assert "striate fetch timm:resnet18 --from FILE" in said
