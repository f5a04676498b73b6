"""The four stages, one after the other, on digits: what they write, say and log."""

import json
import shutil
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch
import yaml
from paths import ROOT
from stages import STAGES, fail_stage, run_stage, write_params

from striate.data import json_csv
from striate.evaluation import (
    heat_maps,
    inspection,
    metrics,
    neighbours,
    predictions,
    scores,
    shifts,
)
from striate.models import checkpoint
from striate.reporting import seeds
from striate.tracking import background, mlflow_store, records


def written(folder):
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not {"mlartifacts", ".dvc"} & set(path.parts)
    }


def wait_for_tracking():
    for child in psutil.Process().children():
        if (
            child.status() != psutil.STATUS_ZOMBIE
            and "striate.tracking.mlflow_process" in child.cmdline()
        ):
            child.wait(120)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the four stages ran, with tracking."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_params(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for variable in ("DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_TRACKING_URI"):
            patch.delenv(variable, raising=False)
        for name in STAGES:
            run_stage(name)
        wait_for_tracking()
    return folder


@pytest.fixture
def workspace(finished, tmp_path, monkeypatch):
    """A fresh copy of `finished` as the working folder, without its runs and untracked."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("STRIATE_TRACKING", "off")
    return folder


def test_outputs_are_exactly_these(finished):
    assert written(finished) == {
        "params.yaml",
        "mlflow.db",
        "data/manifest.json",
        "data/source.json",
        *(f"data/{part}/{name}.npy" for part in ("train", "test") for name in ("images", "labels")),
        "models/cnn_trained.ckpt",
        "models/model.json",
        "metrics/history.csv",
        "metrics/steps.csv",
        "metrics/train.json",
        "metrics/test.json",
        "metrics/per_class.csv",
        "predictions/logits.npy",
        "predictions/classes.csv",
        "predictions/network.npz",
        "predictions/mistakes.npz",
        "metrics/shifted.json",
        "reports/index.html",
        "reports/model_card.md",
        *(
            f"reports/figures/{name}.png"
            for name in ("samples", "curves", "predictions", "mistakes", "confusion",
                         "calibration", "feature_maps", "filters_layer1", "filters_layer2")
        ),
    }  # fmt: skip


def test_metrics_follow_from_the_saved_predictions(finished):
    test = json_csv.read_json(finished / "metrics/test.json")
    logits = np.load(finished / "predictions/logits.npy")
    labels = np.load(finished / "data/test/labels.npy")
    scored = metrics.predictions_of(torch.from_numpy(logits), torch.from_numpy(labels))
    assert test == metrics.measure(scored)
    assert list(test) == ["accuracy", "loss", "macro_f1", "ece", "errors", "n"]
    assert test["n"] == 360
    assert test["accuracy"] > 0.3  # chance is 0.1
    rows = (finished / "predictions/classes.csv").read_text().splitlines()
    assert len(rows) == 1 + 360
    wrong = [row for row in rows[1:] if row.split(",")[0] != row.split(",")[1]]
    assert len(wrong) == test["errors"]


def test_visualize_loads_no_torch(workspace):
    script = ROOT / "stages/visualize.py"
    code = (
        f"import runpy, sys; runpy.run_path({str(script)!r}, run_name='__main__');"
        " sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_visualize_shows_the_seeds_of_these_results_and_no_others(workspace, capsys):
    train, test = (
        json_csv.read_metrics(workspace / f"metrics/{name}.json") for name in ("train", "test")
    )
    rows = [seeds.row(seed, train, test | {"accuracy": 0.5 + seed / 100}) for seed in (1, 2)]
    figure = workspace / "reports/figures/seeds.png"
    seeds.write(workspace / seeds.FILE, [seeds.row(0, train, {"accuracy": 0.1}), *rows])
    run_stage("visualize")
    assert not figure.exists()
    assert "These are the results of one seed" in (workspace / "reports/index.html").read_text()
    seeds.write(workspace / seeds.FILE, [seeds.row(0, train, test), *rows])
    run_stage("visualize")
    assert figure.exists()
    assert "over 3 seeds" in (workspace / "reports/index.html").read_text()
    assert "over 3 seeds" in (workspace / "reports/model_card.md").read_text()
    (workspace / seeds.FILE).write_text("seed,a\n0,x\n")
    assert "metrics/seeds.csv is not a table of numbers" in fail_stage("visualize", capsys)


def test_what_visualize_shows_of_the_network_is_that_of_the_checkpoint(finished):
    trained = checkpoint.load(finished / "models", torch.device("cpu"))
    images = torch.from_numpy(np.load(finished / "data/test/images.npy"))
    maps = inspection.feature_maps(trained.model, trained.normalization(images[:1]))
    found_filters, found_maps, attention = predictions.read_network(finished / "predictions")
    assert attention == {}
    for found, expected in (
        (found_filters, inspection.filters(trained.model)),
        (found_maps, {name: value[0] for name, value in maps.items()}),
    ):
        assert list(found) == list(expected) == ["layer1", "layer2"]
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-5, atol=1e-6)


def test_the_attention_of_a_transformer_is_kept_and_drawn(workspace):
    write_params(workspace, model__arch="vit", model__width=12, model__patch=2, model__heads=3)
    for name in ("train", "evaluate", "visualize"):
        run_stage(name)
    attention = predictions.read_network(workspace / "predictions").attention
    assert [(name, value.shape) for name, value in attention.items()] == [
        ("layer1", (inspection.ATTENDED, 4, 4)), ("layer2", (inspection.ATTENDED, 4, 4)),
    ]  # fmt: skip
    trained = checkpoint.load(workspace / "models", torch.device("cpu"))
    images = torch.from_numpy(np.load(workspace / "data/test/images.npy"))[: inspection.ATTENDED]
    expected = trained.model.attention_maps(trained.normalization(images))
    for name, value in attention.items():
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=1e-5, atol=1e-6)
    assert (workspace / "reports/figures/patch_attention.png").exists()
    page = (workspace / "reports/index.html").read_text()
    assert "how much all patches attend to each patch in each layer" in page


def test_the_worst_mistakes_are_looked_into(finished):
    trained = checkpoint.load(finished / "models", torch.device("cpu"))
    test, train = (
        torch.from_numpy(np.load(finished / f"data/{part}/images.npy"))
        for part in ("test", "train")
    )
    logits, labels = (
        np.load(finished / name) for name in ("predictions/logits.npy", "data/test/labels.npy")
    )
    found = predictions.read_mistakes(
        finished / "predictions", (len(test), *test.shape[2:]), len(train)
    )
    expected = scores.surest_mistakes(logits, labels)[0][: predictions.SHOWN_MISTAKES]
    assert found.indices.tolist() == expected.tolist()
    inputs = trained.normalization(test[found.indices])
    guesses = torch.from_numpy(logits[found.indices].argmax(1))
    maps = heat_maps.heat_maps(trained.model, inputs, guesses)
    np.testing.assert_allclose(found.evidence, maps.numpy(), rtol=1e-4, atol=1e-5)
    similar = neighbours.nearest(
        trained.model, test[found.indices], [(torch.arange(len(train)), train)],
        trained.normalization, count=3,
    )  # fmt: skip
    assert found.neighbours.tolist() == similar.tolist()


def test_corrupted_images_are_scored_where_that_is_asked_for(workspace):
    assert json_csv.read_json(workspace / "metrics/shifted.json") == {}
    write_params(workspace, evaluate__shifted=100)
    for name in ("evaluate", "visualize"):
        run_stage(name)
    by_name = json_csv.read_json(workspace / "metrics/shifted.json")
    assert list(by_name) == list(shifts.CORRUPTIONS)
    test = json_csv.read_json(workspace / "metrics/test.json")
    assert test["shifted_accuracy"] == pytest.approx(np.mean([*by_name.values()]))
    assert test["shifted_worst"] == pytest.approx(min(by_name.values()))
    assert (workspace / "reports/figures/shifted_images.png").exists()
    page = (workspace / "reports/index.html").read_text()
    assert "shifted accuracy" in page
    write_params(workspace, evaluate__neighbours=0)
    run_stage("evaluate")
    run_stage("visualize")
    page = (workspace / "reports/index.html").read_text()
    assert "most similar" not in page


@pytest.mark.parametrize("name", ["mistakes.npz", "shifted.npz", "shifted.csv"])
def test_damaged_arrays_are_one_line(workspace, capsys, name):
    write_params(workspace, evaluate__shifted=20)
    run_stage("evaluate")
    path = workspace / "predictions" / name
    path.write_bytes(path.read_bytes()[:-70] + b"x")
    (line,) = fail_stage("visualize", capsys).splitlines()
    assert line.startswith("error: predictions/")
    assert line.endswith("; `dvc repro` recreates it")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"cut", b"logits", None])
def test_network_arrays_that_are_missing_or_damaged_are_one_line(workspace, capsys, content):
    path = workspace / "predictions/network.npz"
    if content == b"cut":
        content = path.read_bytes()[:-200]
    elif content == b"logits":
        content = (workspace / "predictions/logits.npy").read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    (line,) = fail_stage("visualize", capsys).splitlines()
    assert line.startswith("error: predictions/network.npz cannot be read: ")
    assert line.endswith("; `dvc repro` recreates it")


def test_train_json_is_the_last_epoch(finished):
    train = json_csv.read_json(finished / "metrics/train.json")
    history = json_csv.read_table(finished / "metrics/history.csv")
    for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert train[key] == history[key][-1]
    assert train["epochs"] == 2
    assert history["epoch"] == [1, 2]


def test_one_run_holds_the_params_and_the_curves_of_the_training(finished, monkeypatch):
    """The rest comes when DVC has recorded it."""
    monkeypatch.chdir(finished)
    store = mlflow_store.open_store()
    (run,) = store.runs()
    params = yaml.safe_load((finished / "params.yaml").read_text())
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "digits-2x4-seed0"
    assert run.data.params["model.width"] == "4"
    assert set(run.data.params) == {
        *(
            f"{s}.{key}"
            for s, keys in params.items()
            if s not in ("seed", "evaluate")
            for key in keys
        ),
        "seed",
    }
    for table, index in (("history", "epoch"), ("steps", "step")):
        columns = json_csv.read_table(finished / "metrics" / f"{table}.csv")
        steps = columns.pop(index)
        for name, column in columns.items():
            points = store.client.get_metric_history(run.info.run_id, name)
            points.sort(key=lambda point: point.step)
            assert [(p.step, p.value) for p in points] == list(zip(steps, column, strict=True))
    hashes = {records.CHECKPOINT, records.DATA, records.PARAMS}
    tagged = {key for key in run.data.tags if key.startswith("striate.")}
    assert tagged - {background.PROCESS, "striate.residency"} == hashes
    assert run.data.tags["striate.residency"] == "device"


def test_the_same_params_give_the_same_bytes(finished, workspace):
    for folder in ("models", "predictions", "reports"):
        shutil.rmtree(workspace / folder)
    for name in STAGES:
        run_stage(name)
    assert not (workspace / "mlflow.db").exists()  # tracking is off
    for name in written(finished) - {"mlflow.db"}:
        assert (workspace / name).read_bytes() == (finished / name).read_bytes(), name


def test_images_that_are_read_from_disk_give_the_same_bytes(finished, workspace, capsys):
    write_params(workspace, data__residency="disk")
    shutil.rmtree(workspace / "models")
    run_stage("train")
    assert "1,293 images on disk, on cpu" in capsys.readouterr().out
    for name in ("models/cnn_trained.ckpt", "models/model.json", "metrics/history.csv"):
        assert (workspace / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_run_that_fails_is_marked_as_failed(workspace, monkeypatch, capsys):
    monkeypatch.delenv("STRIATE_TRACKING")
    write_params(
        workspace, training__learning_rate=100, training__optimizer="sgd", model__norm="none",
        model__activation="leaky_relu",
    )  # fmt: skip
    assert "the loss became" in fail_stage("train", capsys)
    wait_for_tracking()
    (run,) = mlflow_store.open_store().runs()
    assert run.info.status == "FAILED"


def test_training_on_everything_needs_no_validation(workspace, capsys):
    write_params(workspace, data__val_size=0)
    for name in STAGES[1:]:
        run_stage(name)
    assert "1,437 images" in capsys.readouterr().out
    assert "val_loss" not in json_csv.read_json(workspace / "metrics/train.json")


def test_each_stage_validates_params_before_anything_else(workspace, capsys):
    write_params(workspace, model__layers="three")
    for path in workspace.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    for name in STAGES:
        said = "error: params.yaml: model.layers is 'three'; it must be a whole number from 1 to 16"
        assert fail_stage(name, capsys).splitlines() == [said]


def test_without_a_checkpoint_evaluate_says_what_makes_it(workspace, capsys):
    shutil.rmtree(workspace / "models")
    said = "error: models/model.json is not there; `dvc repro` makes it"
    assert fail_stage("evaluate", capsys).splitlines() == [said]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__layers": 4}, "model.layers is 4, too many for images of 8×8"),
        ({"augment__translate": 8}, "augment.translate is 8, too large"),
        (
            {"data__val_size": 1437},
            "data.val_size is 1437: 1437 of 1437 images leave none for training",
        ),
        ({"training__device": "mps"}, "training.device is mps, which this machine does not have"),
    ],
)
def test_values_that_do_not_fit_the_data_or_the_machine(workspace, capsys, changes, said):
    write_params(workspace, **changes)
    (line,) = fail_stage("train", capsys).splitlines()
    assert line.startswith(f"error: {said}")


def test_evaluate_refuses_a_checkpoint_for_other_images(workspace, capsys):
    manifest = json.loads((workspace / "data/manifest.json").read_text())
    manifest |= {"name": "mnist", "shape": [1, 28, 28]}
    (workspace / "data/manifest.json").write_text(json.dumps(manifest))
    said = fail_stage("evaluate", capsys)
    assert "trained on digits, and data/ holds mnist, with images of another shape" in said


def test_evaluate_reads_the_network_from_the_checkpoint_and_not_from_params(finished, workspace):
    write_params(workspace, model__layers=1, data__normalize="standard")
    run_stage("evaluate")
    for name in ("metrics/test.json", "predictions/logits.npy"):
        assert (workspace / name).read_bytes() == (finished / name).read_bytes()


def test_a_training_begins_with_the_weights_of_another(finished, workspace, capsys):
    shutil.copytree(finished / "models", workspace / "weights/first")
    before = checkpoint.first_weights(finished / "models")
    write_params(
        workspace, training__init_from="weights/first", training__freeze="layer1",
        training__epochs=1,
    )  # fmt: skip
    run_stage("train")
    said = capsys.readouterr().out
    every = "layer1.0, layer1.1, layer2.0, layer2.1, fc"
    assert f"weights from weights/first: {every}; new: none" in said
    after = checkpoint.first_weights(workspace / "models")
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert same == {name for name in before if name.startswith("layer1")}


def test_weights_that_fit_nowhere_are_new(finished, workspace, capsys):
    shutil.copytree(finished / "models", workspace / "weights/first")
    write_params(
        workspace, training__init_from="weights/first", training__epochs=1, model__width=6,
        model__layers=1,
    )  # fmt: skip
    run_stage("train")
    assert "weights/first: none; new: layer1.0, layer1.1, fc" in capsys.readouterr().out


def test_weights_that_are_missing_or_damaged_are_one_line(finished, workspace, capsys):
    write_params(workspace, training__init_from="weights/gone")
    assert fail_stage("train", capsys).startswith(
        "error: training.init_from is weights/gone, which is not there; `striate fetch EXPERIMENT`"
    )
    (workspace / "weights").mkdir()
    (workspace / "weights/gone").write_text("rubbish")
    assert "weights/gone cannot be read as weights" in fail_stage("train", capsys)


@pytest.mark.parametrize(("batch_size", "noted"), [(100, True), (10, False)])
def test_a_training_of_very_few_steps_says_what_makes_more(workspace, capsys, batch_size, noted):
    write_params(
        workspace, data__val_size=1351, training__epochs=6, training__batch_size=batch_size
    )
    run_stage("train")
    said = (
        "note: this training takes 6 steps (epochs of 86 images in batches of 100), and a new"
        " network learns little in fewer than 50; lower training.batch_size or raise"
        " training.epochs"
    )
    assert (said in capsys.readouterr().out.splitlines()) is noted


def test_keys_that_the_network_does_not_read_are_noted(workspace, capsys):
    # The recipes of the ladder set all keys, most of them as they are in params.yaml.
    write_params(
        workspace, data__val_size=0.5, training__epochs=1, model__arch="lenet5", model__layers=3,
        model__width=16, model__norm="group", model__pool="max",
    )  # fmt: skip
    run_stage("train")
    said = "note: lenet5 does not read model.layers=3, model.norm=group"
    assert said in capsys.readouterr().out.splitlines()
