"""The network of few parameters: what it applies again and again, and its size."""

import pytest
import torch
from networks import build
from settings import architecture

from striate.errors import UserError
from striate.evaluation import inspection
from striate.models import configs, registry

RECURRENT = {"arch": "recurrent", "layers": 3, "width": 11, "kernel_size": 3}


def test_it_has_few_parameters():
    # stem 99+22, convolution 99+121, norms 66, rows and columns 77+77, head 120
    config = configs.parse(architecture(**RECURRENT))
    assert config.count_parameters((1, 28, 28), 10) == 681
    assert registry.count_parameters(build((1, 28, 28), **RECURRENT)) == 681
    # Once more costs the two numbers a channel of a norm.
    more = RECURRENT | {"layers": 4}
    assert registry.count_parameters(build((1, 28, 28), **more)) == 681 + 22


@pytest.mark.parametrize(
    ("shape", "sides"), [((3, 32, 32), (16, 8)), ((1, 28, 28), (14, 7)), ((1, 9, 7), (4, 2))]
)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_halves_the_image_twice(shape, sides, layers):
    model = build(shape, **RECURRENT | {"layers": layers})
    maps = inspection.feature_maps(model, torch.rand(2, *shape))
    assert list(maps) == ["stem", "recurrent", "place"]
    assert [value.shape[2] for value in maps.values()] == [*sides, 1]
    assert model(torch.rand(2, *shape)).shape == (2, 10)


def test_each_time_adds_to_what_came_before():
    model = build((1, 8, 8), **RECURRENT | {"layers": 2}).recurrent.eval()
    features = torch.rand(2, 11, 4, 4)
    once = features + model.activation(model.norms[0](model.channels(model.pixels(features))))
    pooled = model.pool(once)
    twice = pooled + model.activation(model.norms[1](model.channels(model.pixels(pooled))))
    torch.testing.assert_close(model(features), twice, rtol=0, atol=0)


def test_a_feature_weighs_places():
    model = build((1, 8, 8), **RECURRENT).eval()
    features = torch.rand(1, 11, 2, 2)
    rows, columns = (part.weight.view(11, 2) for part in model.place)
    expected = torch.einsum("chw,ch,cw->c", features[0], rows, columns)
    torch.testing.assert_close(model.place(features).flatten(), expected)


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(UserError, match="3×8 pixels"):
        build((1, 3, 8), **RECURRENT)
    config = configs.parse(architecture(**RECURRENT))
    assert config.smallest_side() == 4
    assert config.normalizes_one_value(7)
    assert not config.normalizes_one_value(8)
