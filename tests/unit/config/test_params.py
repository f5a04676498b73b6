"""params.yaml: what the schema accepts, and how it explains what it refuses."""

import copy
import re
from itertools import pairwise

import pytest
from paths import ROOT
from settings import COMMITTED, changed

from striate.config import params
from striate.models.configs import CONFIGS, TimmConfig
from striate.models.defaults import DEFAULTS


def test_the_committed_file_is_valid_and_every_value_is_kept():
    loaded = params.load(ROOT / "params.yaml")
    assert loaded.model_dump() == COMMITTED


def test_every_key_of_the_committed_file_has_a_comment():
    lines = (ROOT / "params.yaml").read_text().splitlines()
    bare = [
        line for line in lines if re.match(r"\s*\w+: \S", line) and not re.search(r" # \S", line)
    ]
    assert bare == []


def test_every_network_is_named_in_the_comment_of_its_key():
    (comment,) = re.findall(r"^  arch: .*# (.*)$", (ROOT / "params.yaml").read_text(), re.M)
    named = [entry.split()[0] for entry in comment.split(" | ")]
    assert named == [*CONFIGS, "timm:NAME"]
    assert all(re.fullmatch(r"[\w:]+ \(.+\)", entry) for entry in comment.split(" | "))


def test_the_schema_repeats_no_default():
    assert all(
        field.is_required()
        for section in params.sections().values()
        for field in section.model_fields.values()
    )


@pytest.mark.parametrize(
    ("key", "value", "explanation"),
    [
        ("seed", -1, "seed is -1; it must be a whole number from 0 to below 4294967296"),
        ("seed", 1.5, "seed is 1.5; it must be a whole number from 0 to below 4294967296"),
        ("data.name", "minst", "data.name is 'minst'; it must be one of cifar10, cifar100, digits"),
        ("data.val_size", -0.1, "data.val_size is -0.1; it must be a number from 0 to 1000000"),
        (
            "data.val_size",
            1.5,
            "data.val_size is 1.5; it must be a fraction from 0 to below 1, or a whole count",
        ),
        ("data.val_size", "0.1", "data.val_size is '0.1'; it must be a number from 0 to 1000000"),
        ("augment.flip", 1, "augment.flip is 1; it must be true or false"),
        ("augment.rotate", 181, "augment.rotate is 181; it must be a number from 0 to 180"),
        (
            "model.layers",
            "three",
            "model.layers is 'three'; it must be a whole number from 1 to 16",
        ),
        ("model.layers", 2.0, "model.layers is 2.0; it must be a whole number from 1 to 16"),
        ("model.layers", True, "model.layers is True; it must be a whole number from 1 to 16"),
        ("model.layers", [2], r"model.layers is \[2\]; it must be a whole number from 1 to 16"),
        ("model.layers", None, "model.layers is None; it must be a whole number from 1 to 16"),
        ("model.width", 1025, "model.width is 1025; it must be a whole number from 1 to 1024"),
        ("model.width", [16, 0], r"model.width is \[16, 0\]; .* list of them, one for each layer"),
        ("model.width", [], r"model.width is \[\]; it must be a whole number from 1 to 1024, or"),
        (
            "model.width",
            {"a": 8},
            "model.width is {'a': 8}; it must be a whole number from 1 to 1024",
        ),
        ("training.epochs", 10**30, "training.epochs is 10{30}; .* from 1 to 1000000$"),
        ("training.learning_rate", 10**400, "training.learning_rate is 10*…; it must be a number"),
        ("model.width", [8, 8, 8], "model.width lists 3 layers, but model.layers is 2$"),
        ("model.whiten", 2, "model.whiten is 2; it must be 0 where model.arch is convnet$"),
        ("augment.shrink", 6, "augment.shrink is 6; it must be 0 where model.arch is convnet"),
        ("model.kernel_size", 4, "model.kernel_size is 4; it must be an odd whole number"),
        ("model.residual", True, "model.convs_per_layer is 1; .* 2 or more where model.residual"),
        ("model.residual", "yes", "model.residual is 'yes'; it must be true or false$"),
        ("model.pool", "mean", "model.pool is 'mean'; it must be one of max, average, stride$"),
        ("model.norm", "both", "model.norm is 'both'; .* be one of batch, group, layer, none$"),
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
        (
            "training.accumulate",
            101,
            "training.accumulate is 101; it must be at most training.batch_size, 100, which it",
        ),
        ("training.ema", 1.0, "training.ema is 1.0; it must be a number from 0 to below 1"),
        ("augment.mixup", -1, "augment.mixup is -1; it must be a number from 0 to 100"),
        ("model", 3, "model is 3; it must be a section with the keys arch, layers, width"),
        ("modle", 3, "modle is not a known key; known here: seed, data, augment, model"),
        ("model.depth", 3, "model.depth is not a known key; known here: arch, layers, width"),
    ],
)
def test_a_faulty_value_is_explained_in_one_line(key, value, explanation):
    with pytest.raises(params.ParamsError, match=explanation) as caught:
        params.check(changed(**{key: value}))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("key", ["mixup", "cutmix"])
