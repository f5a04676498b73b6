"""What MLflow's pages say of an experiment: descriptions, commands, data sets, colours."""

import json
from collections import Counter

import pytest

from striate.tracking import descriptions, mlmodel, records

PARAMS = {
    "data.name": "digits", "data.path": "images/none", "model.arch": "convnet", "model.layers": 2,
    "model.width": 16, "seed": 0, "training.epochs": 5, "training.init_from": "weights/none",
}  # fmt: skip
BASE, OWN = "b" * 40, "a" * 40
MANIFEST = {"shape": [1, 8, 8], "classes": ["0", "1"], "train": {"count": 30}, "test": {"count": 9}}


def record(name, commit="", baseline="", train=None, hashes=None, **changes):
    params = PARAMS | {key.replace("__", "."): value for key, value in changes.items()}
    scores = {"epochs": 5, "parameters": 14634, "val_accuracy": 0.97, "val_loss": 0.1}
    return records.Record(
        [records.Name(name, commit, baseline)], {records.DATA: "d" * 32}, params,
        train or scores, {"accuracy": 0.95}, commit or None, hashes or {}, [],
    )  # fmt: skip


MAIN = record("main", BASE)


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"model__layers": 3, "seed": 7}, "-S model.layers=3 -S seed=7"),
        ({"training__epochs": 1e-05}, "-S training.epochs=1e-05"),
        ({"training__epochs": True}, "-S training.epochs=true"),
    ],
)
def test_the_command_says_which_params_differ(changes, settings):
    own = record("own", OWN, BASE, **changes)
    said = f"git checkout {BASE[:10]} && dvc exp run {settings}"
    assert descriptions.command(own, [MAIN, own]) == said


@pytest.mark.parametrize(
    "own",
    [
        record("values that Hydra reads", OWN, BASE, training__init_from="a=b"),
        record("a list", OWN, BASE, model__width=[8, 16]),
        record("nothing", OWN, BASE, training__init_from=None),
        record("another param", OWN, BASE, model__new=1),
        record("other code", OWN, BASE, hashes={"src/striate/training": "x"}, seed=1),
        record("an unknown baseline", OWN, "c" * 40, seed=1),
        record("a branch", OWN),
    ],
    ids=lambda own: own.names[0].name,
)
def test_what_params_cannot_say_is_named_by_its_commit(own):
    assert descriptions.command(own, [MAIN, own]) == f"git checkout {OWN[:10]} && dvc repro"


def test_what_no_commit_holds_is_made_in_the_working_tree():
    own = record("workspace")
    text = descriptions.note(own, [own])
    assert text == (
        "digits: convnet 2x16, 14,634 parameters, 5 epochs, seed 0; validation accuracy 97.00%."
        "\n\nMake it again: `dvc repro`"
    )
    assert not descriptions.is_stale(text, own, [])
    assert descriptions.is_stale(text, own, [OWN])  # it was committed since


def test_a_description_is_written_again_only_where_it_is_ours_and_its_commit_is_gone():
    text = descriptions.note(MAIN, [MAIN])
    assert descriptions.is_stale(None, MAIN, [BASE])
    assert not descriptions.is_stale(text, MAIN, [OWN, BASE])
    assert descriptions.is_stale(text, MAIN, [OWN])
    assert not descriptions.is_stale(text + " Mine.", MAIN, [OWN])


def test_each_part_of_the_data_is_a_data_set_with_the_digest_of_its_manifest():
    sets = descriptions.data_sets(MAIN, MANIFEST)
    assert [(one.name, one.context) for one in sets] == [
        ("digits-train", "train"),
        ("digits-validation", "validation"),
        ("digits-test", "test"),
    ]
    assert {one.digest for one in sets} == {"d" * 8}
    assert json.loads(sets[0].source)["url"].startswith("https://archive.ics.uci.edu/")
    train, validation, _ = (json.loads(one.profile) for one in sets)
    assert train == {"classes": 2, "features_shape": [30, 1, 8, 8], "targets_shape": [30]}
    assert validation == {"classes": 2}  # how many are held out is up to the run


def test_without_a_validation_set_or_files_a_data_set_says_less():
    own = record("own", train={"epochs": 5, "train_loss": 0.1}, data__name="folder")
    sets = descriptions.data_sets(own)
    assert [one.context for one in sets] == ["train", "test"]
    assert json.loads(sets[0].source) == {"uri": "images/none"}
    assert sets[0].schema == ""
    assert "validation accuracy" not in descriptions.about(own)


def test_scores_of_a_model_name_what_they_were_measured_on():
    sets = descriptions.data_sets(MAIN)
    scores = {point: one.name for point, one in descriptions.model_scores(MAIN, sets)}
    assert scores == {
        ("val_accuracy", 0.97, 5): "digits-validation",
        ("val_loss", 0.1, 5): "digits-validation",
        ("test_accuracy", 0.95, 0): "digits-test",
    }


def test_colours_repeat_only_once_all_are_used():
    used = Counter({"#0072b2": 1, "#123456": 5})
    given = [descriptions.next_colour(used) for _ in descriptions.COLOURS]
    assert len(set(given[:-1])) == len(descriptions.COLOURS) - 1
    assert given[0] != "#0072b2"


def test_a_model_is_called_as_its_run_where_mlflow_allows_it():
    assert descriptions.model_name("deep-3x16") == "deep-3x16"
    assert descriptions.model_name("a/b:c.d%'e'") == "a-b-c-d--e-"


def test_data_sets_and_checkpoints_say_alike_what_arrays_they_take():
    train, *_ = descriptions.data_sets(MAIN, MANIFEST)
    spec = json.loads(train.schema)["mlflow_tensorspec"]
    assert spec["features"] == mlmodel.tensor_spec("uint8", [1, 8, 8])
    assert json.loads(spec["targets"]) == [
        {"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}
    ]
