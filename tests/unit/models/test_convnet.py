"""What the convnet's keys `residual`, `pool` and `norm` change."""

import pytest
import torch
from networks import RESIDUAL, build
from settings import architecture, settings
from tiny import CONVNET, bars, network, task
from torch import nn

from striate.errors import UserError
from striate.evaluation import inspection
from striate.models import configs, convnet, layers, registry
from striate.training import loop

IMAGES = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pool", ["max", "average", "stride"])
@pytest.mark.parametrize("keys", [{}, RESIDUAL], ids=["plain", "residual"])
@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_it_learns_with_each(pool, keys, norm):
    model = network(CONVNET | keys | {"pool": pool, "norm": norm, "width": 8})
    rows = list(loop.fit(model, task(val=bars(30, seed=1), epochs=8, learning_rate=0.02)))
    assert rows[-1]["val_accuracy"] == 1.0


def test_a_skip_adds_the_input_of_a_layer_before_its_last_activation():
    torch.manual_seed(0)
    layer = build((3, 8, 8), width=3, kernel_size=3, **RESIDUAL).layer1.eval()
    images = torch.randn(2, 3, 8, 8)
    assert isinstance(layer[0].skip, nn.Identity)  # the channels stay the same
    inside = layer[0].inside(images)
    expected = torch.relu(nn.functional.max_pool2d(inside + images, 2))
    torch.testing.assert_close(layer(images), expected, rtol=0, atol=0)


@pytest.mark.parametrize("pool", ["max", "stride"])
def test_a_skip_is_projected_where_channels_or_size_change(pool):
    model = build((3, 8, 8), width=[3, 4], pool=pool, **RESIDUAL)
    skips = [type(layer[0].skip) for layer in model.layers().values()]
    assert skips == [nn.Identity if pool == "max" else nn.Sequential, nn.Sequential]
    (projection,) = (part for part in model.layer2[0].skip if isinstance(part, nn.Conv2d))
    assert projection.weight.shape == (4, 3, 1, 1)
    assert list(inspection.filters(model))[-1] == "layer2_conv3"
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_no_filter_of_one_pixel_has_a_stride(kernel_size):
    # Its backward pass may write outside its memory.
    model = build((3, 9, 9), width=4, kernel_size=kernel_size, pool="stride", **RESIDUAL)
    sides = [part.stride for part in model.modules() if getattr(part, "kernel_size", 0) == (1, 1)]
    assert set(sides) == {(1, 1)}
    assert model.layer1(torch.rand(2, 3, 9, 9)).shape == (2, 4, 5, 5)


def test_a_filter_of_one_pixel_takes_the_pixels_of_its_stride():
    layer = nn.Sequential(*convnet.conv(3, 4, 1, 2))
    images = torch.randn(2, 3, 9, 8)
    expected = nn.functional.conv2d(images, layer[-1].weight, layer[-1].bias, stride=2)
    torch.testing.assert_close(layer(images), expected)


def test_parameters_of_a_residual_network_on_mnist():
    # The plain one, and 1·16 + 16·32 weights of projections with their norms.
    plain = registry.count_parameters(build(convs_per_layer=2))
    assert registry.count_parameters(build(**RESIDUAL)) == plain + 16 + 32 + 512 + 64


def test_a_gradient_passes_the_skip_of_a_layer_whose_convolutions_are_zero():
    model = build((3, 8, 8), width=3, layers=1, **RESIDUAL, norm="none")
    for part in model.layer1[0].inside:
        for value in part.parameters():
            nn.init.zeros_(value)
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    model(images).sum().backward()
    assert images.grad.abs().max() > 0


def test_the_average_is_taken_behind_the_activation():
    layer = build(pool="average").layer1.eval()
    conv, norm, activation, pool = layer
    assert isinstance(pool, nn.AvgPool2d)
    windows = activation(norm(conv(IMAGES))).unfold(2, 2, 2).unfold(3, 2, 2)
    torch.testing.assert_close(layer(IMAGES), windows.mean((4, 5)))


@pytest.mark.parametrize("keys", [{}, RESIDUAL])
def test_a_stride_halves_the_image_rounding_up(keys):
    model = build(layers=4, width=4, pool="stride", **keys)
    assert not any(isinstance(part, nn.MaxPool2d) for part in model.modules())
    maps = inspection.feature_maps(model, IMAGES)
    assert [value.shape[2:] for value in maps.values()] == [(14, 14), (7, 7), (4, 4), (2, 2)]
    assert model(IMAGES).shape == (4, 10)
    with pytest.raises(UserError, match=r"^model.layers is 5, .*; the largest possible value is 4"):
        build(layers=5, width=4, pool="stride", **keys)


def test_the_stride_is_that_of_the_last_convolution():
    strides = [conv.stride for conv in build(pool="stride", convs_per_layer=3).layer1[::3]]
    assert strides == [(1, 1), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("channels", "count"), [(2, 1), (4, 1), (7, 1), (8, 2), (12, 3), (16, 4), (20, 5), (64, 8)]
)
def test_groups_are_eight_or_fewer_of_four_channels_or_more(channels, count):
    assert layers.groups(channels) == count
    (norm,) = layers.norm_layers("group", channels)
    assert (norm.num_groups, norm.num_channels) == (count, channels)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_an_image_is_normalized_by_itself(norm):
    torch.manual_seed(0)
    model = build(norm=norm)
    assert not list(model.buffers())
    alone = torch.cat([model(image[None]) for image in IMAGES])
    torch.testing.assert_close(model(IMAGES), alone)
    out = model.layer1[1](model.layer1[0](IMAGES)).view(4, 4 if norm == "group" else 1, -1)
    torch.testing.assert_close(out.mean(2), torch.zeros(out.shape[:2]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("arch", ["convnet", "speedrun"])
def test_a_norm_of_one_channel_is_refused(arch):
    keys = {"model__arch": arch, "model__width": [4, 1]}
    settings(**keys, model__norm="batch")
    with pytest.raises(UserError, match=r"model.width is \[4, 1\]; each layer must have 2 channel"):
        settings(**keys, model__norm="layer")


def test_the_speedrun_takes_every_norm_without_a_learnt_scale():
    model = build((3, 32, 32), arch="speedrun", norm="group", width=16)
    scales = [part.weight for part in model.modules() if isinstance(part, nn.GroupNorm)]
    assert len(scales) == 2
    assert not any(scale.requires_grad for scale in scales)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_a_description_names_new_keys_only_where_they_are_set():
    """So that checkpoints of networks without them stay the same files."""
    plain = configs.parse(architecture()).architecture()
    assert list(plain) == [
        "arch", "layers", "width", "kernel_size", "convs_per_layer", "norm", "activation",
        "dropout", "whiten",
    ]  # fmt: skip
    changed = configs.parse(architecture(**RESIDUAL)).architecture()
    assert changed == plain | RESIDUAL
    registry.build((1, 8, 8), 10, changed).load_state_dict(
        build((1, 8, 8), **RESIDUAL).state_dict()
    )
