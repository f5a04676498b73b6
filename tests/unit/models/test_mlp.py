"""The multilayer perceptron."""

import pytest
import torch
from networks import build
from tiny import MLP, bars, network, task
from torch import nn

from striate.evaluation import inspection
from striate.models import registry
from striate.training import loop, norms

CPU = torch.device("cpu")


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_it_learns_with_each_norm(norm):
    model = network(MLP | {"norm": norm})
    rows = list(loop.fit(model, task(val=bars(30, seed=1), epochs=8, learning_rate=0.02)))
    assert rows[-1]["val_accuracy"] == 1.0


def test_parameters_of_the_perceptron_of_1998_on_mnist():
    """Of Y. LeCun et al., 1998: 28×28-300-10 has 784·300 + 300 + 300·10 + 10 of them."""
    model = build(arch="mlp", layers=1, width=300, norm="none")
    assert registry.count_parameters(model) == 238_510
    assert registry.count_parameters(build(arch="mlp", layers=1, width=300)) == 238_510 + 600


def test_every_hidden_layer_has_the_same_width_or_the_listed_one():
    for width, found in ((7, [7, 7, 7]), ([9, 4, 5], [9, 4, 5])):
        model = build(arch="mlp", layers=3, width=width)
        assert [layer[0].out_features for layer in model.layers().values()] == found
        assert model(torch.rand(4, 1, 28, 28)).shape == (4, 10)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 9), (1, 200, 3)])
def test_it_takes_images_of_every_size(shape):
    model = build(shape, arch="mlp", layers=16, width=2)
    assert model(torch.rand(2, *shape)).shape == (2, 10)


def test_the_filters_of_the_first_layer_are_images():
    model = build((3, 6, 8), arch="mlp").eval()
    ((name, filters),) = inspection.filters(model).items()
    assert (name, filters.shape) == ("layer1", (16, 3, 6, 8))
    images = torch.rand(5, 3, 6, 8).contiguous(memory_format=torch.channels_last)
    by_hand = nn.functional.conv2d(images, filters).flatten(1) + model.layer1[0].bias
    torch.testing.assert_close(model.layer1[0](images), by_hand)
    maps = inspection.feature_maps(model, images)
    assert [value.shape for value in maps.values()] == [(5, 16, 1, 1), (5, 16, 1, 1)]


def test_its_batch_norms_are_told_apart_in_several_processes():
    model = build(arch="mlp")
    assert not norms.synchronize_(model, CPU)
    assert len(norms.running_statistics(model.train())) == 4
    assert norms.synchronize_(build(arch="mlp", norm="layer"), CPU)
