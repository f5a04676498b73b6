"""LeNet-5, against the numbers of its paper."""

import pytest
import torch
from networks import build
from settings import architecture, settings
from torch import nn

from striate.config.params import ParamsError
from striate.evaluation import inspection
from striate.models import configs, registry, sizing


def test_parameters_are_those_of_the_paper():
    """C1, C5 and F6 are; here C3 sees all maps, and the output is linear."""
    model = build(arch="lenet5")
    parts = [*model.layers().values(), model.head]
    assert [registry.count_parameters(part) for part in parts] == [156, 2416, 48_120, 10_164, 850]
    assert registry.count_parameters(model) == 61_706
    assert registry.count_parameters(build((3, 32, 32), arch="lenet5")) == 62_006
    assert registry.count_parameters(build((1, 8, 8), arch="lenet5")) == 15_626


def test_feature_maps_have_the_sizes_of_the_paper():
    maps = inspection.feature_maps(build(arch="lenet5"), torch.rand(2, 1, 28, 28))
    shapes = [tuple(value.shape[1:]) for value in maps.values()]
    assert shapes == [(6, 14, 14), (16, 5, 5), (120, 1, 1), (84, 1, 1)]


@pytest.mark.parametrize(
    ("side", "padding", "left"),
    [(28, (2, 2), 5), (32, (0, 0), 5), (8, (4, 4), 1), (1, (7, 8), 1), (33, (7, 8), 9)],
)
def test_a_side_is_padded_to_a_multiple_of_16(side, padding, left):
    assert sizing.lenet5_padding(side) == padding
    assert sizing.lenet5_sides((side, 16)) == (left, 1)
    model = build((1, side, 16), arch="lenet5")
    assert model.layer3[0].kernel_size == (left, 1)
    assert model(torch.rand(2, 1, side, 16)).shape == (2, 10)


def test_it_has_tanh_and_average_pooling_whatever_other_networks_have():
    keys = {"norm": "layer", "activation": "gelu", "layers": 16, "width": 1, "dropout": 0.5}
    model = build(arch="lenet5", **keys)
    kinds = {type(part) for part in model.modules()} - {type(model), nn.Sequential}
    assert kinds == {nn.ZeroPad2d, nn.Conv2d, nn.Tanh, nn.AvgPool2d, nn.Flatten, nn.Linear}
    assert registry.count_parameters(model) == 61_706
    config = configs.parse(architecture(arch="lenet5", **keys))
    assert config.architecture() == {"arch": "lenet5", "whiten": 0}
    assert (config.layers, config.width) == (4, [6, 16, 120, 84])


def test_its_four_layers_can_be_frozen():
    settings(model__arch="lenet5", training__freeze="layer4")
    with pytest.raises(ParamsError, match=r"one of none, features, layer1, layer2, layer3, layer4 "
                       "where model.arch is lenet5$"):  # fmt: skip
        settings(model__arch="lenet5", training__freeze="layer5")


def test_keys_that_it_does_not_read_do_not_describe_it():
    params = {"model.arch": "lenet5", "model.layers": 2, "model.width": 16}
    assert configs.stated_size(params) == {}
    assert configs.stated_size(params | {"model.arch": "mlp"}) == {"layers": 2, "width": 16}
    assert configs.stated_size(params | {"model.arch": "unknown"}) == {"layers": 2, "width": 16}
    assert configs.stated_size({"model.layers": 2}) == {"layers": 2}