def test_a_batch_of_one_image_cannot_be_mixed(key):
    values = changed(**{f"augment.{key}": 0.5, "training.batch_size": 1})
    with pytest.raises(params.ParamsError, match=rf"augment.{key} is 0.5; it must be 0 where .* 1"):
        params.check(values)


def test_a_missing_key_is_named_with_what_it_should_hold():
    values = copy.deepcopy(COMMITTED)
    del values["training"]["epochs"], values["evaluate"]
    with pytest.raises(params.ParamsError) as caught:
        params.check(values)
    first, second = str(caught.value).splitlines()
    assert "training.epochs is missing; it must be a whole number from 1 to 1000000" in first
    assert "evaluate is missing; it must be a section with the keys batch_size" in second


@pytest.mark.parametrize("key", params.flatten(COMMITTED))
def test_any_key_that_is_missing_is_named(key):
    section, _, name = key.rpartition(".")
    values = changed()
    if section == "model":
        every = CONFIGS | {"timm:resnet18": TimmConfig}
        readers = (arch for arch, config in every.items() if name in config.model_fields)
        values["model"]["arch"] = next(readers)
    del (values[section] if section else values)[name]
    with pytest.raises(params.ParamsError, match=f"^params.yaml: {key} is missing; it must be "):
        params.check(values)


def test_a_key_that_only_another_network_reads_may_be_missing():
    values = copy.deepcopy(COMMITTED)
    del values["model"]["whiten"]
    assert params.check(values).model_dump() == values
    values["model"]["arch"] = "speedrun"
    with pytest.raises(params.ParamsError, match=r"model.whiten is missing; it must be a whole n"):
        params.check(values)


@pytest.mark.parametrize("value", ["a", 9, False, 0.0, None, [0]])
def test_a_key_that_only_another_network_reads_must_be_off(value):
    with pytest.raises(params.ParamsError) as caught:
        params.check(changed(model__whiten=value))
    shown = "false" if value is False else value
    said = f"params.yaml: model.whiten is {shown}; it must be 0 where model.arch is convnet"
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("arch", "key", "value", "said"),
    [
        ("mlp", "residual", True, "is true; it must be false where model.arch is mlp"),
        ("resnet", "residual", True, "is true; it must be false where model.arch is resnet"),
        ("mlp", "residual", "maybe", "is maybe; it must be false where model.arch is mlp"),
        ("vit", "skips", False, "is false; it must be true where model.arch is vit"),
        ("resnet", "norm", "bach", "is 'bach'; it must be one of batch, group, layer, none"),
        ("mlp", "pool", True, "is True; it must be one of max, average, stride"),
        ("lenet5", "patch", "2", "is '2'; it must be a whole number from 1 to 64"),
    ],
)
def test_a_key_that_the_network_does_not_read_is_checked_too(arch, key, value, said):
    with pytest.raises(params.ParamsError) as caught:
        params.check(changed(model__arch=arch, **{f"model__{key}": value}))
    assert str(caught.value) == f"params.yaml: model.{key} {said}"


def test_keys_that_the_network_does_not_read_are_told_by_their_defaults():
    committed = params.check(COMMITTED).model
    assert committed.model_dump() == DEFAULTS
    flat = params.flatten(COMMITTED)
    assert params.OLDER.items() <= flat.items()
    for arch in CONFIGS:
        assert params.check(changed(model__arch=arch)).model.unread() == {}
    some = changed(model__arch="resnet", model__norm="group", model__layers=3, model__heads=2)
    assert params.check(some).model.unread() == {"norm": "group", "heads": 2}
    assert params.check(changed(model__arch="lenet5", model__layers=3)).model.unread() == {
        "layers": 3
    }


