"""The stratified split: which images it takes, and from which classes."""

import numpy as np
import pytest

from striate.data.splits import stratified_split

UNEVEN = np.random.RandomState(7).choice(5, 997, p=[0.5, 0.3, 0.15, 0.04, 0.01])


def test_a_small_split_is_frozen():
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    first, second = stratified_split(labels, 4, seed=0)
    assert first.tolist() == [0, 1, 3, 4, 6, 7, 9, 10]
    assert second.tolist() == [2, 5, 8, 11]


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (1, 1),
        (100, 100),
        (996, 996),
        (100.0, 100),
        (0, 0),
        (0.0, 0),
        (0.1, 100),
        (0.25, 249),
        (0.5, 498),
        (0.0001, 0),
        (0.999, 996),
    ],
)
def test_size_is_a_count_or_below_1_a_fraction(size, count):
    first, second = stratified_split(UNEVEN, size, seed=0)
    assert (len(first), len(second)) == (997 - count, count)


@pytest.mark.parametrize("size", [1, 3, 50, 0.1, 1 / 3, 0.9, 996])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_parts_are_ascending_disjoint_and_complete(size, seed):
    first, second = stratified_split(UNEVEN, size, seed)
    assert sorted([*first, *second]) == list(range(997))
    for part in (first, second):
        assert np.issubdtype(part.dtype, np.integer)
        assert (np.diff(part) > 0).all()


@pytest.mark.parametrize("size", [1, 3, 50, 0.1, 1 / 3, 0.9, 996])
def test_every_class_is_within_one_image_of_its_share(size):
    first, second = stratified_split(UNEVEN, size, seed=3)
    for part in (first, second):
        exact = np.bincount(UNEVEN) * len(part) / 997
        assert (np.abs(np.bincount(UNEVEN[part], minlength=5) - exact) < 1).all()


def test_whole_shares_are_met_exactly():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    _, second = stratified_split(labels, 0.1, seed=0)
    assert np.bincount(labels[second]).tolist() == [6, 3, 1]


def test_left_over_images_come_from_the_classes_with_the_largest_remainders():
    labels = np.repeat([0, 1, 2], [17, 17, 66])  # shares of 3: 0.51, 0.51, 1.98
    _, second = stratified_split(labels, 3, seed=0)
    assert np.bincount(labels[second], minlength=3).tolist() == [1, 0, 2]


def test_labels_need_be_neither_consecutive_nor_sorted():
    labels = np.array([9, -1, 9, -1, 4, 4, 9, -1, 4])
    _, second = stratified_split(labels, 3, seed=5)
    assert sorted(labels[second]) == [-1, 4, 9]


def test_the_draw_depends_on_the_seed_alone():
    labels = UNEVEN.copy()
    np.random.seed(1)
    before = stratified_split(labels, 0.2, seed=4)
    np.random.seed(2)
    after = stratified_split(labels, 0.2, seed=4)
    for one, other in zip(before, after, strict=True):
        assert one.tolist() == other.tolist()
    draws = {tuple(stratified_split(labels, 0.2, seed)[1]) for seed in range(20)}
    assert len(draws) == 20
    assert (labels == UNEVEN).all()


def test_the_split_leaves_the_global_generator_alone():
    np.random.seed(3)
    stratified_split(UNEVEN, 0.2, seed=4)
    drawn = np.random.random()
    np.random.seed(3)
    assert drawn == np.random.random()


@pytest.mark.parametrize(
    ("total", "size", "message"),
    [
        (10, 10, "10 of 10 images leave none"),
        (10, 11, "11 of 10 images leave none"),
        (10, 0.99, "10 of 10 images leave none"),
        (0, 0.5, "0 of 0 images leave none"),
    ],
)
def test_an_empty_first_part_is_refused(total, size, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        stratified_split(np.arange(total) % 2, size, seed=0)
