"""data.per_class: some images of each class to train on."""

import numpy as np
import pytest
import torch
from settings import settings

from striate.data import splits, tensors
from striate.errors import UserError

UNEVEN = np.repeat([0, 1, 2], [60, 30, 12])
MANIFEST = {"classes": ["much", "some", "few"], "train": {"per_class": [60, 30, 12]}}


def drawn(count, seed=0):
    return splits.draw_per_class(UNEVEN, count, seed)


def test_each_class_has_as_many_and_smaller_draws_are_among_larger_ones():
    assert np.bincount(UNEVEN[drawn(12)]).tolist() == [12, 12, 12]
    assert (np.diff(drawn(12)) > 0).all()
    for smaller, larger in ((1, 3), (3, 10), (10, 12)):
        assert set(drawn(smaller)) < set(drawn(larger))


def test_each_seed_draws_others_and_always_the_same():
    draws = {tuple(drawn(3, seed)) for seed in range(20)}
    assert len(draws) == 20
    assert tuple(drawn(3, 2**32 - 1)) == tuple(drawn(3, 2**32 - 1))
    np.random.seed(7)
    assert drawn(3).tolist() == drawn(3).tolist()
    assert np.random.randint(1000) == np.random.RandomState(7).randint(1000)  # leaves others alone


def test_more_than_a_class_has_is_refused():
    with pytest.raises(ValueError, match="a class has fewer than 13 images"):
        drawn(13)


@pytest.mark.parametrize(("val_size", "most"), [(0, 12), (0.25, 9), (17, 10)])
def test_the_check_knows_what_the_validation_set_leaves(val_size, most):
    split = tensors.Split(torch.arange(len(UNEVEN))[:, None], torch.from_numpy(UNEVEN))
    fits, wrong = (
        settings(data__val_size=val_size, data__per_class=count).data for count in (most, most + 1)
    )
    splits.check_per_class(fits, MANIFEST)
    train, val = tensors.train_val_split(split, val_size, 0, most)
    assert train.labels.bincount().tolist() == [most] * 3
    held_out = set() if val is None else set(val.images.flatten().tolist())
    assert not held_out & set(train.images.flatten().tolist())
    assert bool(held_out) == (val_size > 0)
    with pytest.raises(ValueError, match="a class has fewer"):
        tensors.train_val_split(split, val_size, 0, most + 1)
    with pytest.raises(UserError) as caught:
        splits.check_per_class(wrong, MANIFEST)
    assert str(caught.value) == (
        f"data.per_class is {most + 1}; the largest possible value is {most}: class few has no more"
        " images beside the validation set"
    )


def test_the_validation_set_is_the_same_for_all_sizes():
    split = tensors.Split(torch.arange(102)[:, None], torch.from_numpy(UNEVEN))
    sets = [tensors.train_val_split(split, 0.1, 3, count) for count in (0, 1, 10)]
    assert [len(train.labels) for train, _ in sets] == [92, 3, 30]
    assert all(torch.equal(val.images, sets[0][1].images) for _, val in sets)
