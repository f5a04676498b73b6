"""The residual network: the paper's sizes, and what its skip connections do."""

import pytest
import torch
from networks import build
from settings import architecture
from torch import nn

from striate.evaluation import inspection
from striate.models import configs, registry
from striate.models.resnet import block

RESNET = {"arch": "resnet", "layers": 3, "width": 16}


# "# params" of table 6 in arXiv:1512.03385: 0.27 M, 0.46 M, 0.66 M, 0.85 M
@pytest.mark.parametrize(
    ("layers", "parameters"), [(3, 269_722), (5, 464_154), (7, 658_586), (9, 853_018)]
)
def test_it_has_the_parameters_of_the_paper(layers, parameters):
    config = configs.parse(architecture(**RESNET | {"layers": layers}))
    assert config.count_parameters((3, 32, 32), 10) == parameters


@pytest.mark.parametrize("skips", [True, False])
def test_resnet_20_is_built_as_counted_and_has_20_layers_with_weights(skips):
    model = build((3, 32, 32), **RESNET | {"skips": skips})
    # stem 432+32, stages 14,016, 51,072 and 203,520, head 650
    assert registry.count_parameters(model) == 269_722
    weighted = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(weighted) == 20


@pytest.mark.parametrize(
    ("shape", "sides"),
    [((3, 32, 32), [32, 32, 16, 8]), ((1, 28, 28), [28, 28, 14, 7]), ((1, 8, 8), [8, 8, 4, 2]),
     ((3, 9, 9), [9, 9, 5, 3]), ((1, 1, 1), [1, 1, 1, 1])],
)  # fmt: skip
def test_two_stages_halve_the_image_rounding_up(shape, sides):
    model = build(shape, **RESNET | {"layers": 1, "width": 4})
    maps = inspection.feature_maps(model, torch.rand(2, *shape))
    assert list(maps) == ["stem", "stage1", "stage2", "stage3"]
    assert [value.shape[2] for value in maps.values()] == sides
    assert [value.shape[1] for value in maps.values()] == [4, 4, 8, 16]
    assert model(torch.rand(2, *shape)).shape == (2, 10)


def silent(model):
    """The same block, whose convolutions give nothing."""
    *_, norm = (part for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    nn.init.zeros_(norm.weight)
    return model.eval()


def test_what_convolutions_leave_out_passes_by_the_skip_connection():
    features = torch.rand(2, 4, 6, 6)
    assert torch.equal(silent(block(4, 4, 1, skip=True))(features), features)
    assert not silent(block(4, 4, 1, skip=False))(features).any()


def test_a_skip_connection_to_a_smaller_image_takes_every_other_pixel_and_adds_zeros():
    features = torch.rand(2, 4, 5, 5)
    passed = silent(block(4, 8, 2, skip=True))(features)
    assert passed.shape == (2, 8, 3, 3)
    assert torch.equal(passed[:, :4], features[:, :, ::2, ::2])
    assert not passed[:, 4:].any()


def test_without_skip_connections_the_weights_are_the_same():
    torch.manual_seed(0)
    plain = build(**RESNET | {"skips": False})
    torch.manual_seed(0)
    pairs = zip(build(**RESNET).parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_convolutions_begin_with_the_variance_of_the_paper():
    torch.manual_seed(0)
    for name, weight in inspection.filters(build((3, 32, 32), **RESNET)).items():
        assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.1), name


def test_skip_connections_keep_the_gradient_of_a_deep_network_from_growing():
    sizes = {}
    for skips in (True, False):
        torch.manual_seed(0)
        model = build((1, 8, 8), **RESNET | {"layers": 9, "width": 4, "skips": skips})
        loss = nn.functional.cross_entropy(model(torch.rand(64, 1, 8, 8)), torch.arange(64) % 10)
        loss.backward()
        first, last = model.stem[0].weight, model.head.weight
        sizes[skips] = (first.grad.norm() / last.grad.norm()).item()
    # In the plain network batch norms blow the gradient up from layer to layer (G. Yang et al.,
    # arXiv:1902.08129).
    assert sizes[True] < sizes[False]
