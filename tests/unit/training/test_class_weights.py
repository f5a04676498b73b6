"""training.class_weights: how much an image counts in the training loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from tiny import CONVNET, UNIT, bars, network, task
from torch import nn

from striate.data.tensors import Split
from striate.training import loop

PLAIN = CONVNET | {"norm": "none", "dropout": 0.0}


def uneven(*sizes):
    """So many images of each class, from those of `bars`."""
    images, labels = bars(3 * max(sizes))
    chosen = torch.cat([(labels == k).nonzero()[:size, 0] for k, size in enumerate(sizes)])
    return Split(images[chosen], labels[chosen])


def weights(train_set):
    return task(train_set, class_weights="balanced").class_weights


@pytest.mark.parametrize("sizes", [(40, 12, 3), (20, 20, 20), (5, 1, 50), (9, 0, 4)])
def test_they_are_those_of_scikit_learn(sizes):
    train_set = uneven(*sizes)
    labels = train_set.labels.numpy()
    there = np.unique(labels)
    expected = compute_class_weight("balanced", classes=there, y=labels)
    ours = weights(train_set)
    assert ours.dtype == torch.float32
    assert ours[there].tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert ours[train_set.labels].mean().item() == pytest.approx(1, rel=1e-6)
    assert task(train_set).class_weights is None


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_step_minimises_the_weighted_sum_divided_by_the_number_of_images(smoothing):
    train_set, batch = uneven(10, 4, 2), 16
    model = network(PLAIN)
    log_probabilities = F.log_softmax(model(UNIT(train_set.images)), 1)
    one_hot = F.one_hot(train_set.labels, 3) * (1 - smoothing) + smoothing / 3
    each = -(one_hot * log_probabilities).sum(1)
    expected = (each * weights(train_set)[train_set.labels]).sum() / batch
    grads = torch.autograd.grad(expected, model.fc.weight)[0]
    before = model.fc.weight.detach().clone()
    ((row),) = loop.fit(
        model,
        task(
            train_set, class_weights="balanced", label_smoothing=smoothing, batch_size=batch,
            epochs=1, optimizer="sgd", momentum=0.0, learning_rate=0.1, log_every=1,
        ),
    )  # fmt: skip
    assert row["step_losses"] == [(1, pytest.approx(expected.item(), abs=1e-6))]
    assert row["train_loss"] == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(model.fc.weight, before - 0.1 * grads, atol=1e-6)


def test_equal_classes_have_the_loss_of_no_weights():
    rows = [
        list(loop.fit(network(), task(bars(48), class_weights=name, log_every=1)))
        for name in ("none", "balanced")
    ]
    for plain, weighted in zip(*rows, strict=True):
        for (_, one), (_, other) in zip(plain["step_losses"], weighted["step_losses"], strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_a_rare_class_is_learnt_sooner():
    """Images too noisy to tell the classes apart: without weights, the common one is the guess."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (200, 1, 6, 6), generator=generator, dtype=torch.uint8)
    labels = (torch.arange(200) % 10 == 0).long()
    images[labels == 1, :, 2] += 40  # which overflows for some
    recalls = {}
    for name in ("none", "balanced"):
        model = network(PLAIN | {"width": 2})
        assert isinstance(model.fc, nn.Linear)
        list(loop.fit(model, task(Split(images, labels), class_weights=name, epochs=4)))
        guesses = model.eval()(UNIT(images)).argmax(1)
        recalls[name] = (guesses[labels == 1] == 1).float().mean().item()
    assert recalls["none"] < 0.2 < 0.4 < recalls["balanced"]
