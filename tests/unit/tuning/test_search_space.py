"""The space of a search: what a file may say, and what trials draw from it."""

import pytest
import yaml
from paths import ROOT

from striate.config import params
from striate.errors import UserError
from striate.tuning import search_space

BASE = params.load(ROOT / "params.yaml")
SPACE = {"training.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}


def written(folder, space):
    path = folder / "space.yaml"
    path.write_text(space if isinstance(space, str) else yaml.safe_dump(space))
    return path


def test_the_committed_space_is_one():
    space = search_space.read(ROOT / "tune.yaml", BASE)
    assert {"training.learning_rate", "model.width"} <= set(space)
    benchmark = search_space.read(ROOT / "benchmarks/tuning.yaml", BASE)
    assert benchmark["data.name"] == "cifar10"


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"model.layer": [1, 2]}, "model.layer is not a known key; known here: arch, layers"),
        ({"modle.layers": [1, 2]}, "modle is not a known key; known here: seed, data"),
        ({"model": {"layers": [1, 2]}}, "'model' is not the name of a param, such as model.layers"),
        ({3: [1, 2]}, "3 is not the name of a param"),
        ({"model.layers": [1, 9]}, "model.layers is 9, too many for images of 8×8 pixels"),
        ({"model.layers": [1, "two"]}, "model.layers is 'two'; it must be a whole number from 1"),
        ({"model.layers": {"low": 1, "high": 2.5}}, "model.layers is 2.5; it must be a whole"),
        ({"model.layers": [1, 1]}, "model.layers must list 1 to 50 choices, each once"),
        ({"model.layers": []}, "model.layers must list 1 to 50 choices"),
        ({"model.layers": {"low": 1}}, "model.layers is no range; it must hold low and high"),
        ({"model.layers": {"low": 1, "high": 2, "by": 1}}, "model.layers is no range"),
        ({"model.layers": {"low": 2, "high": 1}}, "low is 2; it must be less than high, which is"),
        ({"model.layers": {"low": 1, "high": 2, "log": 1}}, "log is 1; it must be true or false"),
        ({"model.width": {"low": 8, "high": 30, "step": 8}}, "a whole number of steps above 0"),
        ({"model.width": {"low": 8, "high": 16, "step": 0}}, "a whole number of steps above 0"),
        (
            {"training.weight_decay": {"low": 0, "high": 0.1, "log": True}},
            "with log, low must be above 0, and there can be no step",
        ),
        ({"augment.flip": {"low": 0, "high": 1}}, "augment.flip is 0; it must be true or false"),
        (
            "training.learning_rate: {low: .nan, high: 1}",
            "training.learning_rate: low is nan; it must be a number",
        ),
        (
            "training.learning_rate: {low: small, high: 1}",
            "training.learning_rate: low is 'small'; it must be a number",
        ),
        ({"training.learning_rate": {"low": 0.1, "high": 101}}, "is 101; it must be a number abo"),
        ({"model.arch": ["convnet", "speedrun"], "model.whiten": [0, 2]}, "model.whiten is 2; it"),
        ({"model.layers": 3}, "no param varies; give one a list, or a range with low and high"),
        ({"data.val_size": [0.1, 0.2]}, "data.val_size must be one value: it says how networks"),
        ({"evaluate.tta": ["none", "flip"]}, "evaluate.tta must be one value"),
        (SPACE | {"data.val_size": 0}, "data.val_size is 0, which leaves no validation images"),
        (SPACE | {"data.val_size": 0.0001}, "leaves no validation images"),
        (SPACE | {"data.name": "folder", "data.val_size": 0}, "leaves no validation images"),
        ("[1, 2]", "must hold keys and their values"),
        ("{", "is not valid YAML"),
    ],
)
def test_a_space_that_no_study_can_have_is_refused_in_a_line(tmp_path, space, said):
    with pytest.raises(UserError) as caught:
        search_space.read(written(tmp_path, space), BASE)
    (line,) = str(caught.value).splitlines()
    assert said in line


def test_what_a_trial_draws_is_of_the_kind_that_the_param_has(tmp_path):
    import optuna

    space = {
        "training.weight_decay": {"low": 0, "high": 1},
        "training.learning_rate": {"low": 0.00001, "high": 0.1, "log": True},
        "training.warmup": {"low": 0.0, "high": 0.3, "step": 0.1},
        "model.layers": 2,
        "model.width": [8, [8, 16]],
        "model.kernel_size": {"low": 3, "high": 7, "step": 2},
        "augment.flip": [False],
        "seed": 3,
    }
    path = written(tmp_path, space)
    assert search_space.read(path, BASE) == space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = []
    for _ in range(40):
        drawn = search_space.values_of(search_space.propose(study.ask(), space, BASE), space)
        settings = params.check(search_space.override(BASE, drawn))
        assert settings.seed == 3
        assert drawn["training.warmup"] in (0, 0.1, 0.2, 0.3)
        assert len(f"{drawn['training.learning_rate']:e}".split("e")[0].rstrip("0")) <= 5
        seen.append(settings)
    assert any(isinstance(one.model.width, list) for one in seen)
    assert {one.model.kernel_size for one in seen} == {3, 5, 7}
    assert len({one.training.weight_decay for one in seen}) > 30
