"""Each training image is classified by the network of its own part, and by no other."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from striate.data import arrays
from striate.data.arrays import LabeledImages, LoadedDataset
from striate.data.source import Source
from striate.data.splits import fold_split
from striate.serving import held_out

FOLDS = [f"{part}/4" for part in range(1, 5)]


class Named(torch.nn.Module):
    """Says which part it was trained without, by the class that it finds likeliest."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, images):
        logits = torch.zeros(len(images), len(FOLDS))
        logits[:, self.part] = 5
        return logits


@pytest.fixture
def data(tmp_path):
    random = np.random.RandomState(0)
    labels = np.arange(90) % 4
    both = LabeledImages(random.randint(0, 256, (90, 1, 6, 6), np.uint8), labels)
    arrays.write(
        LoadedDataset(Source("made up"), tuple("abcd"), 255, (0.5,), (0.2,), both, both),
        tmp_path / "data",
    )
    return tmp_path / "data"


@pytest.mark.parametrize("at_once", [7, 10_000])
def test_no_image_is_classified_by_a_network_that_saw_it(data, monkeypatch, at_once):
    def load(folder, device):
        part = FOLDS.index(folder.name.replace("-", "/"))
        return SimpleNamespace(model=Named(part), normalization=lambda images: images.float())

    monkeypatch.setattr(held_out.checkpoint, "load", load)
    monkeypatch.setattr(held_out, "AT_ONCE", at_once)
    networks = {fold: data / fold.replace("/", "-") for fold in FOLDS}
    found = held_out.classify(data, networks, 3, batch_size=10, tta="none")
    labels = np.arange(90) % 4
    for part, fold in enumerate(FOLDS):
        kept, without = fold_split(labels, fold, 3)
        assert (found[without].argmax(1) == part).all()
        assert (found[kept].argmax(1) != part).all()
    assert found.sum(1) == pytest.approx(np.ones(90))
