"""Folds: parts that share nothing and hold all, each class alike."""

import numpy as np
import pytest
from settings import changed

from striate.config import params
from striate.config.yaml_loader import ParamsError
from striate.data.splits import fold_quotas, fold_split, validation_count
from striate.errors import UserError

LABELS = np.repeat([0, 1, 2, 3], [31, 7, 100, 12])


@pytest.mark.parametrize("parts", [2, 5, 7])
def test_parts_share_no_image_and_hold_all(parts):
    both = [fold_split(LABELS, f"{part}/{parts}", 3) for part in range(1, parts + 1)]
    held_out = [second for _, second in both]
    assert np.sort(np.concatenate(held_out)).tolist() == list(range(150))
    for first, second in both:
        assert np.sort(np.concatenate([first, second])).tolist() == list(range(150))
    counts = np.array([np.bincount(LABELS[second], minlength=4) for second in held_out])
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.ptp(counts.sum(1)) <= 1
    sizes = np.bincount(LABELS)
    for part, own in enumerate(counts, start=1):
        assert fold_quotas(sizes, f"{part}/{parts}").tolist() == own.tolist()
        assert validation_count(0.1, f"{part}/{parts}", 150) == own.sum()


def test_more_parts_than_images_are_refused():
    assert validation_count(0, "5/5", 5) == 1
    with pytest.raises(UserError, match="fold is 5/5, but of 4 images there are no such parts"):
        validation_count(0, "5/5", 4)


def test_another_seed_draws_other_parts():
    assert fold_split(LABELS, "1/5", 0)[1].tolist() != fold_split(LABELS, "1/5", 1)[1].tolist()
    assert fold_split(LABELS, "1/5", 0)[1].tolist() == fold_split(LABELS, "1/5", 0)[1].tolist()


@pytest.mark.parametrize("value", ["0/5", "6/5", "1/1", "1/101", "1", "", "a/b", "1/5/2", 3, 0.2])
def test_a_fold_that_is_none_is_refused(value):
    with pytest.raises(ParamsError, match=r"data\.fold"):
        params.check(changed(data__fold=value))


@pytest.mark.parametrize("value", ["none", "1/2", "5/5", "100/100"])
def test_a_fold_is_accepted(value):
    assert params.check(changed(data__fold=value)).data.fold == value
