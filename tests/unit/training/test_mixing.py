"""Mixup and cutmix: which images are mixed, by which shares, and what the loss is."""

from itertools import pairwise

import pytest
import torch
from scipy import stats
from tiny import CONVNET, bars, network, settings, task
from torch.nn.functional import cross_entropy

from striate.training import loop
from striate.training.distributed import Group
from striate.training.mixing import Mixing, Targets, rows_of, symmetric_beta

PLAIN = CONVNET | {"norm": "none", "dropout": 0.0}
ALPHAS = {"mixup": 0.4, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}, {"mixup": 0.4, "cutmix": 2.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mixing(steps=1, drawn=None, **alphas):
    """How batches are mixed; with `drawn`, as this one row says."""
    found = Mixing(
        settings({"mixup": 0.0, "cutmix": 0.0} | alphas).augment, steps, torch.device("cpu")
    )
    if drawn is not None:
        found.drawn[0] = torch.tensor(drawn)
        found.begin_step(0)
    return found


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 4.0, 100.0])
def test_shares_have_the_beta_distribution(alpha):
    uniform = torch.rand(2, 20_000, generator=generator())
    found = symmetric_beta(torch.tensor(alpha), *uniform)
    # Between the ends, near which float32 rounds many shares to 1.
    points = torch.linspace(0.001, 0.999, 99)
    below = (found[:, None] < points).double().mean(0)
    expected = torch.from_numpy(stats.beta(alpha, alpha).cdf(points.double().numpy()))
    torch.testing.assert_close(below, expected, rtol=0, atol=0.012)


def test_the_rarest_numbers_give_a_share_too():
    ends = torch.tensor([0.0, 0.25, 0.5, 1 - 2**-24])
    for alpha in (1e-300, 1e-3, 1.0, 100.0):
        found = symmetric_beta(torch.tensor(alpha), *torch.cartesian_prod(ends, ends).unbind(1))
        assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize(("alphas", "cut"), [*zip(ALPHAS, (0, 1, 0.5), strict=True)])
def test_each_batch_is_blended_or_cut_evenly_with_a_share_of_its_own(alphas, cut):
    found = mixing(10_000, **alphas)
    found.draw(generator())
    share, cuts, *centre = found.drawn.unbind(1)
    assert float(cuts.mean()) == pytest.approx(cut, abs=0.02)
    for kind, key in ((0, "mixup"), (1, "cutmix")):
        if (chosen := share[cuts == kind]).numel():
            variance = 1 / (4 * (2 * alphas[key] + 1))
            assert float(chosen.mean()) == pytest.approx(0.5, abs=0.02)
            assert float(chosen.var()) == pytest.approx(variance, rel=0.05)
    assert all(float(axis.mean()) == pytest.approx(0.5, abs=0.02) for axis in centre)


def blended(images, row):
    """Each image with the one before it, and its share."""
    share = row[0]
    return share * images + (1 - share) * images.roll(1, 0), share


def pasted(images, row):
    """Each image with a rectangle of the one before it, as S. Yun's code has it, and its share."""
    share, _, y, x = row
    height, width = images.shape[2:]
    (top, bottom), (left, right) = (
        (max(0, centre - half), min(length, centre + half))
        for length, centre, half in (
            (height, int(height * y), int(height * (1 - share) ** 0.5) // 2),
            (width, int(width * x), int(width * (1 - share) ** 0.5) // 2),
        )
    )
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


@pytest.mark.parametrize("row", [(0.7, 1, 0.5, 0.5), (0.2, 1, 0.05, 0.99), (0.99, 1, 0.5, 0.5),
                                 (0.0, 1, 0.3, 0.6), (1.0, 1, 0.5, 0.5)])  # fmt: skip
def test_the_rectangle_is_that_of_the_paper(row):
    images = torch.rand(5, 3, 8, 11, generator=generator())
    labels = torch.arange(5)
    for alphas in ({"cutmix": 1.0}, {"cutmix": 1.0, "mixup": 1.0}):
        mixed, targets = mixing(drawn=row, **alphas).mix(
            images[[4, 0, 1, 2, 3, 4]], labels[[4, 0, 1, 2, 3, 4]]
        )
        expected, share = pasted(images, row)
        assert torch.equal(mixed, expected)
        assert float(targets.share) == pytest.approx(share, abs=1e-6)
        assert torch.equal(targets.labels, labels)
        assert torch.equal(targets.partners, labels.roll(1))


def test_what_an_image_mostly_shows_counts():
    logits = torch.eye(3)[[0, 1, 2, 2]]
    labels, partners = torch.tensor([0, 0, 2, 0]), torch.tensor([1, 1, 0, 2])
    for share, right in ((0.5, 2), (0.6, 2), (0.4, 2), (0.0, 2)):
        own = Targets(labels, partners, torch.tensor(share))
        expected = labels if share >= 0.5 else partners
        assert int(own.correct(logits)) == right == int((logits.argmax(1) == expected).sum())
    assert int(Targets(labels).correct(logits)) == 2


@pytest.mark.parametrize("alphas", ALPHAS)
def test_a_training_follows_a_plain_loop(alphas):
    options = {"epochs": 2, "label_smoothing": 0.1}
    ours = network(PLAIN)
    rows = list(loop.fit(ours, task(augment=alphas, log_every=1, **options)))
    theirs, train, random = network(PLAIN).train(), bars(50), generator()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    losses, hits = [], 0
    for _ in range(2):
        order, drawn = torch.randperm(50, generator=random), mixing(4, **alphas)
        drawn.draw(random)
        for chosen, row in zip(order.split(16), drawn.drawn.tolist(), strict=True):
            mix = pasted if row[1] else blended
            mixed, share = mix(train.images[chosen].float() / 255, row)
            labels = train.labels[chosen]
            logits = theirs(mixed)
            loss = share * cross_entropy(logits, labels, label_smoothing=0.1) + (
                1 - share
            ) * cross_entropy(logits, labels.roll(1), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            hits += int((logits.argmax(1) == (labels if share >= 0.5 else labels.roll(1))).sum())
    found = [value for row in rows for _, value in row["step_losses"]]
    assert found == pytest.approx(losses, abs=1e-5)
    assert sum(row["train_accuracy"] for row in rows) * 50 == pytest.approx(hits)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_process_takes_its_slice_behind_the_image_before_it(count, size):
    order = torch.randperm(count, generator=generator())
    pairs = []
    for rank in range(size):
        rows = order[rows_of(Group(rank, size), order, mixing(mixup=1.0))].tolist()
        assert len(rows) == len(order[Group(rank, size).rank_slice(count)]) + 1
        pairs += pairwise(rows)
    assert pairs == [*zip(order.roll(1).tolist(), order.tolist(), strict=True)]
    assert rows_of(Group(0, size), order, None) == Group(0, size).rank_slice(count)