@pytest.mark.parametrize(
    ("key", "value", "explanation"),
    [
        ("model.arch", "vgg", "model.arch is 'vgg'; it must be one of convnet, speedrun, mlp, "),
        ("model.arch", ["convnet"], r"model.arch is \['convnet'\]; it must be one of convnet, sp"),
        ("training.freeze", "", "training.freeze is ''; it must be none, features, or the last"),
        ("training.freeze", 1, "training.freeze is 1; it must be none, features, or the last"),
        (
            "training.freeze",
            "layer3",
            "training.freeze is layer3; it must be one of none, features, layer1, layer2 where"
            " model.arch is convnet and model.layers 2$",
        ),
    ],
)
def test_a_network_or_a_layer_that_is_not_there_is_explained(key, value, explanation):
    with pytest.raises(params.ParamsError, match=f"^params.yaml: {explanation}") as caught:
        params.check(changed(**{key: value}))
    assert len(str(caught.value).splitlines()) == 1


def test_all_faults_of_a_network_are_listed():
    values = changed(model__layers=0)
    values["model"] |= {"depth": 2, "kernel_size": 2}
    del values["model"]["norm"]
    with pytest.raises(params.ParamsError) as caught:
        params.check(values)
    found = str(caught.value)
    assert len(found.splitlines()) == 4
    for said in ("model.layers is 0", "model.norm is missing", "model.depth is not a known key",
                 "model.kernel_size is 2; it must be an odd"):  # fmt: skip
        assert said in found


def test_a_long_value_is_cut():
    with pytest.raises(params.ParamsError, match=r"data.name is 'x{59}…; it must"):
        params.check(changed(data__name="x" * 1000))


@pytest.mark.parametrize(
    ("text", "explanation"),
    [
        ("seed: [", "is not valid YAML"),
        ("seed: 0\n\tdata", "line 2, column 1 is not valid YAML: found character"),
        ("seed: 0\nseed: 1", ", line 2, column 1 is not valid YAML: the key 'seed' stands twice"),
        ("{[]: 1, a: 1, a: 2}", "the key 'a' stands twice"),
        ("seed: !!python/object/apply:os.system ['true']", ", line 1, column 7 is not valid YAML"),
        ("- seed", "must hold keys and their values"),
        ("", "must hold keys and their values"),
        ("{[]: 1}", "is not valid YAML"),
        ("1: 2", "1 is not a known key"),
        ("~: 2", "None is not a known key"),
        ('"\\e[31m\\n": 2', "'\\x1b[31m\\n' is not a known key"),
        ("seed: 0\n<<: {seed: 1}", "line 2, column 1 is not valid YAML: the key '<<'"),
        ("seed: &a 0", "line 1, column 7 is not valid YAML: an alias or anchor"),
        ("seed: !!binary aGVsbG8=", "the tag 'tag:yaml.org,2002:binary' has no place here"),
        ("seed: 2026-02-31", "line 1, column 7 is not valid YAML: '2026-02-31' is not a value"),
        ("seed: 2026-02-01", "seed is datetime.date(2026, 2, 1); it must be a whole number"),
        ("seed: 0b_", "'0b_' is not a value"),
        ("seed: " + "9" * 10_000, "is not a value"),
        ("seed: 0x" + "f" * 10_000, "seed is a number of 40,000 bits; it must be a whole number"),
        ("seed: 1" + ":59" * 5_000 + ".5", "is not a value"),
        ("seed: \x07", "unacceptable character #x0007"),
        ("[" * 50_000, "it is nested too deeply"),
        ("{a: " * 20_000, "it is nested too deeply"),
        ("#" * 100_001, "has more than 100,000 bytes"),
    ],
)
def test_a_file_that_is_not_params_is_explained(tmp_path, text, explanation):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(params.ParamsError, match=re.escape(explanation)) as caught:
        params.load(path)
    assert all(len(line) < 500 for line in str(caught.value).splitlines())


def test_an_alias_bomb_is_refused_at_once(tmp_path):
    lines = [f"{name}: &{name} [*{before}, *{before}]" for before, name in pairwise("abcdefghijk")]
    (tmp_path / "params.yaml").write_text("a: &a [1]\n" + "\n".join(lines))
    with pytest.raises(params.ParamsError, match=r"line 1, column 4 .*alias or anchor"):
        params.load(tmp_path / "params.yaml")


