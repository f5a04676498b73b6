"""Neighbours: an image's own copy first, in whatever batches the others come."""

import torch
from networks import build

from striate.evaluation import neighbours
from striate.evaluation.neighbours import nearest
from striate.models.normalization import Normalization

NORMALIZE = Normalization(255, None, None)


def some(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator).to(torch.uint8)


def test_the_nearest_image_is_an_equal_one_in_whatever_batches():
    torch.manual_seed(0)
    model, images, others = build((1, 8, 8)).eval(), some(5, 0), some(40, 1)
    others[[31, 2, 17, 39, 8]] = images
    own = torch.arange(100, 140)
    whole = nearest(model, images, [(own, others)], NORMALIZE, count=3)
    assert whole.shape == (5, 3)
    assert whole[:, 0].tolist() == [131, 102, 117, 139, 108]
    parts = zip(own.split(7), others.split(7), strict=True)
    assert whole.equal(nearest(model, images, parts, NORMALIZE, count=3))


def test_fewer_others_than_wanted_are_all_named():
    model = build((1, 8, 8)).eval()
    found = nearest(
        model,
        some(2, 0),
        [(torch.tensor([0, 1]), some(2, 1)), (torch.tensor([2]), some(1, 2))],
        NORMALIZE,
        count=5,
    )
    assert sorted(found[0].tolist()) == [0, 1, 2]


def test_of_many_images_some_far_apart_are_compared():
    assert neighbours.compared(7).tolist() == list(range(7))
    chosen = neighbours.compared(60_000)
    assert len(chosen) == neighbours.MOST_COMPARED
    assert (chosen[0], chosen[-1]) == (0, 59_999)
    assert set((chosen[1:] - chosen[:-1]).tolist()) <= {5, 6, 7}
