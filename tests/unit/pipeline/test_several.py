"""Several settings with the same seeds: what is there, what is missing, and what failed."""

import pytest
from settings import changed

from striate.config import params
from striate.errors import UserError
from striate.pipeline import several
from striate.pipeline.repeat import Failure, Setting
from striate.tracking import records
from striate.tracking.records import Name, Record

ONE, TWO = Setting("one", changed(model__width=4)), Setting("two", changed(model__width=8))
ALSO = Setting("also", changed(model__width=4))  # as ONE


def made_up(setting, seed, accuracy=0.9):
    flat = params.flatten(params.check(setting.params | {"seed": seed}).model_dump())
    name = f"{setting.name}-{seed}"
    return Record(
        [Name(name, "c", "b")], {records.DATA: "d", "n": name}, flat, {}, {"accuracy": accuracy},
        "c", {}, [],
    )  # fmt: skip


@pytest.fixture
def root(tmp_path, monkeypatch):
    """No experiment has a name yet."""
    monkeypatch.setattr(several.repeat, "free_name", lambda root, wanted: wanted)
    return tmp_path


def test_what_is_missing_comes_seed_by_seed_and_equal_settings_share_it(root):
    found = [made_up(TWO, 0), made_up(TWO, 5)]
    queue = several.missing(root, [ONE, TWO, ALSO], [0, 1], found)
    assert [job.name for job in queue] == ["one-seed0", "one-seed1", "two-seed1"]


@pytest.mark.parametrize("known", [True, False])
def test_the_first_one_fetches_data_that_are_not_there(root, known):
    queue, calls = several.missing(root, [ONE, TWO], [0, 1], []), []
    found = [made_up(TWO, 7)] if known else []
    assert several.run_all(queue, found, lambda jobs: calls.append(len(jobs)) or []) == []
    assert calls == ([4] if known else [1, 3])


def test_data_that_cannot_be_fetched_end_it_at_once(root):
    queue = several.missing(root, [ONE, TWO], [0, 1], [])
    with pytest.raises(UserError, match=r"^one-seed0 failed: no mirror$"):
        several.run_all(queue, [], lambda jobs: [Failure(jobs[0].name, "no mirror")])
    assert several.run_all([], [], pytest.fail) == []


def test_failures_are_those_of_all_equal_settings(root, monkeypatch):
    queue = several.missing(root, [ONE, TWO, ALSO], [0, 1], [])
    failures = several.run_all(
        queue,
        [made_up(TWO, 9)],
        lambda jobs: [Failure(jobs[n].name, "nan") for n in (0, 2)],
    )
    found = records.Found([made_up(TWO, 0, 0.5), made_up(TWO, 1), made_up(TWO, 2)], [], None)
    monkeypatch.setattr(several.records, "find", lambda root: found)
    one, two, also = several.measured(root, [ONE, TWO, ALSO], [0, 1], failures)
    assert (one.by_seed, one.reasons, also.reasons) == ({}, ["nan"], ["nan"])
    assert (two.scores("test", "accuracy"), two.reasons) == ({0: 0.5, 1: 0.9}, [])
