"""sync and verify in one process: what they find, what they mend, what they refuse."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import yaml
from clones import Clone

from striate import cli
from striate.config import params
from striate.data import files
from striate.errors import UserError
from striate.tracking import (
    addresses,
    background,
    commits,
    descriptions,
    groups,
    mlflow_store,
    points,
    records,
    run_page,
    sync,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sync") / "striate"
    clone = Clone.of_this_tree(folder, training__epochs=2, model__width=4, training__log_every=5)
    clone.run("dvc", "exp", "run", "--temp", "-n", "other", "-S", "evaluate.batch_size=7")
    # The process behind the prompt has done it, though the code it ran is gone by now.
    assert clone.striate("sync") == "MLflow agrees with DVC: nothing to do\n"
    return clone


@pytest.fixture
def clone(source, tmp_path, monkeypatch):
    """A copy of a repository in which DVC and MLflow agree, as the working folder."""
    shutil.copytree(source.folder, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return Clone(tmp_path / "copy")


def striate(*arguments):
    """The command in this process; returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["striate", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            return end.code
    return 0


def found(clone):
    """All experiments, of which none may be left out."""
    whole, left_out, _ = records.find(clone.folder)
    assert left_out == []
    return whole


def run_called(name):
    store = mlflow_store.open_store()
    return store, next(run for run in store.runs() if run.info.run_name == name)


@pytest.mark.slow
def test_hashes_are_those_of_dvc(clone):
    lock = yaml.safe_load((clone.folder / "dvc.lock").read_text())["stages"]
    outs = [out for stage in lock.values() for out in stage["outs"]]
    assert len(outs) == 16
    for out in outs:
        assert files.md5(clone.folder / out["path"]) == out["md5"], out["path"]
    flat = params.flatten(yaml.safe_load((clone.folder / "params.yaml").read_text()))
    identity = records.training_identity(flat, clone.folder)
    identity |= records.evaluation_identity(flat, clone.folder)
    main, other = found(clone)
    assert main.identity == identity
    assert [name.name for name in main.names] == ["main"]
    assert [name.name for name in other.names] == ["other"]
    assert other.names[0].baseline == main.names[0].commit


@pytest.mark.slow
def test_a_second_sync_finds_nothing_to_do_with_or_without_its_stamp(clone, capsys):
    assert striate("sync") == 0  # the copy moved, so addresses change
    capsys.readouterr()
    assert striate("sync") == 0
    assert capsys.readouterr().out == "MLflow agrees with DVC: nothing to do\n"
    (clone.folder / ".dvc/tmp/striate-synced.json").unlink()
    assert striate("sync") == 0
    assert capsys.readouterr().out == "MLflow agrees with DVC on 2 experiments: nothing to do\n"
    assert striate("verify") == 0
    assert capsys.readouterr().out == "MLflow agrees with DVC on 2 experiments\n"


@pytest.mark.slow
def test_a_replayed_run_is_the_logged_run_in_all_that_is_compared(clone):
    store, logged = run_called("digits-2x4-seed0")
    before = {
        name: [(p.step, p.value) for p in store.client.get_metric_history(logged.info.run_id, name)]
        for name in logged.data.metrics
        if not name.startswith("system/")
    }
    store.client.delete_run(logged.info.run_id)
    rows = {row.experiment: row.done for row in sync.sync(clone.folder, store, found(clone))}
    added = "added checkpoint, added figures, added report, added card"
    assert rows["main"] == f"replayed, {added}, added name, added data sets, added model"
    (replayed,) = [r for r in store.runs() if r.info.run_name == "digits-2x4-seed0"]
    after = {
        name: [
            (p.step, p.value) for p in store.client.get_metric_history(replayed.info.run_id, name)
        ]
        for name in replayed.data.metrics
    }
    assert {name: sorted(points) for name, points in after.items()} == {
        name: sorted(points) for name, points in before.items()
    }
    assert replayed.data.params == logged.data.params
    # Both last as long as the training, from when it took place.
    seconds = replayed.data.metrics["training_seconds"]
    for run in (logged, replayed):
        assert run.info.end_time - run.info.start_time == pytest.approx(seconds * 1000, abs=500)
    assert replayed.info.start_time == pytest.approx(logged.info.start_time, abs=500)
    assert sync.training_times(clone.folder, found(clone))[0][0] == seconds
    best = min(value for _, value in after["val_loss"])
    assert after["best/val_loss"][0][1] == best
    assert sync.verify(clone.folder, store, found(clone)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (
            lambda store, run: store.log(run.info.run_id, [("test_accuracy", 0.5, 1)]),
            "main: metric test_accuracy at step 1 is None in DVC and 0.5 in MLflow",
        ),
        (
            lambda store, run: store.log(
                run.info.run_id, [("val_loss", run.data.metrics["val_loss"] + 1e-15, 2)]
            ),
            "main: metric val_loss has several values at one step in MLflow",
        ),
        (
            lambda store, run: store.log_params(run.info.run_id, {"extra": 1}),
            "main: param extra is None in DVC and 1 in MLflow",
        ),
        (
            lambda store, run: store.client.delete_run(run.info.run_id),
            "main: no runs in MLflow, not 1; `striate sync`",
        ),
    ],
)
def test_verify_sees_every_disagreement(clone, capsys, spoil, fault):
    spoil(*run_called("digits-2x4-seed0"))
    assert striate("verify") == 1
    assert fault in capsys.readouterr().out.splitlines()


