"""The pipeline under DVC, in a clone of its own."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from clones import Clone
from paths import ROOT
from PIL import Image

from striate.tracking import mlflow_store

# Not dependencies of a stage: what they do reaches its outputs through params and messages only,
# and logging must not retrain.
EXEMPT = {"config", "console", "errors", "pipeline", "schema", "tracking"}


def packages_imported(path):
    """The subpackages that the code of a file or folder imports while it runs."""
    found = set()
    for file in [path] if path.is_file() else path.rglob("*.py"):
        waiting = [ast.parse(file.read_text())]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            waiting += ast.iter_child_nodes(node)
            if isinstance(node, ast.ImportFrom) and node.module == "striate":
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("striate."):
                found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("stage", ["download", "train", "evaluate", "visualize"])
def test_deps_of_a_stage_name_every_package_that_it_imports(stage):
    seen, waiting = set(), packages_imported(ROOT / "stages" / f"{stage}.py")
    while waiting:
        name = waiting.pop()
        if name not in seen | EXEMPT:
            seen.add(name)
            waiting |= packages_imported(ROOT / "src/striate" / name)
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    assert {dep for dep in deps if dep.startswith("src/")} == {f"src/striate/{n}" for n in seen}
    assert len(seen) <= 5


@pytest.mark.parametrize(
    "module",
    [
        "training.loop",
        "evaluation.metrics",
        "training.augmentation",
        "models.convnet",
        "models.gabor",
        "models.lenet5",
        "models.mlp",
        "models.speedrun",
        "models.resnet",
        "models.recurrent",
        "models.convmixer",
        "models.vit",
        "models.checkpoint",
    ],
)
def test_modules_that_train_need_only_torch_and_numpy(module):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['mlflow', 'dvc', 'pydantic', 'yaml',"
        f" 'torchvision', 'sklearn'])); import striate.{module}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return Clone.of_this_tree(tmp_path_factory.mktemp("clone") / "striate")


def runs(clone, monkeypatch):
    clone.settle()
    monkeypatch.chdir(clone.folder)
    return {run.info.run_name: run for run in mlflow_store.open_store().runs()}


@pytest.mark.slow
def test_repro_again_does_nothing_and_leaves_git_clean(clone):
    assert "up to date" in clone.run("dvc", "repro")
    assert clone.run("git", "status", "--porcelain") == ""
    assert clone.run("dvc", "status") == "Data and pipelines are up to date.\n"
    assert not list((clone.folder / ".dvc/tmp/striate").glob("*.state"))


@pytest.mark.slow
def test_a_variant_in_the_workspace_changes_the_metrics_and_gets_its_run(clone, monkeypatch):
    before = clone.lock_of_checkpoint()
    clone.run(
        "dvc", "exp", "run", "-n", "deeper", "-S", "model.layers=3", "-S", "training.epochs=1"
    )
    assert clone.json("metrics/train.json")["parameters"] == 65_386
    run = runs(clone, monkeypatch)["deeper"]
    assert run.data.params["model.layers"] == "3"
    assert run.data.metrics["test_accuracy"] == clone.json("metrics/test.json")["accuracy"]
    assert run.data.tags["dvc.experiment"] == "deeper"
    head = clone.run("git", "rev-parse", "HEAD").strip()
    assert run.data.tags["dvc.baseline"] == head
    clone.go_back()
    assert clone.lock_of_checkpoint() == before


@pytest.mark.walk
def test_a_temporary_experiment_runs_the_code_of_its_own_snapshot(clone, monkeypatch):
    source = clone.folder / "src/striate/models/registry.py"
    text = source.read_text()
    mark = '"""How many numbers training changes."""\n'
    assert mark in text
    # The snapshot counts 1,000,000 parameters more; the workspace is restored while it waits.
    source.write_text(text.replace(mark, f"{mark}    return 1_000_000\n"))
    clone.run("dvc", "exp", "run", "--queue", "-n", "snapshot", "-S", "training.epochs=1")
    source.write_text(text)
    clone.run("dvc", "exp", "run", "--run-all", "-j", "1")
    run = runs(clone, monkeypatch)["snapshot"]
    assert run.data.metrics["parameters"] == 1_000_000
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert artifacts.is_relative_to(clone.folder / "mlartifacts")
    assert (artifacts / "figures/samples.png").exists()
    assert (artifacts / "checkpoint/cnn_trained.ckpt").exists()
    assert clone.run("git", "status", "--porcelain") == ""


@pytest.mark.walk
def test_a_training_is_done_again_when_the_weights_that_it_begins_with_change(clone):
    command = "dvc exp run -S training.init_from=$(striate fetch main) -S training.freeze=features"
    said = clone.run("bash", "-c", f"{command} -S training.epochs=1")
    taken = "layer1.0, layer1.1, layer2.0, layer2.1, fc"
    assert f"weights from weights/main: {taken}; new: none" in said
    assert clone.json("metrics/train.json")["parameters"] == 2 * 2 * 32 * 10 + 10
    assert "up to date" in clone.run("dvc", "status")
    clone.striate("fetch", "models", "--to", "weights/main")
    assert "modified:           weights/main" in clone.run("dvc", "status", "train")
    before = clone.lock_of_checkpoint()
    clone.run("dvc", "repro", "train")
    assert clone.lock_of_checkpoint() != before
    # A command whose source does not exist must not train from nothing.
    before = clone.lock_of_checkpoint()
    command = "dvc exp run -S training.init_from=$(striate fetch nothing)"
    said = clone.run("bash", "-c", command, status=255)
    assert "there is no experiment, branch or commit 'nothing'" in said
    assert clone.lock_of_checkpoint() == before
    clone.go_back()


@pytest.mark.slow
def test_a_faulty_value_is_refused_in_one_line_and_the_outputs_can_be_had_back(clone):
    before = (clone.folder / "models/cnn_trained.ckpt").read_bytes()
    said = clone.run("dvc", "exp", "run", "-S", "model.layers=three", status=255)
    assert "model.layers is 'three'; it must be a whole number from 1 to 16" in said
    assert "Traceback" not in said
    clone.go_back()
    assert (clone.folder / "models/cnn_trained.ckpt").read_bytes() == before


@pytest.mark.slow
def test_training_again_gives_the_same_bytes(clone):
    before = clone.lock_of_checkpoint()
    clone.run("dvc", "repro", "--force", "--no-run-cache")
    assert clone.lock_of_checkpoint() == before
    assert clone.run("git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_editing_figures_does_not_retrain(clone):
    source = clone.folder / "src/striate/reporting/figures/style.py"
    source.write_text(source.read_text() + "\n")
    planned = clone.run("dvc", "repro", "--dry")
    clone.run("git", "checkout", "-q", ".")
    assert [stage for stage in ("train", "evaluate", "visualize")
            if f"Running stage '{stage}'" in planned] == ["visualize"]  # fmt: skip


@pytest.mark.walk
def test_a_recipe_is_an_experiment_like_any_other(clone, mirror, monkeypatch):
    clone.env["STRIATE_MIRROR"] = str(mirror)
    words = clone.striate("recipe", "mnist-99").split()
    clone.run("dvc", "exp", "run", "-n", "recipe", *words)
    test = clone.json("metrics/test.json")
    assert test["accuracy"] >= 0.985
    assert test["n"] == 10_000
    run = runs(clone, monkeypatch)["recipe"]
    assert run.data.params["model.width"] == "[16, 32, 64]"
    assert run.data.metrics["test_accuracy"] == test["accuracy"]
    assert "speedrun, 3 layers" in clone.striate("summary")
    clone.striate("sync")
    clone.striate("verify")
    clone.go_back()


@pytest.mark.slow
def test_summary_and_gate_speak_of_the_last_run(clone):
    summary = clone.striate("summary")
    test = clone.json("metrics/test.json")
    assert f"{test['accuracy']:.2%} ({test['errors']} of 360 wrong)" in summary
    gate = clone.striate("gate", "--against", "HEAD")
    assert re.search(r"\nagainst HEAD \(\w{7}\): passed.*\n$", gate)


def write_pictures(folder, **classes):
    """Ten gray pictures of each class, of a level of its own."""
    for name, level in classes.items():
        (folder / "train" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), level + number).save(folder / "train" / name / f"{number}.png")


@pytest.mark.slow
def test_own_pictures_are_no_concern_of_digits_and_can_be_kept_by_dvc(clone):
    images = clone.folder / "images"
    write_pictures(images, dark=10, light=200)
    assert clone.run("dvc", "status") == "Data and pipelines are up to date.\n"
    assert "Running stage" not in clone.run("dvc", "repro", "--dry")
    assert clone.run("git", "status", "--porcelain") == ""
    clone.run("dvc", "add", "images/train")
    clone.run("git", "add", "-A")
    staged = clone.run("git", "status", "--porcelain").split()
    assert staged == ["A", "images/.gitignore", "A", "images/train.dvc"]
    clone.run("git", "reset", "-q", "--hard")
    said = clone.run("dvc", "exp", "run", "-S", "data.name=folder", status=255)
    assert "error: data.path is images/none, which is not a folder; set it to the folder" in said
    clone.go_back()
    clone.run("git", "clean", "-qdffx", "images")


@pytest.mark.slow
def test_dvc_sees_all_that_is_learnt_also_behind_a_linked_path_and_linked_files(clone):
    for name, classes in (("a", {"dark": 10, "light": 200}), ("b", {"dim": 10, "bright": 200})):
        write_pictures(clone.folder / "tmp" / name, **classes)
    (clone.folder / ".git/info/exclude").write_text("/tmp\n/own\n")
    own, file = clone.folder / "own", clone.folder / "tmp/b/train/dim/0.png"
    path = clone.folder / "params.yaml"
    changed = yaml.safe_load(path.read_text())
    changed["data"] |= {"name": "folder", "path": "own"}
    path.write_text(yaml.safe_dump(changed))
    for target, classes in (("a", ["dark", "light"]), ("b", ["bright", "dim"])):
        own.unlink(missing_ok=True)
        own.symlink_to(f"tmp/{target}")
        clone.run("dvc", "repro", "download")
        assert clone.json("data/manifest.json")["classes"] == classes
    file.unlink()
    file.symlink_to(clone.folder / "tmp/a/train/light/9.png")
    assert "Running stage 'download'" in clone.run("dvc", "repro", "download")
    # What DVC does not look at must not be learnt.
    (clone.folder / ".dvcignore").write_text("9.png\n")
    said = clone.run("dvc", "repro", "download", status=255)
    assert "error: DVC does not see own/train/bright/9.png: it matches .dvcignore" in said
    own.unlink()
    clone.go_back()
