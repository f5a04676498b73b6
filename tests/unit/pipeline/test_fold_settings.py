"""Trainings without one part each: their settings, and what must not be mixed."""

import pytest
from paths import ROOT

from striate.errors import UserError
from striate.pipeline import folds
from striate.pipeline.repeat import MOST_CHARACTERS
from striate.tracking.records import DATA, Name, Record


def test_each_part_has_a_setting_that_differs_in_the_fold_alone():
    found = folds.settings(ROOT, "workspace", ["model.width=4"], 3)
    assert [one.params["data"]["fold"] for one in found] == ["1/3", "2/3", "3/3"]
    assert [one.name[-9:] for one in found] == ["-fold-1-3", "-fold-2-3", "-fold-3-3"]
    rest = [{**one.flat, "data.fold": ""} for one in found]
    assert rest[0] == rest[1] == rest[2]
    assert rest[0]["model.width"] == 4
    # The doubtful labels may not choose the epoch.
    assert (rest[0]["training.keep"], rest[0]["training.patience"]) == ("last", 0)


def test_long_params_do_not_make_names_equal():
    long = f"data.path=/home/{'a-long-folder/' * 9}images"
    found = folds.settings(ROOT, "workspace", ["data.name=folder", long], 12)
    names = {one.name for one in found}
    assert len(names) == 12
    assert max(map(len, names)) <= MOST_CHARACTERS


def test_the_seed_may_be_changed_and_the_split_may_not():
    assert folds.settings(ROOT, "workspace", ["seed=3"], 2)[0].checked.seed == 3
    with pytest.raises(UserError, match="seed is 'x'; it must be a whole number"):
        folds.settings(ROOT, "workspace", ["seed=x"], 2)
    for word in ("data.fold=1/2", "data.val_size=0.2"):
        with pytest.raises(UserError, match=r"cannot change data.*: --folds says what is left out"):
            folds.settings(ROOT, "workspace", [word], 2)


def trained(name, data):
    return Record([Name(name, "0")], {DATA: data}, {}, {}, {}, "0", {}, [])


def test_trainings_of_other_images_are_not_mixed():
    folds.check_same_data([trained("a", "new"), trained("b", "new")])
    with pytest.raises(UserError, match="have changed between the trainings; dvc exp remove a,"):
        folds.check_same_data([trained("a", "old"), trained("b", "new"), trained("c", "new")])
