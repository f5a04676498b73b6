"""What lies between gradients and kept weights: accumulation, clipping, averaging."""

import copy

import pytest
import torch
from tiny import CONVNET, NETWORKS, bars, network, task
from torch.nn.functional import cross_entropy

from striate.errors import UserError
from striate.models import sizing
from striate.models.prediction import mean_loss, predict
from striate.training import loop, transfer
from striate.training.average import early_decay

PLAIN = CONVNET | {"norm": "none", "dropout": 0.0}
SGD = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.1}


def fit(model=None, val=None, **options):
    """Train; returns the network and the rows."""
    model = model or network(PLAIN)
    return model, list(loop.fit(model, task(val=val, log_every=1, **options)))


def step_losses(rows):
    return [loss for row in rows for _, loss in row["step_losses"]]


def batches(epochs=3, size=16):
    """The batches of `fit`: images and labels."""
    generator, train = torch.Generator().manual_seed(0), bars(50)
    for _ in range(epochs):
        for chosen in torch.randperm(50, generator=generator).split(size):
            yield train.images[chosen].float() / 255, train.labels[chosen]


@pytest.mark.parametrize("accumulate", [2, 3, 16])
def test_parts_of_a_batch_have_the_effect_of_the_whole(accumulate):
    expected, rows = fit()
    found, others = fit(accumulate=accumulate)
    assert step_losses(others) == pytest.approx(step_losses(rows), abs=1e-5)
    assert [row["train_accuracy"] for row in others] == [row["train_accuracy"] for row in rows]
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_a_part_fits_where_the_whole_would_not_and_none_is_empty():
    model, sizes = network(PLAIN), []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    fit(model, epochs=1, accumulate=4)
    assert sizes == [4, 4, 4, 4] * 3 + [1, 1]


def test_parts_add_up_in_float32_where_products_are_narrower():
    """In bfloat16 a sum of many parts would lose its last ones."""
    whole, _ = fit(precision="bfloat16", epochs=1, batch_size=50, **SGD)
    parts, _ = fit(precision="bfloat16", epochs=1, batch_size=50, accumulate=50, **SGD)
    start = network(PLAIN).state_dict()
    for name, value in parts.state_dict().items():
        step, expected = value - start[name], whole.state_dict()[name] - start[name]
        assert float((step - expected).norm()) < 0.02 * float(expected.norm()), name


def test_a_part_of_one_image_is_refused_where_a_norm_needs_two():
    sizing.check_last_batch(100, 10, accumulate=5)
    sizing.check_last_batch(104, 10, accumulate=2)
    with pytest.raises(UserError, match=r"leaves 3 of 103 .* in 2 parts, .* training.accumulate$"):
        sizing.check_last_batch(103, 10, accumulate=2)
    with pytest.raises(UserError, match=r"in 4 parts, one of a single image"):
        sizing.check_last_batch(106, 10, processes=2, accumulate=2)


@pytest.mark.parametrize("clip", [0.05, 0.5])
def test_gradients_are_clipped_to_their_norm_over_all_weights(clip):
    ours, _ = fit(clip=clip, **SGD)
    theirs, clipped = network(PLAIN).train(), 0
    for images, labels in batches():
        theirs.zero_grad()
        cross_entropy(theirs(images), labels).backward()
        norm = sum(float(value.grad.square().sum()) for value in theirs.parameters()) ** 0.5
        clipped += norm > clip
        with torch.no_grad():
            for value in theirs.parameters():
                value -= 0.1 * value.grad * min(1.0, clip / norm)
    assert clipped
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_what_is_below_the_norm_is_not_clipped():
    expected, rows = fit(**SGD)
    found, others = fit(clip=1e6, **SGD)
    assert others == rows
    for name, value in found.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


def test_the_decay_rises_to_that_of_the_params():
    assert [early_decay(n, 0.9) for n in (0, 1, 10, 90, 10**6)] == pytest.approx(
        [0.1, 2 / 11, 0.55, 0.9, 0.9]
    )


def test_the_average_of_the_weights_is_scored_and_kept():
    """Also that of the norms' running statistics."""
    architecture, val = CONVNET | {"dropout": 0.0}, bars(30, seed=1)
    ours, rows = fit(network(architecture), val, ema=0.6)
    theirs = network(architecture).train()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    averages = copy.deepcopy(theirs.state_dict())
    for number, (images, labels) in enumerate(batches()):
        optimizer.zero_grad()
        cross_entropy(theirs(images), labels).backward()
        optimizer.step()
        decay = min(0.6, (1 + number) / (10 + number))
        for name, value in theirs.state_dict().items():
            averages[name] = decay * averages[name] + (1 - decay) * value
    assert averages["layer1.1.running_var"].ne(theirs.layer1[1].running_var).any()
    for name, value in ours.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert int(value) == 12
        else:
            torch.testing.assert_close(value, averages[name], rtol=1e-4, atol=1e-5)
    logits = predict(ours, val.images, lambda images: images.float() / 255, batch_size=30)
    assert rows[-1]["val_loss"] == mean_loss(logits, val.labels)
    unaveraged, others = fit(network(architecture), val)
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in others]
    assert rows[-1]["val_loss"] != others[-1]["val_loss"]
    assert not torch.equal(ours.fc.weight, unaveraged.fc.weight)


@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_weights_and_fixed_filters_stay_as_they_are(name):
    model = network(NETWORKS[name])
    transfer.freeze_(model, "features")
    learning = {key for key, value in model.named_parameters() if value.requires_grad}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fit(model, ema=0.9)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) == (key not in learning), key
