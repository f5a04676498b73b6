"""`striate ladder` and `striate ablate`, on a small ladder."""

import csv

import pytest
from clones import Clone
from PIL import Image
from settings import write_yaml

from striate.cli import measure, workspace
from striate.errors import UserError
from striate.pipeline.repeat import Setting
from striate.pipeline.several import Measured
from striate.tracking import records, times
from striate.tracking.records import Record

KEPT = ("_all", "lenet5", "mlp")
SHORT = {"training__epochs": 2, "model__width": 4}
DIVERGING = {
    "training__learning_rate": 100,
    "training__optimizer": "sgd",
    "training__momentum": 0.99,
    "model__activation": "leaky_relu",
    "model__norm": "none",
}
TINY = ["-S", "training.epochs=1", "-S", "training.batch_size=200"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A repository that has run once, with two rungs and another recipe."""
    origin = Clone.of_this_tree(tmp_path_factory.mktemp("measure") / "repository", **SHORT)
    for path in (origin.folder / "recipes/ladder").glob("*.yaml"):
        if path.stem not in KEPT:
            path.unlink()
    (origin.folder / "recipes/odd.yaml").write_text(
        "# Odd.\nmodel:\n  width: [4, 6]\ntraining:\n  optimizer: sgd\n  learning_rate: 0.05\n"
    )
    yield origin
    origin.settle()


def experiments(clone):
    return sorted(clone.run("dvc", "exp", "list", "--name-only").split())


def lines_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.slow
def test_a_ladder_is_climbed_once_and_completed_later(clone):
    planned = clone.striate("ladder", "digits", "--seeds", "2", *TINY, "--dry-run")
    assert planned.endswith("\n4 trainings would run\n")
    before = experiments(clone)
    said = clone.striate("ladder", "--seeds", "2", "--workers", "4", *TINY)
    assert said.startswith("2 settings with 2 seeds: 4 experiments to run\n")
    new = set(experiments(clone)) - set(before)
    assert new == set(planned.splitlines()[:-1])
    folder = clone.folder / "reports/ladder"
    lines = lines_of(folder / "digits.csv")
    assert [(one["recipe"], one["seed"]) for one in lines] == [
        ("ladder/mlp/digits", "0"), ("ladder/mlp/digits", "1"),
        ("ladder/lenet5/digits", "0"), ("ladder/lenet5/digits", "1"),
    ]  # fmt: skip
    assert all(float(one["seconds"]) > 0 for one in lines)
    assert {one["parameters"] for one in lines} == {"26122", "15626"}
    page = (folder / "digits.md").read_text()
    words = "-S training.epochs=1 -S training.batch_size=200 --workers 4 --to reports/ladder"
    assert f"`striate ladder digits --seeds 2 {words}` makes this page." in page
    assert "[LeNet-5](https://doi.org/10.1109/5.726791) | `ladder/lenet5/digits`" in page
    with Image.open(folder / "digits.png") as picture:
        assert picture.size[0] == 1260

    clone.settle()  # MLflow has the times now
    again = clone.striate("ladder", "digits", "--seeds", "2", *TINY)
    assert again.startswith("2 settings with 2 seeds: 0 experiments to run\n")
    assert lines_of(folder / "digits.csv") == lines
    # A seed more is a training more of each, and `repeat` finds the experiments.
    more = clone.striate("ladder", "--seeds", "3", *TINY, "--dry-run")
    assert [name[-5:] for name in more.splitlines()[:-1]] == ["seed2", "seed2"]
    assert "to run" not in clone.striate("repeat", "ladder/mlp", "--seeds", "2", *TINY)


@pytest.mark.slow
def test_a_recipe_is_taken_apart(clone):
    change = ["-S", "training.momentum=0.5"]
    planned = clone.striate("ablate", "odd", "--dry-run", "--seeds", "2", *change)
    assert "taken back: model.width [4, 6] → 4\n" in planned
    said = clone.striate("ablate", "odd", "--seeds", "2", *change, "--picture", "odd.png")
    assert said.startswith("5 settings with 2 seeds: 10 experiments to run\n")
    rows = [line.split("  ")[0] for line in said.splitlines()]
    assert {"nothing", "width", "learning_rate", "optimizer and its rates"} <= set(rows)
    assert "as a picture: odd.png\n" in said
    with Image.open(clone.folder / "odd.png") as picture:
        assert picture.size[0] == 1260
    again = clone.striate("ablate", "odd", "--seeds", "2", *change, "--picture", "odd.png")
    assert again.startswith("5 settings with 2 seeds: 0 experiments to run\n")
    assert again.split("\n\n")[1] == said.split("\n\n")[1]


@pytest.mark.slow
def test_what_diverges_when_it_is_taken_back_is_shown(tmp_path):
    clone = Clone.of_this_tree(tmp_path / "repository", **SHORT)
    write_yaml(clone.folder, **SHORT, **DIVERGING)
    clone.run("git", "commit", "-qam", "Diverge.")
    (clone.folder / "recipes/calm.yaml").write_text("# Calm.\ntraining:\n  learning_rate: 0.001\n")
    said = clone.striate("ablate", "calm", "--seeds", "2", status=2)
    assert "\nlearning_rate  0.001  100  0      failed " in said
    assert "With learning_rate 100, trainings failed: the loss became " in said
    assert "as a picture: reports/ablation/calm.png" in said
    assert "error: trainings failed: calm-without-training.learning_rate: the loss became" in said
    clone.settle()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ladder", "svhn"], "error: no rung is for 'svhn'; there are rungs for cifar10, digits, "),
        (["ladder", "--seeds", "1"], "error: --seeds: 1 is not from 2 to 10,000; see "),
        (
            ["ladder", "digits", "-S", "data.name=mnist"],
            "error: -S cannot change data.name: all networks learn digits; name other DATA",
        ),
        (["ladder", "-S", "data.path=x"], "error: -S cannot change data.path: all networks "),
        (["ladder", "-S", "seed=1"], "error: seed is what varies; --seeds says how many "),
        (["ladder", "-S", "model.layers=0"], "error: ladder/mlp/digits: model.layers is 0; "),
        (
            ["ablate", "nope"],
            "error: there is no experiment, branch or commit 'nope'; known here: ",
        ),
        (["ablate", "odd", "--seeds", "1"], "error: --seeds: 1 is not from 2 to 10,000; see "),
        (["ablate", "main"], "error: main does not differ from the committed params.yaml in any "),
        (["ablate"], "error: the following arguments are required: RECIPE; see "),
        (["ladder", "--to", "README.md"], "error: README.md is not a folder"),
        (["ladder", "--to", "README.md/deep/er"], "error: README.md is not a folder"),
        (
            ["ablate", "odd", "--picture", "x.txt"],
            "error: --picture is x.txt; it must be the name of a picture, such as ablation.png",
        ),
        (["ablate", "odd", "--picture", "README.md/x.png"], "error: README.md is not a folder"),
    ],
)
def test_what_cannot_be_measured_costs_one_line(clone, words, said):
    answer = clone.striate(*words, status=2)
    assert answer.startswith(said)
    assert answer.count("\n") == 1


def test_times_are_those_of_now_where_mlflow_does_not_answer(tmp_path, monkeypatch, capsys):
    def fail(root, found):
        raise UserError("MLflow at http://127.0.0.1:9 failed: connection refused")

    monkeypatch.setattr(workspace, "training_times", fail)
    identity = dict.fromkeys(times.TRAINING, "x") | {records.EVALUATION: "y"}
    record = Record([], identity, {"seed": 0}, {}, {}, None, {}, [])
    heard = times.Heard()
    training = {key: identity[key] for key in times.TRAINING}
    heard.hear("a", ["trained", training, [["training_seconds", 4.0, 0]]])
    found = measure._times(tmp_path, [Measured(Setting("a", {}), {0: record}, [])], heard)
    assert found == {record.key: (4.0, "")}
    assert capsys.readouterr().err == (
        "note: MLflow at http://127.0.0.1:9 failed: connection refused;"
        " seconds are those of trainings that ran now\n"
    )


def test_data_that_are_nowhere_cost_one_line(clone):
    clone.env["STRIATE_MIRROR"] = "http://127.0.0.1:9"
    try:
        said = clone.striate("ladder", "mnist", "--seeds", "2", status=2)
    finally:
        del clone.env["STRIATE_MIRROR"]
    assert "error: ladder-mlp-mnist-seed0 failed: " in said
