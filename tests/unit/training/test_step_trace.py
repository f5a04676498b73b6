"""What a step does on a GPU, seen on a CPU: it never makes the host wait, and stays short."""

from functools import partial
from itertools import product

import pytest
import torch
from paths import ROOT
from tiny import NETWORKS, UNIT, bars, network, settings
from torch import nn
from tracing import traced

from striate.config import params, recipes
from striate.data.tensors import Split
from striate.models import configs, registry
from striate.models.devices import Precision
from striate.models.layers import ACTIVATIONS
from striate.training import distributed, step, transfer
from striate.training.distributed import SINGLE_PROCESS, Group
from striate.training.lowered import LoweredWeights
from striate.training.state import State
from striate.training.step import Step
from striate.training.task import Task

CPU = torch.device("cpu")
EVERYTHING = {"translate": 1, "flip": True, "rotate": 5, "zoom": 0.1, "cutout": 1, "shrink": 4,
              "shrink_until": 0.5}  # fmt: skip
TECHNIQUES = {"clip": 0.5, "accumulate": 2, "ema": 0.9}
MIXED = EVERYTHING | {"mixup": 0.4, "cutmix": 1.0}
# Of the keys that a network reads, each of these is set to each of its values.
VALUES = {"activation": list(ACTIVATIONS), "norm": ["batch", "group", "none"]}
OPTIMIZERS = ["adam", "adamw", "sgd", "muon"]
FAST = {
    "float32": Precision(torch.float32, torch.channels_last),
    "bfloat16": Precision(torch.bfloat16, torch.channels_last),
}


def operations(model, task, *, shrunk=False, group=SINGLE_PROCESS, pixels=None):
    """The operations of the second step, whose learning rate comes from a tensor as on a GPU."""
    model.train()
    state = State(model, task, 4)
    for optimizer in state.optimizers:
        optimizer.move_rate(CPU)
    take = Step(task, state, group, None)
    indices = torch.arange(16)
    take(indices, pixels, shrunk=shrunk)
    with traced() as names:
        state.begin_step()
        take(indices, pixels, shrunk=shrunk)
    return names


def fast_task(train, precision, loaded):
    """A task in fast arithmetic of that type, whatever this processor computes in."""
    task = Task(train, None, loaded, UNIT)
    task.__dict__["precision"] = FAST[precision]
    return task


@pytest.mark.parametrize("precision", FAST)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("architecture", NETWORKS.values(), ids=NETWORKS)
def test_no_setting_makes_the_host_wait(architecture, optimizer, precision):
    config = configs.find(architecture["arch"])
    read = [key for key in VALUES if key in config.model_fields]
    changes = [{key: value} for key in read for value in VALUES[key]] or [{}]
    for change, augment, freezes in product(changes, [{}, MIXED], [False, True]):
        model = network(architecture | {"whiten": 2} | change)
        until = next(name for name in model.layers() if name in ("layer1", "stem", "trunk"))
        freeze = until if freezes else "none"
        transfer.freeze_(model, freeze)
        techniques = TECHNIQUES if augment else {}
        loaded = settings(augment, optimizer=optimizer, freeze=freeze, **techniques)
        task = fast_task(bars(50), precision, loaded)
        assert operations(model, task, shrunk=bool(augment) and config.takes_any_size)


@pytest.mark.parametrize("precision", FAST)
def test_images_that_are_sent_and_other_processes_make_the_host_wait_no_more(
    monkeypatch, precision
):
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda flat: None)
    task = fast_task(bars(50), precision, settings(MIXED, **TECHNIQUES))
    pixels = torch.zeros(9, 1, 6, 6, dtype=torch.uint8)  # and one to mix with
    assert operations(network(), task, group=Group(0, 2), pixels=pixels)


@pytest.mark.parametrize("technique", [{"mixup": 0.4}, {"cutmix": 1.0}, {"clip": 0.5},
                                       {"accumulate": 2}, {"ema": 0.9}], ids=str)  # fmt: skip
