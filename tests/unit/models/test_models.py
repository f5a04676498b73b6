"""The networks: the notebook's structure, and what each key changes."""

import pytest
import torch
from networks import RESIDUAL, SPEEDRUN, Tutorial, build
from settings import architecture
from torch import nn

from striate.errors import UserError
from striate.evaluation import inspection
from striate.models import configs, convnet, layers, registry
from striate.models.defaults import FIRST
from striate.training import norms, transfer


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
    maps = inspection.feature_maps(model, torch.rand(2, 1, 28, 28))
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
    assert list(inspection.filters(plain)) == [
        "layer1_conv1", "layer1_conv2", "layer2_conv1", "layer2_conv2",
    ]  # fmt: skip


@pytest.mark.parametrize("activation", layers.ACTIVATIONS)
def test_every_activation_of_the_schema_can_be_built(activation):
    assert build(activation=activation)(torch.zeros(1, 1, 28, 28)).isfinite().all()


def test_the_section_model_has_the_keys_of_all_networks():
    schema = configs.section().model_json_schema()["properties"]
    assert schema["activation"]["enum"] == list(layers.ACTIVATIONS)
    assert list(schema) == list(architecture())
    assert schema["arch"]["enum"] == list(configs.CONFIGS)


@pytest.mark.parametrize("changes", [{}, SPEEDRUN, SPEEDRUN | {"whiten": 0}])
def test_a_network_is_what_its_config_says(changes):
    model, config = build(**changes), configs.parse(architecture(**changes))
    assert list(model.layers()) == config.layer_names()
    found = FIRST | config.architecture()
    assert found.items() <= architecture(**changes).items()
    assert found.keys() >= type(config).model_fields.keys()
    smallest, channels = config.smallest_side(), 3
    build((channels, smallest, smallest), **changes)
    with pytest.raises(UserError, match=r"model\.layers is 2, too many"):
        build((channels, smallest - 1, smallest), **changes)


@pytest.mark.parametrize("changes", [{}, {"norm": "none"}, {"norm": "layer"}, RESIDUAL, SPEEDRUN])
def test_each_parameter_has_one_role(changes):
    model = build(**changes)
    roles = model.parameter_roles()
    assert list(roles) == ["filters", "head", "biases"]
    found = [id(parameter) for members in roles.values() for parameter in members]
    assert sorted(found) == sorted(map(id, model.parameters()))
    assert [weight.dim() for weight in roles["head"]] == [2]
    assert {weight.dim() for weight in roles["filters"]} == {4}
    assert {value.dim() for value in roles["biases"]} <= {1}


def test_parameters_of_the_notebooks_network_on_mnist():
    # conv 5·5·1·16+16, norm 32, conv 5·5·16·32+32, norm 64, linear 1568·10+10
    assert registry.count_parameters(build()) == 416 + 32 + 12_832 + 64 + 15_690


def test_filters_have_the_shape_out_in_side_side():
    shapes = {name: tuple(weight.shape) for name, weight in inspection.filters(build()).items()}
    assert shapes == {"layer1": (16, 1, 5, 5), "layer2": (32, 16, 5, 5)}


def test_a_list_of_widths_names_the_channels_of_each_layer():
    maps = inspection.feature_maps(build(layers=3, width=[4, 6, 5]), torch.rand(1, 1, 28, 28))
    assert [value.shape[1] for value in maps.values()] == [4, 6, 5]


@pytest.mark.parametrize("activation", convnet.RISING)
def test_pooling_before_a_rising_activation_changes_no_value_and_no_gradient(activation):
    torch.manual_seed(0)
    layer = build(activation=activation).layer1
    conv, norm, pool, act = layer
    assert isinstance(pool, nn.MaxPool2d)
    images = torch.rand(4, 1, 28, 28)
    results = []
    for order in ((conv, norm, pool, act), (conv, norm, act, pool)):
        norm.reset_running_stats()
        layer.zero_grad()
        out = nn.Sequential(*order)(images)
        out.square().sum().backward()
        results.append((out, conv.weight.grad.clone()))
    assert torch.equal(results[0][0], results[1][0])
    if activation != "tanh":  # whose neighbours near 1 can round to the same value
        assert torch.equal(results[0][1], results[1][1])


