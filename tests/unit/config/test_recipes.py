"""Every recipe is valid, complete and printable; `striate recipe` prints it."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from paths import ROOT

from striate.config import params, recipes, validation
from striate.datasets.registry import DATASETS
from striate.errors import UserError
from striate.models import configs, registry

FILES = (path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").rglob("[!_]*.yaml"))
NAMES = sorted(path.with_suffix("").as_posix() for path in FILES)
RUNGS = [name for name in NAMES if name.startswith("ladder/")]
LADDERS = ("digits", "mnist", "cifar10")
EVERY = [name for name in NAMES if name not in RUNGS]
EVERY += [f"{name}/{data}" for name in RUNGS for data in LADDERS]
COMMIT = ("-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "Start.")
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "digits": (1, 8, 8)}
# What says where and how often, and not what is learnt.
LEFT_OUT = {"seed", "data.split_seed", "data.path", "data.test_size", "data.residency",
            "training.device", "training.processes", "training.precision", "training.capture",
            "training.log_every", "training.deterministic",
            "training.checkpoint_minutes", "evaluate.neighbours",
            "evaluate.shifted"}  # fmt: skip


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_recipes_that_the_readme_speaks_of_are_there():
    assert {"cifar10-94", "cifar10-fast", "mnist-99", "mnist-fast"} <= set(NAMES)
    assert set(recipes.names()) == set(NAMES)
    assert all(recipes.names().values())


@pytest.mark.parametrize("name", EVERY)
def test_a_recipe_sets_every_param_that_shapes_the_network(name):
    recipe = recipes.read(name)
    config = configs.CONFIGS[recipe["model"]["arch"]]
    unread = {
        f"model.{key}" for key in configs.section().model_fields if key not in config.model_fields
    }
    every = set(params.flatten(params.load().model_dump()))
    assert set(params.flatten(recipe)) - unread == every - LEFT_OUT - unread
    model = registry.build(SHAPES[recipe["data"]["name"]], 10, recipe["model"])
    count = registry.count_parameters(model)
    assert count == 681 if name == "mnist-tiny" else count > 1000


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_arguments_give_the_recipe_back(name):
    words = " ".join(recipes.arguments(recipes.read(name))).split()
    assert words[::2] == ["-S"] * (len(words) // 2)
    found = dict(word.split("=", 1) for word in words[1::2])
    expected = params.flatten(recipes.read(name))
    assert {key: yaml.safe_load(text) for key, text in found.items()} == expected


@pytest.mark.parametrize("name", NAMES)
def test_dvc_understands_the_printed_arguments(name, tmp_path):
    from dvc.utils.hydra import apply_overrides

    copy = tmp_path / "params.yaml"
    copy.write_text((ROOT / "params.yaml").read_text())
    apply_overrides(copy, recipes.arguments(recipes.read(name))[1::2])
    merged = params.flatten(yaml.safe_load(copy.read_text()))
    assert merged.items() >= params.flatten(recipes.read(name)).items()


@pytest.mark.parametrize("data", LADDERS)
def test_the_rungs_stand_in_the_order_of_their_years_and_fit_the_data(data):
    rungs = recipes.rungs(data)
    assert set(rungs) == {f"{name}/{data}" for name in RUNGS}
    years = [rung.year for rung in rungs.values()]
    assert (years, years[0], years[-1]) == (sorted(years), 1986, 2024)
    archs = set()
    for name in rungs:
        settings = params.check(
            params.nested(params.flatten(recipes.read(name)), params.load().model_dump())
        )
        assert settings.data.name == data
        dataset = DATASETS[data]
        validation.check(settings, dataset.shape, len(dataset.classes), dataset.counts[0])
        archs.add(settings.model.arch)
    assert len(archs) >= 8


def test_a_rung_without_a_data_set_is_for_digits():
    assert recipes.read("ladder/vit") == recipes.read("ladder/vit/digits")
    mnist = recipes.load_recipe("ladder/vit/mnist")
    assert mnist.params["data"]["name"] == "mnist"
    own = mnist.rung.instead["mnist"]
    assert own
    assert params.flatten(mnist.params).items() >= own.items()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "ladder/vit/svhn",
            "recipes/ladder/vit.yaml is for cifar10, digits, mnist, not for 'svhn'",
        ),
        ("mnist-99/cifar10", "recipes/mnist-99.yaml is no rung"),
        ("ladder/_all", "there is no recipes/ladder/_all.yaml; the recipes are "),
        ("ladder/deepest", "there is no recipes/ladder/deepest.yaml; the recipes are "),
    ],
)
def test_an_unknown_rung_or_data_set_is_refused(name, said):
    with pytest.raises(UserError) as caught:
        recipes.read(name)
    assert str(caught.value).startswith(said)


def test_a_data_set_without_rungs_names_those_that_have_some():
    with pytest.raises(UserError, match=r"no rung is for 'svhn'; .* for cifar10, digits, mnist$"):
        recipes.rungs("svhn")


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("3", "ladder is 3"),
        ("{year: 2015, name: X, paper: 'https://x', instead: {mnist: 3}}", "ladder.instead is "),
        ("{year: 2015, name: X, paper: 'https://x', instead: {minst: {}}}", "ladder.instead is "),
        (
            "{year: 2015, name: X, paper: 'https://x', instead: {mnist: {model.widht: 3}}}",
            "ladder.instead is .*; it must be the keys that differ on other data sets, as ",
        ),
        ("{year: 15, name: X, paper: 'https://x', instead: {}}", "ladder.year is 15; .* 1900"),
        ("{year: 2015, name: X, paper: x, instead: {}}", "ladder.paper is 'x'; .* the address"),
        ("{year: 2015, name: X, paper: 'https://x', instead: {}, jear: 3}", "ladder.jear is not"),
    ],
)
def test_a_faulty_rung_is_explained(tmp_path, monkeypatch, block, said):
    (tmp_path / "recipes/ladder").mkdir(parents=True)
    for name in ("params.yaml", "recipes/ladder/_all.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "recipes/ladder/x.yaml").write_text(f"# X.\nladder: {block}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^recipes/ladder/x.yaml: {said}"):
        recipes.read("ladder/x")


def test_a_rung_for_one_data_set_needs_no_other(tmp_path, monkeypatch):
    (tmp_path / "recipes/ladder").mkdir(parents=True)
    for name in ("params.yaml", "recipes/ladder/_all.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    block = "ladder: {year: 2015, name: X, paper: 'https://x'}\nmodel: {arch: mlp}\n"
    (tmp_path / "recipes/ladder/x.yaml").write_text(f"# X.\n{block}")
    monkeypatch.chdir(tmp_path)
    assert [*recipes.rungs("digits")] == ["ladder/x/digits"]


BLOCK = "ladder: {year: 2015, name: X, paper: 'https://x', instead: {}}\n"


@pytest.mark.parametrize(
    ("path", "text", "words", "said"),
    [
        (
            "recipes/ladder/x.yaml", "", ["ladder"],
            "recipes/ladder/x.yaml has no block `ladder`, which each recipe in that folder needs:"
            " year, name, paper, instead\n",
        ),
        (
            "recipes/zz.yaml", BLOCK, ["recipe", "zz"],
            "recipes/zz.yaml has the block `ladder`, which only recipes in recipes/ladder/ have\n",
        ),
    ],
)  # fmt: skip
def test_a_rung_without_its_block_and_a_block_elsewhere_are_refused(
    tmp_path, path, text, words, said
):
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    (tmp_path / path).write_text(f"# X.\ntraining:\n  epochs: 2\n{text}")
    for command in (["git", "init", "-q"], ["git", "add", "-A"], ["git", *COMMIT]):
        subprocess.run(command, cwd=tmp_path, check=True)
    answer = subprocess.run(
        [sys.executable, "-m", "striate.cli", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (answer.returncode, answer.stderr) == (2, f"error: {said}")


def test_an_unknown_recipe_is_refused_with_those_that_exist():
    with pytest.raises(UserError, match=r"no recipes/fast.yaml; the recipes are .*mnist-fast"):
        recipes.read("fast")


def test_outside_the_repository_the_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for ask in (recipes.names, lambda: recipes.read("mnist-99")):
        with pytest.raises(UserError, match="no recipes/ here; commands run at the root"):
            ask()


@pytest.mark.parametrize("name", ["nope", ""])
def test_dvc_refuses_what_is_printed_for_an_unknown_recipe(name):
    answer = subprocess.run(
        [sys.executable, "-m", "striate.cli", "recipe", name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"error: there is no recipes/{name}.yaml; the recipes are ")
    refused = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "run", *answer.stdout.split()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "unrecognized arguments: --no-such-recipe" in refused.stderr


def test_a_recipe_that_does_not_go_with_params_is_explained(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "recipes/odd.yaml").write_text("# Odd.\nmodel:\n  kernel_size: 4\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"recipes/odd.yaml: model.kernel_size is 4; .* odd"):
        recipes.read("odd")


def test_a_recipe_needs_no_key_that_its_network_does_not_read(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    text = (ROOT / "recipes/mnist-99.yaml").read_text().replace("arch: speedrun", "arch: convnet")
    (tmp_path / "recipes/plain.yaml").write_text(text.replace("  whiten: 2\n", ""))
    monkeypatch.chdir(tmp_path)
    assert "model.whiten" not in " ".join(recipes.arguments(recipes.read("plain")))
    (tmp_path / "recipes/plain.yaml").write_text(text)
    with pytest.raises(
        UserError, match=r"model.whiten is 2; it must be 0 where model.arch is conv"
    ):
        recipes.read("plain")


def test_the_command_prints_arguments_or_the_list():
    def printed(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "striate.cli", "recipe", *arguments],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    assert "-S data.name=mnist " in printed("mnist-99")
    listed = printed()
    assert all(name in listed for name in NAMES)
    assert "-S data.name=mnist " in printed("ladder/resnet/mnist")
    assert json.dumps(listed).count("\\n  ") == len(NAMES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: [", "is not valid YAML"),
        ("- model", "must hold keys and their values"),
        ("model: 3", "model is 3; it must be a section"),
        ("modle: {layers: 3}", "modle is not a known key"),
    ],
)
def test_a_recipe_that_is_not_params_is_explained(tmp_path, monkeypatch, text, said):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "recipes/own.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^recipes/own.yaml.*{said}"):
        recipes.read("own")
