"""Groups: experiments that differ in the seed alone."""

import pytest

from striate.tracking import groups, records
from striate.tracking.records import Name, Record

HASHES = {"src/striate/models": "m", "stages/train.py": "t", "data/test": "d", "dvc.yaml": "y"}


def record(seed, name="one", baseline="b", data="d", hashes=None, accuracy=0.5, **changes):
    params = {"seed": seed, "data.name": "digits", "model.arch": "convnet", "model.layers": 2}
    params |= {"training.init_from": "weights/random"}
    params |= {key.replace("__", "."): value for key, value in changes.items()}
    scores = {} if accuracy is None else {"accuracy": accuracy}
    identity = {records.DATA: data, "checkpoint": f"{name} {seed}"}
    return Record(
        [Name(f"{name}-{seed}", "c", baseline)], identity, params, {"val_accuracy": 0.1 * seed},
        scores, "c", HASHES | (hashes or {}), [],
    )  # fmt: skip


def seeds(found):
    return [group.seeds for group in groups.group(found)]


def test_the_seed_alone_varies_in_a_group():
    assert seeds([record(3), record(0), record(1)]) == [[0, 1, 3]]


@pytest.mark.parametrize(
    "other",
    [
        {"model__layers": 3},
        {"data": "other"},
        {"hashes": {"src/striate/models": "other"}},
        {"hashes": {"stages/evaluate.py": "added"}},
        {"hashes": {"data/test": "other"}},
        {"hashes": {"weights/random": "other"}},
    ],
)
def test_another_setting_data_weights_or_code_is_another_group(other):
    assert seeds([record(0), record(1, **other), record(2)]) == [[0, 2], [1]]


def test_codes_that_came_to_equal_results_are_one():
    old, new = {"src/striate/models": "old"}, {"src/striate/models": "new"}
    both = record(0, hashes=old)
    both.twins.append(HASHES | new)
    assert seeds([record(1, hashes=old), record(2, hashes=new)]) == [[1], [2]]
    assert seeds([record(1, hashes=old), record(2, hashes=new), both]) == [[0, 1, 2]]
    assert groups.of(record(0, hashes=new), [both, record(1, hashes=old)]).seeds == [0, 1]
    found = [both, record(1, hashes=old), record(2, hashes=new), record(3, model__layers=3)]
    assert len(set(groups.tags(found).values())) == 2


def test_what_neither_trains_nor_evaluates_counts_for_nothing():
    assert seeds([record(0), record(1, hashes={"dvc.yaml": "other", "params.yaml": "p"})]) == [
        [0, 1]
    ]


def test_a_seed_counts_once():
    (group,) = groups.group([record(0), record(1), record(0, "again", accuracy=0.9)])
    assert [member.names[0].name for member in group.members] == ["one-0", "one-1"]
    assert [member.names[0].name for member in group.repeated] == ["again-0"]
    assert group.scores("test", "accuracy") == [0.5, 0.5]


def test_an_experiment_stands_for_its_seed_in_its_group():
    again = record(0, "again")
    group = groups.of(again, [record(0), record(1), record(2, model__layers=3)])
    assert [member.names[0].name for member in group.members] == ["again-0", "one-1"]
    assert groups.of(again, [again, record(1)]).seeds == [0, 1]


def test_a_group_is_called_as_the_branch_is_or_as_its_first_seed():
    (group,) = groups.group([record(2), record(1), record(5, "main", baseline="")])
    assert group.name == "main-5"
    assert groups.group([record(2), record(1)])[0].name == "one-1"


def test_scores_are_those_of_the_members_that_have_them():
    (group,) = groups.group([record(0, accuracy=0.4), record(1, accuracy=None), record(2)])
    assert group.scores("test", "accuracy") == [0.4, 0.5]
    mean = group.mean("test", "accuracy")
    assert (mean.n, mean.mean) == (2, pytest.approx(0.45))
    assert group.mean("test", "nothing") is None
    assert group.scores("train", "val_accuracy") == pytest.approx([0, 0.1, 0.2])


def test_equal_names_are_told_apart_by_their_keys():
    names = {"a1b2c3d4": "main", "0123456789": "main", "f": "other"}
    assert groups.told_apart(names) == {
        "a1b2c3d4": "main (a1b2c3)",
        "0123456789": "main (012345)",
        "f": "other",
    }
