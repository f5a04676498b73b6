"""The convnet behind fixed Gabor filters."""

import pytest
import torch
from networks import RESIDUAL, build
from settings import settings
from tiny import GABOR, bars, network, task

from striate.config.params import ParamsError
from striate.evaluation import inspection
from striate.models import gabor, registry
from striate.training import loop


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_it_learns_on_top_of_filters_that_stay_the_same(optimizer):
    model = network(GABOR)
    before = model.gabor[0].weight.clone()
    options = {"epochs": 8, "learning_rate": 0.02, "optimizer": optimizer}
    rows = list(loop.fit(model, task(val=bars(30, seed=1), **options)))
    assert rows[-1]["val_accuracy"] == 1.0
    assert torch.equal(model.gabor[0].weight, before)
    assert torch.equal(before[:, 0], gabor.gabor_filters(3, 4))


@pytest.mark.parametrize("side", [3, 5, 7, 31])
def test_filters_ignore_even_grey_and_have_unit_norm(side):
    filters = gabor.gabor_filters(side, 8)
    assert filters.shape == (32, side, side)
    torch.testing.assert_close(filters.sum((1, 2)), torch.zeros(32), rtol=0, atol=1e-5)
    torch.testing.assert_close(filters.flatten(1).norm(dim=1), torch.ones(32))


def test_phases_are_even_odd_and_their_negatives():
    even, odd, minus_even, minus_odd = gabor.gabor_filters(7, 6).view(6, 4, 7, 7).unbind(1)
    torch.testing.assert_close(even, even.flip(1, 2))
    torch.testing.assert_close(odd, -odd.flip(1, 2))
    torch.testing.assert_close(even, -minus_even)
    torch.testing.assert_close(odd, -minus_odd)
    # An even and an odd filter have no part in common.
    torch.testing.assert_close((even * odd).sum((1, 2)), torch.zeros(6), rtol=0, atol=1e-6)


def test_a_bar_excites_the_filter_of_its_orientation_most():
    filters = gabor.gabor_filters(7, 4).view(4, 4, 7, 7)[:, 0]
    upright, level = torch.zeros(7, 7), torch.zeros(7, 7)
    upright[:, 3], level[3] = 1, 1
    rising = torch.eye(7).flip(0)  # from the bottom left to the top right
    answers = [[(one * bar).sum().item() for one in filters] for bar in (upright, rising, level)]
    assert [max(range(4), key=answer.__getitem__) for answer in answers] == [0, 1, 2]


def test_each_colour_is_filtered_by_itself():
    model = build((3, 8, 8), arch="gabor", activation="leaky_relu", orientations=2)
    assert list(model.layers()) == ["gabor", "layer1", "layer2"]
    red = torch.zeros(1, 3, 8, 8)
    red[:, 0] = torch.rand(8, 8)
    out = model.gabor(red)
    assert out.shape == (1, 24, 8, 8)
    assert out[:, :8].abs().min(dim=3).values.max() > 0
    assert out[:, 8:].abs().max() == 0
    drawn = inspection.filters(model)
    assert [(name, value.shape[:2]) for name, value in drawn.items()] == [
        ("gabor", (24, 1)), ("layer1", (16, 24)), ("layer2", (32, 16)),
    ]  # fmt: skip


def test_only_the_network_on_top_learns():
    # conv 5·5·32·16+16 in place of 5·5·1·16+16
    assert (
        registry.count_parameters(build(arch="gabor"))
        == registry.count_parameters(build()) + 25 * 31 * 16
    )
    model = build(arch="gabor", **RESIDUAL, pool="stride")
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_a_filter_needs_three_pixels():
    said = "model.kernel_size is 1; it must be 3 or more where model.arch is gabor$"
    with pytest.raises(ParamsError, match=said):
        settings(model__arch="gabor", model__kernel_size=1)
    with pytest.raises(ParamsError, match="orientations is 0; it must be a whole number from 1 t"):
        settings(model__arch="gabor", model__orientations=0)
    settings(model__arch="gabor", model__kernel_size=3, training__freeze="gabor")
