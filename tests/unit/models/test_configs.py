"""Every registered network is what its config says, before and after it is built."""

import inspect

import pytest
import torch
from settings import COMMITTED

from striate.config import params
from striate.models import configs, registry

SHAPE, CLASSES = (3, 32, 32), 7


def of(arch):
    """The network of the committed params, and its config."""
    model = COMMITTED["model"] | {"arch": arch}
    return registry.build(SHAPE, CLASSES, model), configs.parse(model)


@pytest.mark.parametrize("arch", configs.CONFIGS)
def test_its_arguments_are_the_keys_of_its_config(arch):
    network, config = of(arch)
    keys = {"arch", *inspect.getfullargspec(type(network)).kwonlyargs}
    assert keys == set(type(config).model_fields)
    assert list(network.layers()) == config.layer_names()
    assert network(torch.rand(2, *SHAPE)).shape == (2, CLASSES)


@pytest.mark.parametrize("arch", configs.CONFIGS)
def test_its_parameters_are_counted_and_each_has_one_role(arch):
    network, config = of(arch)
    every = list(network.parameters())
    assert config.count_parameters(SHAPE, CLASSES) == sum(value.numel() for value in every)
    roles = network.parameter_roles()
    assert list(roles) == ["filters", "head", "biases"]
    found = [id(parameter) for members in roles.values() for parameter in members]
    assert sorted(found) == sorted(map(id, every))


@pytest.mark.parametrize("arch", configs.CONFIGS)
def test_a_key_means_the_same_as_in_every_other_network(arch):
    schema = params.sections()["model"].model_fields
    for key, field in configs.CONFIGS[arch].model_fields.items():
        if key != "arch":
            assert field.annotation == schema[key].annotation, key
            assert field.metadata == schema[key].metadata, key
