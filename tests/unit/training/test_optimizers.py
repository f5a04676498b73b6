"""The optimizers: PyTorch's own arithmetic, groups with rates, and Muon's orthogonal updates."""

import pytest
import torch
from tiny import SPEEDRUN, settings
from torch import nn

from striate.models import registry
from striate.training import muon, optimizers


class Small(nn.Sequential):
    def parameter_roles(self):
        conv, _, linear = self
        biases = [conv.bias, linear.bias]
        return {"filters": [conv.weight], "head": [linear.weight], "biases": biases}


def network(seed=0):
    torch.manual_seed(seed)
    return Small(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3))


def steps(model, found, count=4):
    """Train on the same few batches; `found` are optimizers of either kind."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        images = torch.rand(5, 1, 6, 6, generator=generator)
        model.zero_grad()
        model(images).square().sum().backward()
        for optimizer in found:
            optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def ours(**changes):
    model = network()
    training = settings(**{"learning_rate": 0.02} | changes).training
    return model, optimizers.build_optimizers(model, training, fused=False, dtype=torch.float32)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_step_is_that_of_pytorchs_optimizer_to_the_last_bit(name, decay):
    model, found = ours(optimizer=name, weight_decay=decay)
    theirs = network()
    kind, more = {
        "adam": (torch.optim.Adam, {}),
        "adamw": (torch.optim.AdamW, {}),
        "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    }[name]
    optimizer = kind(theirs.parameters(), lr=0.02, weight_decay=decay, **more)
    for a, b in zip(steps(model, found), steps(theirs, [optimizer]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_fused_steps_differ_in_rounding_only(name):
    training = settings(optimizer=name).training
    results = []
    for fused in (False, True):
        model = network()
        found = optimizers.build_optimizers(model, training, fused=fused, dtype=torch.float32)
        results.append(steps(model, found))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_each_kind_of_parameter_has_its_rate():
    model, found = ours(bias_rate=10.0, head_rate=0.5, optimizer="sgd")
    rates = {id(param): optimizer.lr for optimizer in found for param in optimizer.params}
    conv, _, linear = model
    expected = {conv.weight: 0.02, linear.weight: 0.01, conv.bias: 0.2, linear.bias: 0.2}
    assert rates == pytest.approx({id(param): rate for param, rate in expected.items()})
    _, equal = ours(optimizer="sgd")
    assert [len(optimizer.params) for optimizer in equal] == [4]


def test_what_does_not_learn_is_left_out():
    architecture = SPEEDRUN | {"layers": 2, "width": [8, 16], "whiten": 2}
    groups = optimizers.parameter_groups(registry.build((3, 32, 32), 10, architecture))
    assert [tuple(param.shape) for param in groups["filters"]] == [
        (8, 24, 3, 3), (8, 8, 3, 3), (16, 8, 3, 3), (16, 16, 3, 3),
    ]  # fmt: skip
    assert [tuple(param.shape) for param in groups["head"]] == [(10, 16)]
    assert [len(param) for param in groups["biases"]] == [8, 8, 16, 16]


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (8, 8)])
def test_orthogonal_brings_the_singular_values_near_1_and_keeps_the_directions(shape):
    generator = torch.Generator().manual_seed(3)
    left, _ = torch.linalg.qr(torch.randn(shape[0], min(shape), generator=generator))
    right, _ = torch.linalg.qr(torch.randn(shape[1], min(shape), generator=generator))
    values = torch.linspace(0.2, 1.0, min(shape))
    found = muon.orthogonal(left @ torch.diag(values) @ right.T)
    inside = left.T @ found @ right
    assert torch.linalg.svdvals(found).min() > 0.6
    assert torch.linalg.svdvals(found).max() < 1.3
    assert (inside - torch.diag(inside.diag())).abs().max() < 1e-4


def test_muon_keeps_the_size_of_the_filters_and_ignores_that_of_the_gradient():
    results = []
    for scale in (1.0, 1000.0):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(6, 2, 3, 3) * scale)
        weight.grad = torch.randn(6, 2, 3, 3) * scale
        optimizers.Muon([weight], 0.1, momentum=0.6, dtype=torch.float32).step()
        results.append(weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    assert 0.5 * 6**0.5 < results[0].norm() < 1.5 * 6**0.5


def test_muon_trains_filters_and_sgd_the_rest():
    _, found = ours(optimizer="muon")
    assert [type(optimizer).__name__ for optimizer in found] == ["Muon", "SGD", "SGD"]
