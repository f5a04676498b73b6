"""params.yaml: what the schema accepts, and how it explains what it refuses."""

import copy
import re
from pathlib import Path

import pytest
import yaml

from striate import params

ROOT = Path(__file__).parent.parent
COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text())


def changed(key, value):
    values = copy.deepcopy(COMMITTED)
    *sections, last = key.split(".")
    place = values
    for section in sections:
        place = place[section]
    place[last] = value
    return values


def test_the_committed_file_is_valid_and_every_value_is_kept():
    loaded = params.load(ROOT / "params.yaml")
    assert loaded.model_dump() == COMMITTED


def test_every_key_of_the_committed_file_has_a_comment():
    lines = (ROOT / "params.yaml").read_text().splitlines()
    bare = [
        line for line in lines if re.match(r"\s*\w+: \S", line) and not re.search(r" # \S", line)
    ]
    assert bare == []


def test_the_schema_repeats_no_default():
    assert all(
        field.is_required()
        for section in (params.Params, params.Data, params.Augment, params.Model,
                        params.Training, params.Evaluate)
        for field in section.model_fields.values()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "explanation"),
    [
        ("seed", -1, "seed is -1; it must be a whole number from 0 to below 4294967296"),
        ("seed", 1.5, "seed is 1.5; it must be a whole number from 0 to below 4294967296"),
        ("data.name", "minst", "data.name is 'minst'; it must be one of digits, mnist, cifar10"),
        ("data.val_size", -0.1, "data.val_size is -0.1; it must be a number from 0 up"),
        (
            "data.val_size",
            1.5,
            "data.val_size is 1.5; it must be a fraction from 0 to below 1, or a whole count",
        ),
        ("data.val_size", "0.1", "data.val_size is '0.1'; it must be a number from 0 up"),
        ("augment.flip", 1, "augment.flip is 1; it must be true or false"),
        ("augment.rotate", 181, "augment.rotate is 181; it must be a number from 0 to 180"),
        ("model.layers", "three", "model.layers is 'three'; it must be a whole number from 1 up"),
        ("model.layers", 2.0, "model.layers is 2.0; it must be a whole number from 1 up"),
        ("model.layers", True, "model.layers is True; it must be a whole number from 1 up"),
        ("model.layers", [2], r"model.layers is \[2\]; it must be a whole number from 1 up"),
        ("model.layers", None, "model.layers is None; it must be a whole number from 1 up"),
        ("model.width", 1025, "model.width is 1025; it must be a whole number from 1 to 1024"),
        ("model.width", [16, 0], r"model.width is \[16, 0\]; .* list of them, one for each layer"),
        ("model.width", [], r"model.width is \[\]; it must be a whole number from 1 to 1024, or"),
        ("model.width", [8, 8, 8], "model.width lists 3 layers, but model.layers is 2$"),
        ("model.whiten", 2, "model.whiten is 2; it must be 0 where model.arch is convnet$"),
        ("augment.shrink", 6, "augment.shrink is 6; it must be 0 where model.arch is convnet"),
        ("model.kernel_size", 4, "model.kernel_size is 4; it must be an odd whole number"),
        ("model.dropout", 1.0, "model.dropout is 1.0; it must be a number from 0 to below 1"),
        (
            "training.learning_rate",
            0,
            "training.learning_rate is 0; it must be a number above 0 to 100",
        ),
        (
            "training.learning_rate",
            float("nan"),
            "training.learning_rate is nan; it must be a number above 0 to 100",
        ),
        (
            "training.optimizer",
            "Adam",
            "training.optimizer is 'Adam'; it must be one of adam, adamw, sgd",
        ),
        ("model", 3, "model is 3; it must be a section with the keys arch, layers, width"),
        ("modle", 3, "modle is not a known key; known here: seed, data, augment, model"),
        ("model.depth", 3, "model.depth is not a known key; known here: arch, layers, width"),
    ],
)
def test_a_faulty_value_is_explained_in_one_line(key, value, explanation):
    with pytest.raises(params.ParamsError, match=explanation) as caught:
        params.check(changed(key, value))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_key_is_named_with_what_it_should_hold():
    values = copy.deepcopy(COMMITTED)
    del values["training"]["epochs"], values["evaluate"]
    with pytest.raises(params.ParamsError) as caught:
        params.check(values)
    first, second = str(caught.value).splitlines()
    assert "training.epochs is missing; it must be a whole number from 1 up" in first
    assert "evaluate is missing; it must be a section with the keys batch_size" in second


def test_a_long_value_is_cut():
    with pytest.raises(params.ParamsError, match=r"data.name is 'x{59}…; it must"):
        params.check(changed("data.name", "x" * 1000))


@pytest.mark.parametrize(
    ("text", "explanation"),
    [
        ("seed: [", "is not valid YAML"),
        ("seed: 0\n\tdata", "line 2, column 1 is not valid YAML: found character"),
        ("seed: 0\nseed: 1", "the key 'seed' stands twice"),
        ("seed: !!python/object/apply:os.system ['true']", "is not valid YAML"),
        ("- seed", "expected the keys seed, data, augment, model, training, evaluate"),
        ("", "expected the keys"),
        ("{[]: 1}", "is not valid YAML"),
        ("1: 2", "1 is not a known key"),
    ],
)
def test_a_file_that_is_not_params_is_explained(tmp_path, text, explanation):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(params.ParamsError, match=re.escape(explanation)):
        params.load(path)


def test_a_missing_or_binary_file_is_explained(tmp_path):
    with pytest.raises(params.ParamsError, match="cannot be read: .*No such file"):  # noqa: RUF043
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(params.ParamsError, match="cannot be read"):
        params.load(tmp_path / "params.yaml")


def test_flatten_joins_keys_with_dots():
    assert params.flatten({"seed": 1, "model": {"layers": 2}}) == {"seed": 1, "model.layers": 2}