def test_of_many_faults_the_first_are_listed(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text() + "".join(f"\nk{n}: 0" for n in range(100)))
    with pytest.raises(params.ParamsError) as caught:
        params.load(path)
    *faults, last = str(caught.value).splitlines()
    assert len(faults) == 20
    assert last.endswith("params.yaml: and 80 more faults")
    assert {line[:7] for line in [*faults[1:], last]} == {
        " " * 7
    }  # under the first, after "error: "
    path.write_text((ROOT / "params.yaml").read_text() + "".join(f"\nk{n}: 0" for n in range(20)))
    with pytest.raises(params.ParamsError) as caught:
        params.load(path)
    assert len(str(caught.value).splitlines()) == 20


def test_a_file_may_have_as_many_bytes_as_the_message_says(tmp_path):
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text() + "#"
    path.write_bytes(text.encode() + b"#" * (100_000 - len(text.encode())))
    assert params.load(path).model_dump() == COMMITTED


def test_the_file_that_is_read_is_the_one_that_is_named(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("seed: 0", "seed: -1"))
    with pytest.raises(params.ParamsError, match=re.escape(f"{path}: seed is -1; it must be")):
        params.load(path)


@pytest.mark.parametrize(
    ("value", "shown"),
    [("x" * 59, "'" + "x" * 59 + "'"), ("x" * 60, "'" + "x" * 59 + "…")],
)
def test_a_value_is_cut_after_sixty_characters(value, shown):
    with pytest.raises(params.ParamsError, match=rf"data\.name is {shown}; it must"):
        params.check(changed(data__name=value))


@pytest.mark.parametrize(("length", "shown"), [(60, "k" * 60), (61, "'" + "k" * 59 + "…")])
def test_a_key_is_cut_after_sixty_characters(length, shown):
    with pytest.raises(params.ParamsError, match=rf": {shown} is not a known key"):
        params.check(COMMITTED | {"k" * length: 1})


def test_the_ranges_in_the_comments_are_those_of_the_schema():
    """Wherever a comment gives whole numbers as `LEAST to MOST`, the schema has the same two."""
    stated = {}
    section = ""
    for line in (ROOT / "params.yaml").read_text().splitlines():
        if found := re.match(r"(\w+):( *#.*)?$", line):
            section = f"{found[1]}."
        elif found := re.match(r"( *)(\w+): .*?#.*?(?<![\d.])(\d+) to (\d+)(?![\d.])", line):
            stated[(section if found[1] else "") + found[2]] = (int(found[3]), int(found[4]))
    del stated["model.width"]  # which a validator checks
    del stated["training.processes"]  # likewise
    del stated["data.split_seed"]  # likewise
    del stated["data.fold"]  # likewise
    del stated["data.size"]  # likewise
    del stated["data.normalize"]  # which speaks of pixels
    assert len(stated) > 12
    for key, (least, most) in stated.items():
        section, _, name = key.rpartition(".")
        schema = params.sections()[section].model_json_schema()["properties"][name]
        assert schema["minimum"] == least, key
        assert schema.get("maximum", schema.get("exclusiveMaximum", 0) - 1) == most, key


def test_a_missing_or_binary_file_is_explained(tmp_path):
    with pytest.raises(params.ParamsError, match="cannot be read: .*No such file"):  # noqa: RUF043
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(params.ParamsError, match="cannot be read"):
        params.load(tmp_path / "params.yaml")


def test_flatten_joins_keys_with_dots():
    assert params.flatten({"seed": 1, "model": {"layers": 2}}) == {"seed": 1, "model.layers": 2}


def test_flatten_makes_equal_numbers_equal():
    flat = params.flatten({"a": 1.0, "b": 0.5, "c": True, "d": [1.0], "e": -2.0})
    assert flat == {"a": 1, "b": 0.5, "c": True, "d": [1.0], "e": -2}
    assert [type(value) for value in flat.values()] == [int, float, bool, list, int]


def test_a_missing_file_is_explained_in_the_words_of_the_system(tmp_path):
    with pytest.raises(params.ParamsError) as caught:
        params.load(tmp_path / "params.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/params.yaml cannot be read: No such file or directory;"
        " commands run at the root of the repository"
    )


def test_a_small_number_is_read_as_dvc_writes_it(tmp_path):
    from dvc.utils.hydra import apply_overrides

    copied = tmp_path / "params.yaml"
    copied.write_text((ROOT / "params.yaml").read_text())
    apply_overrides(copied, ["training.learning_rate=0.00001"])
    assert "1e-05" in copied.read_text()
    assert params.load(copied).training.learning_rate == 1e-5
