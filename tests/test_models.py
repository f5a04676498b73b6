"""The network: the notebook's structure, and what each key changes."""

import pytest
import torch
from torch import nn

from striate import models
from striate.errors import UserError

ARCHITECTURE = {
    "layers": 2,
    "width": 16,
    "kernel_size": 5,
    "convs_per_layer": 1,
    "norm": "batch",
    "activation": "relu",
    "dropout": 0.0,
}


def build(shape=(1, 28, 28), classes=10, **changes):
    return models.ConvNet(shape, classes, **ARCHITECTURE | changes)


class Tutorial(nn.Module):
    """The two-layer network of the notebook, put together by hand."""

    def __init__(self, channels, side):
        super().__init__()
        for number, (inputs, outputs) in enumerate([(channels, 16), (16, 32)], start=1):
            block = nn.Sequential(
                nn.Conv2d(inputs, outputs, 5, stride=1, padding=2),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.MaxPool2d(2, 2),
            )
            setattr(self, f"layer{number}", block)
        self.fc = nn.Linear(side * side * 32, 10)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(x)).flatten(1))


@pytest.mark.parametrize(("shape", "side"), [((1, 28, 28), 7), ((3, 32, 32), 8)])
def test_weights_are_interchangeable_with_the_notebooks_network(shape, side):
    ours, theirs = build(shape), Tutorial(shape[0], side)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.rand(4, *shape)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=0, atol=0)
    ours.load_state_dict(Tutorial(shape[0], side).state_dict(), strict=True)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_each_layer_doubles_the_channels_and_halves_the_image(layers):
    model = build(layers=layers, width=4)
    maps = models.feature_maps(model, torch.rand(2, 1, 28, 28))
    side = 28
    for number, (name, value) in enumerate(maps.items(), start=1):
        side //= 2
        assert name == f"layer{number}"
        assert value.shape == (2, 4 * 2 ** (number - 1), side, side)
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("shape", "most"), [((1, 8, 8), 3), ((1, 28, 28), 4), ((3, 32, 32), 5), ((1, 9, 40), 3)]
)
def test_too_many_layers_name_the_key_and_the_largest_value(shape, most):
    build(shape, layers=most, width=1)(torch.rand(2, *shape))
    with pytest.raises(UserError, match=f"model.layers is {most + 1}.*largest possible.* {most}$"):
        build(shape, layers=most + 1, width=1)


def test_keys_of_the_architecture_change_the_modules():
    plain = build(norm="none", activation="gelu", convs_per_layer=2, kernel_size=3, dropout=0.25)
    kinds = [type(part) for part in plain.layer1]
    assert kinds == [nn.Conv2d, nn.GELU, nn.Conv2d, nn.GELU, nn.MaxPool2d]
    assert plain.layer1[0].kernel_size == (3, 3)
    assert plain.dropout.p == 0.25
    assert list(models.filters(plain)) == [
        "layer1_conv1", "layer1_conv2", "layer2_conv1", "layer2_conv2",
    ]  # fmt: skip


@pytest.mark.parametrize("activation", models.ACTIVATIONS)
def test_every_activation_of_the_schema_can_be_built(activation):
    assert build(activation=activation)(torch.zeros(1, 1, 28, 28)).isfinite().all()


def test_the_schema_and_the_model_know_the_same_names():
    from striate.params import Model

    schema = Model.model_json_schema()["properties"]
    assert set(schema["activation"]["enum"]) == set(models.ACTIVATIONS)
    assert set(schema) == set(ARCHITECTURE)


def test_parameters_of_the_notebooks_network_on_mnist():
    # conv 5·5·1·16+16, norm 32, conv 5·5·16·32+32, norm 64, linear 1568·10+10
    assert models.count_parameters(build()) == 416 + 32 + 12_832 + 64 + 15_690


def test_filters_have_the_shape_out_in_side_side():
    shapes = {name: tuple(weight.shape) for name, weight in models.filters(build()).items()}
    assert shapes == {"layer1": (16, 1, 5, 5), "layer2": (32, 16, 5, 5)}