def last_longer(store, run):
    store.terminate(run.info.run_id, "FINISHED", run.info.end_time / 1000 + 3600)


def lose_its_data_sets(store, run):
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.execute("DELETE FROM inputs WHERE destination_id = ?", (run.info.run_id,))


def lose_its_model(store, run):
    store.client.delete_logged_model(run.data.tags[run_page.MODEL])


def lose_its_description(store, run):
    store.client.delete_tag(run.info.run_id, descriptions.NOTE)


def lose_its_colour(store, run):
    store.client.delete_tag(run.info.run_id, descriptions.COLOUR)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (last_longer, "its run lasts longer in MLflow than its training did; `striate sync`"),
        (lose_its_data_sets, "its run lacks data sets; `striate sync`"),
        (lose_its_model, "its checkpoint is not among MLflow's models; `striate sync`"),
        (lose_its_description, "its run has no description; `striate sync`"),
        (lose_its_colour, "its run has no colour; `striate sync`"),
    ],
)
def test_verify_sees_what_a_run_lacks_and_sync_mends_it(clone, capsys, spoil, fault):
    assert striate("sync") == 0
    spoil(*run_called("digits-2x4-seed0"))
    assert striate("verify") == 1
    assert f"main: {fault}" in capsys.readouterr().out.splitlines()
    assert striate("sync") == 0
    assert striate("verify") == 0
    assert len(mlflow_store.open_store().models()) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of MLflow, about its own type hints