def test_a_technique_by_itself_makes_the_host_wait_no_more(technique):
    augments = technique.keys() <= EVERYTHING.keys() | {"mixup", "cutmix"}
    loaded = settings(**({"augment": technique} if augments else technique))
    task = fast_task(bars(50), "bfloat16", loaded)
    plain = fast_task(bars(50), "bfloat16", settings())
    assert len(operations(network(), task)) > len(operations(network(), plain))


def test_a_host_that_would_wait_is_noticed():
    with pytest.raises(AssertionError, match="wait"), traced():
        torch.ones(2).sum().item()
    mask = torch.tensor([True, False])
    with pytest.raises(AssertionError, match="a mask"), traced():
        torch.ones(2)[mask]
    with pytest.raises(AssertionError, match="reads"), traced():
        torch.ones(2).tolist()
    with pytest.raises(AssertionError, match="from the host"), traced():
        torch.tensor(3.0)


@pytest.mark.parametrize(
    ("recipe", "precision", "most"),
    [({}, "bfloat16", 46), ({}, "float32", 41), (recipes.read("cifar10-94"), "bfloat16", 223)],
    ids=["mnist-bfloat16", "mnist-float32", "cifar10-94"],
)  # fmt: skip
def test_a_step_takes_few_operations(recipe, precision, most):
    """Each launches kernels on a GPU, and with small batches that takes longer than the sums."""
    values = params.load(ROOT / "params.yaml").model_dump()
    for section, changes in recipe.items():
        values[section] |= changes
    loaded = params.check(values)
    shape = (3, 32, 32) if recipe else (1, 28, 28)
    train = Split(torch.zeros(50, *shape, dtype=torch.uint8), torch.zeros(50, dtype=torch.int64))
    model = registry.build(shape, 10, loaded.model.architecture())
    names = operations(model, fast_task(train, precision, loaded))
    assert len(names) <= most


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_fast_update_is_one_kernel_that_reads_its_rate_from_the_device(optimizer):
    task = fast_task(bars(50), "bfloat16", settings(optimizer=optimizer))
    updates = [name for name in operations(network(), task) if "_fused_" in name]
    assert updates == [f"aten._fused_{optimizer}_.tensor_lr"]


class Odd(nn.Module):
    """A weight that two layers share, and a convolution that changes its weight itself."""

    class Standardised(nn.Conv2d):
        def forward(self, inputs):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return nn.functional.conv2d(inputs, weight, self.bias)

    def __init__(self):
        super().__init__()
        self.first = self.Standardised(1, 4, 3)
        self.hidden, self.tied, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3)
        self.tied.weight = self.hidden.weight

    def forward(self, images):
        return self.last(self.tied(self.hidden(self.first(images).flatten(1)).relu()))


def odd_network():
    torch.manual_seed(0)
    return Odd()


@pytest.mark.parametrize(
    "build",
    [
        *(partial(network, one) for one in NETWORKS.values()),
        odd_network,
    ],
)
def test_the_weights_are_lowered_to_the_bits_of_autocast(build):
    inputs = torch.rand(8, 1, 6, 6)
    found = []
    for lowers in (False, True):
        model = build().train()
        weights = LoweredWeights(model, torch.bfloat16) if lowers else None
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            refreshed = weights.refresh() if weights else {}
            logits = torch.func.functional_call(model, refreshed, (inputs,))
        logits.float().square().sum().backward()
        if weights:
            weights.widen_grads()
        learning = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad.dtype == torch.float32 for p in learning)
        found.append([logits, *(p.grad for p in learning)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_reference_arithmetic_is_never_captured(monkeypatch):
    """Its learning rate is a number, which a graph would keep for all steps."""
    taken = []
    monkeypatch.setattr(step, "CapturedStep", lambda *arguments: taken.append(arguments))
    for precision, captures in (("float32", False), ("bfloat16", True)):
        task = Task(bars(50), None, settings(precision=precision), UNIT)
        state = State(network(), task, 4)
        with monkeypatch.context() as patch:
            patch.setattr(Task, "device", torch.device("cuda"))
            step.build_step(task, state, SINGLE_PROCESS, None)
        assert bool(taken) == captures
