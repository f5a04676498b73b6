"""data.split_seed: what holds the validation split fixed while `seed` varies."""

import numpy as np
import pytest
from settings import settings

from striate.config.yaml_loader import ParamsError
from striate.data.splits import stratified_split

LABELS = np.arange(100) % 10


def held_out(**changes):
    return stratified_split(LABELS, 0.2, settings(**changes).split_seed)[1].tolist()


def test_auto_holds_out_what_the_seed_draws():
    for seed in (0, 7):
        drawn = stratified_split(LABELS, 0.2, seed)[1].tolist()
        assert held_out(seed=seed, data__split_seed="auto") == drawn
    assert held_out(seed=0) != held_out(seed=7)


def test_two_seeds_of_one_split_hold_out_the_same_images():
    fixed = [held_out(seed=seed, data__split_seed=7) for seed in (0, 1)]
    assert fixed[0] == fixed[1] == held_out(seed=7)
    assert held_out(data__split_seed=0, seed=7) == held_out(seed=0)


@pytest.mark.parametrize("value", ["Auto", "7", None, True, False, 1.0, -1, 2**32, [1], {}])
def test_a_faulty_value_is_explained(value):
    with pytest.raises(ParamsError, match=r"must be auto, or a whole number from 0 to 4294967295"):
        settings(data__split_seed=value)