def test_the_models_page_compares_the_checkpoints_of_all_experiments(clone, monkeypatch):
    store = mlflow_store.open_store()
    models = {model.name: model for model in store.models()}
    assert set(models) == {"digits-2x4-seed0", "other"}
    (main,) = [record for record in found(clone) if record.names[0].name == "main"]
    model = models["digits-2x4-seed0"]
    assert model.status == "READY"
    assert model.params["model.width"] == "4"
    scores = {metric.key: (metric.value, metric.dataset_name) for metric in model.metrics}
    assert scores["test_accuracy"] == (main.test["accuracy"], "digits-test")
    assert scores["val_accuracy"] == (main.train["val_accuracy"], "digits-validation")
    # It answers as the predictions of evaluate do.
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", addresses.tracking_uri())
    pixels = np.load(clone.folder / "data/test/images.npy")[:20].astype(np.float32)
    answers = mlflow.pyfunc.load_model(f"models:/{model.model_id}").predict(pixels)
    logits = np.load(clone.folder / "predictions/logits.npy")[:20]
    np.testing.assert_allclose(answers, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_model_whose_scores_were_changed_is_seen(clone):
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.execute(
            "UPDATE logged_model_metrics SET metric_value = 0.5 WHERE metric_name = 'test_loss'"
        )
    faults = sync.verify(clone.folder, mlflow_store.open_store(), found(clone))
    said = "metric test_loss of its model in MLflow is not what DVC has"
    assert faults == [f"main: {said}", f"other: {said}"]


@pytest.mark.slow
def test_each_run_says_what_it_is_in_a_colour_of_its_own_and_how_to_make_it_again(clone):
    store, run = run_called("digits-2x4-seed0")
    _, other = run_called("other")
    commit = next(one.names[0].commit for one in found(clone))[:10]
    about, _, again = run.data.tags[descriptions.NOTE].splitlines()
    accuracy = json.loads((clone.folder / "metrics/train.json").read_text())["val_accuracy"]
    assert about.startswith("digits: convnet 2x4, ")
    assert about.endswith(f"2 epochs, seed 0; validation accuracy {accuracy:.2%}.")
    assert again == f"Make it again: `git checkout {commit} && dvc repro`"
    said = f"Make it again: `git checkout {commit} && dvc exp run -S evaluate.batch_size=7`"
    assert other.data.tags[descriptions.NOTE].splitlines()[-1] == said
    assert run.data.tags[descriptions.COLOUR] != other.data.tags[descriptions.COLOUR]
    # What a person has written or chosen stays.
    mine = {descriptions.NOTE: "Do not use.", descriptions.COLOUR: "#123456"}
    store.tag(run.info.run_id, mine)
    sync.sync(clone.folder, store, found(clone))
    assert mine.items() <= store.client.get_run(run.info.run_id).data.tags.items()


@pytest.mark.slow
def test_the_end_of_a_killed_training_is_when_it_was_last_heard_of(clone):
    store = mlflow_store.open_store()
    name, pid, start = background.process_tag(os.getpid()).rsplit(" ", 2)
    dead = {background.PROCESS: f"{name} {pid} {int(start) - 9}"}
    run_id = store.create("killed", {}, dead, 1.7e9)
    store.log(run_id, [("train_loss", 2.0, 1)], 1.7e9 + 60)
    sync.sync(clone.folder, store, found(clone))
    info = store.client.get_run(run_id).info
    assert (info.status, info.end_time) == ("KILLED", 1_700_000_060_000)


@pytest.mark.slow
def test_scores_that_were_edited_by_hand_are_nobodys(clone, capsys):
    path = clone.folder / "metrics/test.json"
    scores = json.loads(path.read_text())
    path.write_text(json.dumps(scores | {"accuracy": 1.0}))
    said = "metrics/test.json is not the one that dvc.lock names; `dvc repro` recreates both"
    for command in ("sync", "verify", "experiments", "pareto"):
        assert striate(command) == 0
        shown = capsys.readouterr()
        assert f"note: left out: workspace: {said}" in shown.err
        assert "100.00%" not in shown.out
    for command in (["summary"], ["compare", "main", "workspace"], ["promote", "workspace"]):
        assert striate(*command) == 2
        assert f"workspace cannot be used: {said}" in capsys.readouterr().err
    clone.run("git", "commit", "-qam", "Improve.")
    assert striate("compare", "main", "other") == 2
    assert f"main cannot be used: {said}" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_newer_than_the_results_is_said(clone, capsys):
    path = clone.folder / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 9"))
    said = "note: params.yaml was changed after these results: training.epochs 2 → 9; `dvc repro`"
    for command in (["summary"], ["experiments"], ["compare", "other", "workspace"]):
        assert striate(*command) == 0
        assert said in capsys.readouterr().err
    (clone.folder / "models/model.json").unlink()
    shutil.copy(path, clone.folder / "models/model.json")
    assert striate("predict", str(clone.folder / "docs/images/three.jpg")) == 2
    assert "note: models/ differs from dvc.lock; `dvc checkout`" in capsys.readouterr().err
    (clone.folder / "metrics/train.json").unlink()
    assert striate("experiments") == 0
    said = "note: left out: workspace: metrics/train.json is missing; `dvc repro` makes it"
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_second_run_of_one_experiment_is_removed(clone):
    store, run = run_called("digits-2x4-seed0")
    tags = {key: run.data.tags[key] for key in found(clone)[0].identity}
    store.client.set_terminated(mlflow_store.replay(store, "twin", {}, tags, []))
    faults = sync.verify(clone.folder, store, found(clone))
    assert faults == (["main: 2 runs in MLflow, not 1; `striate sync`"])
    rows = {row.experiment: row.done for row in sync.sync(clone.folder, store, found(clone))}
    assert rows["main"] == "removed a duplicate run"
    assert "twin" not in {run.info.run_name for run in store.runs()}


def without_run(clone):
    """The store after the run of `main` was deleted, and the record of that experiment."""
    store, run = run_called("digits-2x4-seed0")
    store.client.delete_run(run.info.run_id)
    (main,) = [record for record in found(clone) if record.names[0].name == "main"]
    return store, main


@pytest.mark.slow
def test_a_run_of_a_training_gets_its_scores_files_and_names(clone):
    """As that of a stage, which ends before DVC has recorded what it made."""
    store, main = without_run(clone)
    told = {"torch.threads": "3", "striate.residency": "disk"}
    logged = [point for point in sync._points(clone.folder, main) if "test_" not in point[0]]
    half = mlflow_store.replay(
        store,
        "half",
        records.training_params(main.params),
        sync.training_tags(main) | told,
        [*logged, ("training_seconds", 4.5, 0)],
    )  # fmt: skip
    store.client.set_terminated(half)
    # And its scores had begun to come.
    store.log(half, [("test_accuracy", main.test["accuracy"], 0)])
    rows = {row.experiment: row for row in sync.sync(clone.folder, store, found(clone))}
    added = "added scores, added checkpoint, added figures, added report, added card, added name"
    added += ", added data sets, added model"
    assert rows["main"] == ("main", "half", added)
    whole = store.client.get_run(half)
    kept = Path(whole.info.artifact_uri.removeprefix("file://"))
    for source, target in (("models", "checkpoint"), ("reports/figures", "figures")):
        for path in (clone.folder / source).iterdir():
            assert (kept / target / path.name).read_bytes() == path.read_bytes()
    page = (clone.folder / "reports/index.html").read_bytes()
    assert (kept / "report/index.html").read_bytes() == page
    assert told.items() <= whole.data.tags.items()
    assert whole.data.tags["dvc.commit"] == main.revision
    assert whole.data.metrics["training_seconds"] == 4.5
    assert sync.verify(clone.folder, store, found(clone)) == []
    times = sync.training_times(clone.folder, [main])
    assert times[0][0] == 4.5


@pytest.mark.slow
def test_runs_are_tagged_with_the_group_of_their_setting(clone):
    store = mlflow_store.open_store()
    main, other = found(clone)
    runs = [sync.run_of(store, record) for record in (main, other)]
    tags = [run.data.tags["striate.group"] for run in runs]
    assert tags == [groups.tags([main, other])[one.key] for one in (main, other)]
    assert tags[0] != tags[1]  # their evaluate.batch_size differs
    store.tag(runs[0].info.run_id, {"striate.group": "wrong"})
    store.client.delete_tag(runs[1].info.run_id, "striate.group")
    rows = {row.experiment: row.done for row in sync.sync(clone.folder, store, [main, other])}
    assert rows == {"main": "added name", "other": "added name"}
    runs = [store.client.get_run(run.info.run_id) for run in runs]
    assert [run.data.tags["striate.group"] for run in runs] == tags


@pytest.mark.slow
def test_what_an_older_version_synced_is_looked_at_again(clone, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sync, "VERSION", sync.VERSION - 1)
        sync.sync(clone.folder, mlflow_store.open_store(), found(clone))
        assert sync.is_synced(clone.folder, found(clone))
    assert not sync.is_synced(clone.folder, found(clone))


@pytest.mark.slow
def test_other_scores_of_a_checkpoint_get_a_run_of_their_own(clone):
    store = mlflow_store.open_store()
    main, other = found(clone)
    runs = [sync.run_of(store, record) for record in (main, other)]
    assert runs[0].info.run_id != runs[1].info.run_id
    assert [run.data.params["evaluate.batch_size"] for run in runs] == ["1000", "7"]
    curves = [store.client.get_metric_history(run.info.run_id, "train_loss") for run in runs]
    assert [(p.step, p.value) for p in curves[0]] == [(p.step, p.value) for p in curves[1]]


@pytest.mark.slow
def test_scores_never_go_to_a_run_that_did_not_finish(clone):
    store, main = without_run(clone)
    own = {background.PROCESS: background.process_tag(os.getpid())}
    running = store.create("running", {}, sync.training_tags(main) | own)
    rows = {row.experiment: row for row in sync.sync(clone.folder, store, found(clone))}
    assert rows["main"].done.startswith("replayed")
    assert "test_accuracy" not in store.client.get_run(running).data.metrics


@pytest.mark.slow
def test_what_a_commit_says_is_read_once_and_what_is_in_the_cache_each_time(clone, monkeypatch):
    whole = found(clone)
    parsed = []
    parse = commits.parse
    monkeypatch.setattr(
        commits, "parse", lambda *texts, **cure: parsed.append(texts) or parse(*texts, **cure)
    )
    assert [record.key for record in found(clone)] == [record.key for record in whole]
    assert len(parsed) == 1  # the working tree, which changes
    (clone.folder / commits.CACHE).write_text("{")
    assert [record.key for record in found(clone)] == [record.key for record in whole]
    assert len(parsed) == 4
    digest = whole[1].hashes["predictions"]
    (clone.folder / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}").unlink()
    left_out = records.find(clone.folder).left_out
    assert [name for name, _ in left_out] == [whole[1].names[0].name]


@pytest.mark.walk
def test_scores_of_another_network_make_no_experiment(clone, capsys):
    """After a run of the stage train alone, metrics/test.json is still that of the last network."""
    changed = ("-S", "training.learning_rate=0.02")
    clone.run("dvc", "exp", "run", "--temp", "-n", "half", *changed, "train")
    whole, left_out, _ = records.find(clone.folder)
    assert {name.name for record in whole for name in record.names} == {"main", "other"}
    assert left_out == [("half", "its network was not evaluated")]
    assert striate("sync") == 0
    assert striate("verify") == 0
    assert "agrees with DVC on 2 experiments" in capsys.readouterr().out
    with pytest.raises(UserError, match="half cannot be used: its network was not evaluated"):
        records.named(clone.folder, "half")
    # And the whole of it is one, with scores and pages of its own.
    clone.run("dvc", "exp", "run", "--temp", "-n", "whole", *changed)
    record = records.named(clone.folder, "whole")
    assert record.test != records.named(clone.folder, "main").test
    assert len(record.pages) == 3


@pytest.mark.slow
def test_an_experiment_whose_files_are_not_here_is_never_shown_as_if_it_were_whole(clone, capsys):
    """As in a clone on another kind of processor, where the committed results are somebody's."""
    cache, hidden = clone.folder / ".dvc/cache", clone.folder / "hidden"
    cache.rename(hidden)
    for path in ("mlflow.db", "mlartifacts", "models", "metrics/history.csv"):
        path = clone.folder / path
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = "note: left out: main: its files are not in DVC's cache here; "
    for command in ("sync", "verify", "pareto", "experiments"):
        assert striate(command) == 2
        shown = capsys.readouterr().err
        assert shown.count(said) == 1
        assert "note: left out: other: its files are not in DVC's cache here" in shown
        assert "no experiment has finished here yet; `dvc repro` runs one" in shown
    assert not (clone.folder / "mlflow.db").exists()
    for command in (["compare", "main", "other"], ["promote", "main"], ["fetch", "main"]):
        assert striate(*command) == 2
        assert "main cannot be used: its files are not in DVC's cache" in capsys.readouterr().err
    # Once the files are back, as after `dvc pull`, each has its run.
    hidden.rename(cache)
    assert striate("sync") == 0
    store, run = run_called("digits-2x4-seed0")
    assert len(store.client.get_metric_history(run.info.run_id, "train_loss")) == 2
    assert striate("verify") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_working_tree_that_is_not_what_dvc_lock_names_is_left_out(clone, capsys):
    labels = clone.folder / "data/test/labels.npy"
    content = labels.read_bytes()
    labels.unlink()
    labels.write_bytes(content[:-8] + content[-16:-8] + b"")
    assert striate("compare", "main", "workspace") == 2
    assert "data/test of workspace is not here" in capsys.readouterr().err
    (clone.folder / "metrics/history.csv").unlink()
    shutil.copy(clone.folder / "metrics/per_class.csv", clone.folder / "metrics/history.csv")
    assert striate("verify") == 0
    said = "workspace: metrics/history.csv is not what dvc.lock names; `dvc repro` makes it"
    assert f"note: left out: {said}" in capsys.readouterr().err
    assert striate("compare", "main", "workspace") == 2
    assert "workspace cannot be used: metrics/history.csv is not" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_that_is_here_can_be_used_without_its_predictions(clone, capsys):
    lock = yaml.safe_load((clone.folder / "dvc.lock").read_text())["stages"]
    (digest,) = [o["md5"] for o in lock["evaluate"]["outs"] if o["path"] == "predictions"]
    place = clone.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    place.chmod(0o644)
    place.write_text("[")  # half of the list of its files, as on a full disk
    assert striate("fetch", "main") == 0
    assert capsys.readouterr().out == "weights/main\n"
    assert striate("compare", "main", "workspace") == 2
    assert "main cannot be used: its files are not in DVC's cache" in capsys.readouterr().err


def reference(clone, name, baseline, changes):
    """An experiment of DVC's kind whose commit changes files: path → text, None to remove it."""
    index = clone.folder / "index"
    clone.env["GIT_INDEX_FILE"] = str(index)
    try:
        clone.run("git", "read-tree", baseline)
        for path, text in changes.items():
            if text is None:
                clone.run("git", "rm", "-q", "--cached", path)
                continue
            (clone.folder / "blob").write_text(text)
            blob = clone.run("git", "hash-object", "-w", "blob").strip()
            clone.run("git", "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
        tree = clone.run("git", "write-tree").strip()
    finally:
        del clone.env["GIT_INDEX_FILE"]
    commit = clone.run("git", "commit-tree", tree, "-p", baseline, "-m", name).strip()
    clone.run("git", "update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", commit)
    return commit


@pytest.mark.slow
def test_an_odd_experiment_stops_nothing_and_is_named_once(clone, capsys):
    head = clone.run("git", "rev-parse", "HEAD").strip()
    lock = (clone.folder / "dvc.lock").read_text()
    test = json.loads((clone.folder / "metrics/test.json").read_text())
    odd = {
        "renamed": ({"dvc.lock": lock.replace("  evaluate:\n", "  score:\n")}, "no stage evaluate"),
        "broken": ({"dvc.lock": "stages: ["}, "its dvc.lock cannot be used"),
        "other-pipeline": ({"dvc.lock": "schema: '2.0'\nstages: {}\n"}, "no stage train"),
        "a-list": ({"dvc.lock": "- 1\n"}, "its dvc.lock cannot be used"),
        "no-lock": ({"dvc.lock": None}, "it was not evaluated"),
        "no-metrics": ({"metrics/test.json": None}, "metrics/test.json is missing"),
        "no-accuracy": ({"metrics/test.json": json.dumps(test | {"accuracy": None})}, "accuracy"),
        "edited": ({"metrics/test.json": json.dumps(test)}, "metrics/test.json is not the one"),
        "no-json": ({"metrics/train.json": "{"}, "metrics/train.json is not valid JSON"),
        "no-models": ({"dvc.lock": lock.replace("path: models", "path: nets")}, "cannot be used"),
    }  # fmt: skip
    for name, (changes, _) in odd.items():
        reference(clone, name, head, changes)
    for *command, said in [
        ("sync", "agree"), ("verify", "on 2 experiments"), ("pareto", "other"),
        ("compare", "main", "other", "evaluate.batch_size  1000"), ("fetch", "other", "other"),
    ]:  # fmt: skip
        assert striate(*command) == 0, command
        shown = capsys.readouterr()
        assert said in shown.out
        if len(command) == 1:
            for name, (_, reason) in odd.items():
                lines = [line for line in shown.err.splitlines() if name in line]
                assert len(lines) == 1, (command, name)
                assert reason in lines[0]
    for name, (_, reason) in odd.items():
        assert striate("compare", "main", name) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {name} cannot be used: ")
        assert reason in line


@pytest.mark.slow
def test_a_damaged_object_of_git_leaves_out_its_experiment_until_it_is_mended(clone):
    head = clone.run("git", "rev-parse", "HEAD").strip()
    commit = reference(clone, "damaged", head, {"metrics/test.json": "{}"})
    blob = clone.run("git", "rev-parse", f"{commit}:metrics/test.json").strip()
    place = clone.folder / f".git/objects/{blob[:2]}/{blob[2:]}"
    content = place.read_bytes()
    place.chmod(0o644)
    place.write_bytes(content[:5])
    whole, left_out, _ = records.find(clone.folder)
    assert len(whole) == 2
    assert [name for name, _ in left_out] == ["damaged"]
    assert "Git cannot read" in left_out[0].reason
    place.write_bytes(content)
    assert "metrics/test.json" in records.find(clone.folder).left_out[0].reason


@pytest.mark.slow
def test_a_name_that_two_experiments_have_means_that_of_head_or_none(clone, capsys):
    head = clone.run("git", "rev-parse", "HEAD").strip()
    clone.run("git", "commit", "-q", "--allow-empty", "-m", "On.")
    first = reference(clone, "twice", head, {"gate.yaml": ""})
    second = reference(clone, "twice", clone.run("git", "rev-parse", "HEAD").strip(), {})
    assert records.named(clone.folder, "twice").revision == second
    clone.run("git", "commit", "-q", "--allow-empty", "-m", "On and on.")
    assert striate("compare", "main", "twice") == 2
    said = capsys.readouterr().err
    assert "several experiments are called twice; name the commit: " in said
    assert first[:7] in said
    assert second[:7] in said
    assert striate("compare", "main", "thrice") == 2
    known = capsys.readouterr().err.strip().partition("known here: ")[2]
    assert sorted(known.split(", ")) == ["main", "other", "twice", "workspace"]


@pytest.mark.slow
def test_a_live_run_is_left_alone_and_a_dead_one_is_closed(clone):
    store = mlflow_store.open_store()
    alive = store.create("alive", {}, {background.PROCESS: background.process_tag(os.getpid())})
    name, pid, start = background.process_tag(os.getpid()).rsplit(" ", 2)
    gone = store.create("gone", {}, {background.PROCESS: f"{name} {pid} {int(start) - 9}"})
    free = next(number for number in range(10**5, 10**6) if not psutil.pid_exists(number))
    absent = store.create("absent", {}, {background.PROCESS: f"{name} {free} {start}"})
    foreign = store.create("foreign", {}, {background.PROCESS: f"other-host {free} {start}"})
    sync.sync(clone.folder, store, found(clone))
    states = {
        name: store.client.get_run(run_id).info.status
        for name, run_id in [("alive", alive), ("gone", gone), ("absent", absent),
                             ("foreign", foreign)]
    }  # fmt: skip
    assert states == {
        "alive": "RUNNING",
        "gone": "KILLED",
        "absent": "KILLED",
        "foreign": "RUNNING",
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of torch.export and MLflow, about themselves
def test_promote_registers_a_model_and_refuses_a_worse_one(clone, capsys):
    assert striate("promote", "nothing") == 2
    assert (
        "there is no experiment, branch or commit 'nothing'; known here: workspace, main, other"
        in capsys.readouterr().err
    )
    assert striate("promote", "main") == 0
    assert "models:/striate@champion is now version 1: main" in capsys.readouterr().out
    assert striate("promote", "other") == 0  # equal is not below
    store = mlflow_store.open_store()
    champion = store.client.get_model_version_by_alias("striate", "champion")
    assert str(champion.version) == "2"
    (main,) = [record for record in found(clone) if record.names[0].name == "main"]
    store.client.set_model_version_tag("striate", "2", "val_accuracy", "1.0")
    for kind, ours in (("validation", main.train["val_accuracy"]), ("test", main.test["accuracy"])):
        capsys.readouterr()
        assert striate("promote", "main") == 1
        said = f"refused: its {kind} accuracy of {ours:.4%} is below the champion's 100.0000%\n"
        assert capsys.readouterr().out == said
        # Of other validation images, only the scores on the test set can be compared.
        store.client.set_model_version_tag("striate", "2", "striate.split", "another")
        store.client.set_model_version_tag("striate", "2", "test_accuracy", "1.0")
    assert striate("promote", "main", "--force") == 0
    assert striate("verify") == 0  # a run that was reopened lasts as long as before


@pytest.mark.slow
def test_two_processes_that_sync_at_once_make_one_run_of_each_experiment(clone):
    store = mlflow_store.open_store()
    for run in store.runs():
        store.client.delete_run(run.info.run_id)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "striate.cli", "sync"], cwd=clone.folder, env=clone.env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert sum(text.count("replayed") for text in said) == 2
    assert len(store.runs()) == 2
    assert sync.verify(clone.folder, store, found(clone)) == []


@pytest.mark.slow
def test_an_experiment_or_artifacts_that_somebody_deleted_come_back(clone, capsys):
    assert striate("sync") == 0
    store = mlflow_store.open_store()
    store.client.delete_experiment(store.experiment)
    assert striate("verify") == 0
    shutil.rmtree(clone.folder / "mlartifacts")
    capsys.readouterr()
    assert striate("sync") == 0
    assert capsys.readouterr().out.count("added checkpoint, added figures") == 2
    assert striate("sync") == 0
    assert capsys.readouterr().out == "MLflow agrees with DVC: nothing to do\n"


@pytest.mark.slow
def test_a_model_that_another_clone_still_writes_stays(clone, monkeypatch):
    store, run = run_called("digits-2x4-seed0")
    main = next(record for record in found(clone) if record.names[0].name == "main")
    run_id, first = run.info.run_id, run.data.tags[run_page.MODEL]
    store.client.delete_logged_model(first)
    begun = store.client.create_logged_model(
        store.experiment, "begun", run_id, model_type=mlflow_store.MODEL_TYPE
    )
    sync.sync(clone.folder, store, [main])
    second = store.client.get_run(run_id).data.tags[run_page.MODEL]
    assert second not in (first, begun.model_id)
    assert store.has_model(begun.model_id)
    # A complete one is taken as it is, as after an interruption before the tag.
    assert store.add_model(run, clone.folder / "models", [], {}) == second
    store.client.delete_logged_model(second)
    monkeypatch.setattr(mlflow_store, "ABANDONED_SECONDS", -1)
    sync.sync(clone.folder, store, [main])
    assert not store.has_model(begun.model_id)
    # One that somebody deletes meanwhile is named by no tag.
    last = store.client.get_run(run_id).data.tags[run_page.MODEL]
    store.client.delete_logged_model(last)
    monkeypatch.setattr(mlflow_store.Store, "add_model", lambda *given: first)
    sync.sync(clone.folder, store, [main])
    assert store.client.get_run(run_id).data.tags[run_page.MODEL] == last


def test_a_signed_commit_has_its_time_where_git_shows_signatures(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)

    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    git("init", "-q")
    for name, value in (
        ("gpg.format", "ssh"), ("user.signingkey", key), ("log.showSignature", "true"),
        ("user.name", "a"), ("user.email", "a@example.org"),
    ):  # fmt: skip
        git("config", name, value)
    git("commit", "-q", "-S", "--allow-empty", "--date=2020-01-01", "-m", "Sign.")
    head = subprocess.check_output(["git", "-C", tmp_path, "rev-parse", "HEAD"], text=True).strip()
    written = subprocess.check_output(
        ["git", "-C", tmp_path, "cat-file", "commit", "HEAD"], text=True
    )
    at = next(line for line in written.splitlines() if line.startswith("committer")).split()[-2]
    record = records.Record([records.Name("a", head, "")], {}, {}, {}, {}, head, {}, [])
    assert sync._recorded_at(tmp_path, record) == float(at)


def test_the_times_of_a_training_are_read_once_for_a_replay(tmp_path, monkeypatch):
    read, ends = [], []
    clocked = sync.Clocked(10.0, 20.0, 9.0, {})
    monkeypatch.setattr(sync.times, "noted", lambda *given: read.append(given) or clocked)
    monkeypatch.setattr(sync, "_points", lambda *given: [])
    monkeypatch.setattr(sync, "_remove_duplicates", lambda *given: [])
    monkeypatch.setattr(run_page, "add", lambda *given: [])
    monkeypatch.setattr(mlflow_store, "replay", lambda *given: ends.append(given[-2:]) or "id")

    class Fake:
        client = property(lambda self: self)

        def runs(self, tags):
            return []

        def get_run(self, run_id):
            return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

        def terminate(self, *given):
            ends.append(given)

    identity = dict.fromkeys(sync.TAGS, "x")
    name = records.Name("a", "c", "b")
    record = records.Record([name], identity, {}, {}, {}, "c", {}, [])
    run, done = sync._sync_one(tmp_path, Fake(), record, None)
    assert (run.info.run_id, done) == ("id", "replayed")
    assert ends == [(10.0, 20.0), ("id", "FINISHED", 20.0)]
    assert len(read) == 1


def test_models_are_looked_up_where_the_runs_are(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.chdir(tmp_path)
    mlflow.set_registry_uri(f"sqlite:///{tmp_path}/others.db")
    try:
        mlflow_store.open_store().client.create_registered_model("ours")
    finally:
        mlflow.set_registry_uri("")
    assert (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "others.db").exists()


def test_outside_a_repository_it_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert striate("verify") == 2
    assert "is not the root of a DVC repository" in capsys.readouterr().err
    with pytest.raises(UserError, match="is not in a Git repository"):
        records.find(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    assert records.find(tmp_path) == ([], [], None)  # there is no commit yet


def test_with_tracking_off_sync_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRIATE_TRACKING", "off")
    assert striate("sync") == 0
    assert capsys.readouterr().out == "tracking is off: nothing to sync\n"
    assert striate("verify") == 0
    assert capsys.readouterr().out == "tracking is off: nothing to verify\n"


def test_best_has_the_direction_of_the_metric():
    curves = [("val_accuracy", value, step) for step, value in enumerate([0.5, 0.75, 0.25], 1)]
    curves += [("val_loss", value, step) for step, value in enumerate([3.0, 1.0, 2.0], 1)]
    curves += [("step_loss", 0.1, 1), ("learning_rate", 0.1, 1)]
    assert points.best(curves) == [("best/val_accuracy", 0.75, 0), ("best/val_loss", 1.0, 0)]