def test_the_whitening_layer_makes_patches_uncorrelated_and_does_not_learn():
    torch.manual_seed(0)
    model = build((3, 32, 32), **SPEEDRUN)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(64, 3, 36, 36), 5, stride=1)
    model.fit_to_data(smooth)
    conv = model.whiten[0]
    assert conv.weight.shape == (24, 3, 2, 2)
    assert torch.equal(conv.weight[:12], -conv.weight[12:])
    assert not conv.weight.requires_grad
    assert conv.bias is None
    out = conv(smooth)[:, :12].transpose(0, 1).flatten(1)
    covariance = out @ out.T / out.shape[1]
    # An eigenvalue v becomes v / (v + epsilon).
    assert (covariance - torch.diag(covariance.diag())).abs().max() < 1e-3
    assert covariance.diag().min() > 0.5
    assert covariance.diag().max() < 1.0
    assert covariance.diag().tolist() == sorted(covariance.diag().tolist(), reverse=True)


def test_a_network_without_a_whitening_layer_is_left_alone():
    for model in (build(), build(**SPEEDRUN | {"whiten": 0})):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        model.fit_to_data(torch.rand(8, 1, 28, 28))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_speedrun_begins_by_passing_features_through():
    model = build((3, 32, 32), **SPEEDRUN)
    assert list(model.layers()) == ["whiten", "layer1", "layer2"]
    conv = model.layer1[0]
    features = torch.rand(2, 24, 31, 31)
    torch.testing.assert_close(conv(features), features[:, :8], rtol=0, atol=0)
    wider = model.layer2[0](torch.rand(2, 8, 15, 15))
    assert wider.shape == (2, 16, 15, 15)
    assert model.head.weight.std().item() == pytest.approx(1 / 256)
    kinds = [type(part) for part in model.layer1]
    assert kinds == [
        nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d, nn.GELU, nn.Conv2d, nn.BatchNorm2d, nn.GELU,
    ]  # fmt: skip
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(("shape", "most"), [((1, 8, 8), 2), ((1, 28, 28), 4), ((3, 32, 32), 4)])
def test_whitening_takes_a_pixel_from_the_layers(shape, most):
    keys = SPEEDRUN | {"width": 1}
    build(shape, **keys | {"layers": most})(torch.rand(2, *shape))
    with pytest.raises(UserError, match=f"model.layers is {most + 1}.*largest possible.* {most}$"):
        build(shape, **keys | {"layers": most + 1})


def random_start(network):
    """The same network with other weights, and norms that have seen something."""
    torch.manual_seed(1)
    for value in network.state_dict().values():
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.5, 1)
    return network


def test_every_part_that_fits_is_taken_and_the_rest_is_named():
    source, target = random_start(build()), build(classes=5)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    taken, others = transfer.transfer_(target, source.state_dict())
    assert taken == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    assert others == ["fc"]
    for name, value in target.state_dict().items():
        origin = before if name.startswith("fc") else source.state_dict()
        assert torch.equal(value, origin[name]), name


def test_a_part_is_taken_whole_or_not_at_all():
    weights = random_start(build()).state_dict()
    del weights["layer1.0.bias"]
    weights["layer2.1.weight"] = torch.zeros(7)
    target = build()
    first = target.state_dict()["layer1.0.weight"].clone()
    taken, others = transfer.transfer_(target, weights)
    assert taken == ["layer1.1", "layer2.0", "fc"]
    assert others == ["layer1.0", "layer2.1"]
    assert torch.equal(target.state_dict()["layer1.0.weight"], first)


def test_images_of_other_channels_and_sizes_take_what_is_left():
    taken, others = transfer.transfer_(build((3, 32, 32)), build().state_dict())
    assert others == ["layer1.0", "fc"]
    assert taken == ["layer1.1", "layer2.0", "layer2.1"]


@pytest.mark.parametrize("arch", [{}, RESIDUAL, RESIDUAL | {"norm": "group"}, SPEEDRUN])
@pytest.mark.parametrize(
    ("until", "frozen"),
    [("none", set()), ("layer1", {"layer1"}), ("features", {"layer1", "layer2"})],
)
def test_frozen_layers_do_not_change_in_training(arch, until, frozen):
    network = build(**arch)
    transfer.freeze_(network, until)
    norms.train_(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    changing = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(changing, lr=0.1)
    network(torch.rand(8, 1, 28, 28)).square().sum().backward()
    optimizer.step()
    changed = {
        name.split(".")[0]
        for name, value in network.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed & {"layer1", "layer2"} == {"layer1", "layer2"} - frozen
    assert changed - {"layer1", "layer2"}  # the head always learns
    assert registry.count_parameters(network) == sum(value.numel() for value in changing)


def test_the_whitening_solves_for_its_filters_on_the_cpu(monkeypatch):
    """PyTorch has no `eigh` for MPS."""
    asked, to_cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda self: (asked.append(tuple(self.shape)), to_cpu(self))[1]
    )
    build((3, 8, 8), **SPEEDRUN).fit_to_data(torch.rand(10, 3, 8, 8))
    assert asked == [(12, 12)]
