"""Weights from the notebook's own loop give the same accuracy here, to the last digit."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Tutorial
from paths import ROOT
from settings import COMMITTED
from stages import write_params
from torch import nn

from striate.data import arrays
from striate.datasets import fetch, registry
from striate.models import checkpoint, normalization

STEPS = 60


def tutorial_loop(dataset, shape):
    """Adam at 0.001, batches of 100 from a loader, cross-entropy: the notebook's training."""
    torch.manual_seed(0)
    model = Tutorial(shape[0], shape[1] // 4)
    loader = torch.utils.data.DataLoader(dataset, batch_size=100, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    loss_function = nn.CrossEntropyLoss()
    model.train()
    for _, (batch, labels) in zip(range(STEPS), loader, strict=False):
        loss = loss_function(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def tutorial_accuracy(model, dataset):
    correct = total = 0
    for batch, labels in torch.utils.data.DataLoader(dataset, batch_size=100):
        correct += (model(batch).argmax(1) == labels).sum().item()
        total += len(labels)
    return correct / total


@pytest.mark.walk
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_checkpoint_of_the_notebooks_loop_scores_the_same(name, mirror, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10, MNIST
    from torchvision.transforms import ToTensor

    entry = registry.DATASETS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRIATE_TRACKING", "off")
    write_params(tmp_path, data__name=name)
    fetch.prepare(name, Path("data"), str(mirror))

    # The loop reads what torchvision reads; MNIST's archives are unpacked in a folder of the test.
    if name == "mnist":
        raw = tmp_path / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for archive in (mirror / "MNIST/raw").glob("*.gz"):
            (raw / archive.name).symlink_to(archive)
        parts = [MNIST(tmp_path, train, ToTensor(), download=True) for train in (True, False)]
    else:
        parts = [CIFAR10(mirror, train, ToTensor()) for train in (True, False)]
    model = tutorial_loop(parts[0], entry.shape)
    theirs = tutorial_accuracy(model, parts[1])

    # Saved as the notebook saves it, with the description that makes it one of ours.
    Path("models").mkdir()
    torch.save(model.state_dict(), "models/cnn_trained.ckpt")
    manifest = arrays.load_manifest(Path("data"))
    description = checkpoint.describe(
        COMMITTED["model"], manifest, normalization.pick_normalization(manifest, "unit")
    )
    Path("models/model.json").write_text(json.dumps(description))
    runpy.run_path(str(ROOT / "stages/evaluate.py"), run_name="__main__")
    ours = json.loads(Path("metrics/test.json").read_text())
    assert ours["accuracy"] == theirs
    assert ours["n"] == 10_000
    assert np.load("predictions/logits.npy").shape == (10_000, 10)
