"""Repeating a setting with other seeds: which experiments, under which names, with what result."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from clones import Clone
from settings import changed, write_yaml

from striate.config import params, recipes
from striate.errors import UserError
from striate.pipeline import repeat, repository_copy
from striate.reporting import seeds
from striate.tracking import groups, mlflow_store, records
from striate.tracking.records import Name, Record
from striate.training.resume_files import RESUME_DIR

QUICK = {"training__epochs": 2, "model__width": 4, "training__log_every": 5}
DIVERGING = {
    "training__learning_rate": 100,
    "training__optimizer": "sgd",
    "training__momentum": 0.99,
    "model__activation": "leaky_relu",
    "model__norm": "none",
}
MACHINE = ("torch.version", "torch.processor_name", "striate.residency")
TABLE = re.compile(r"^(\d+)  +(\S+)  +(\S+%)  +(\S+%)$", re.MULTILINE)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A repository that has run once, in a folder of an awkward name."""
    return Clone.of_this_tree(tmp_path_factory.mktemp("repeat") / "a path with ü", **QUICK)


@pytest.fixture
def clone(origin, tmp_path, monkeypatch):
    """A copy of it, as the working folder."""
    shutil.copytree(origin.folder, tmp_path / "repository ü", symlinks=True)
    monkeypatch.chdir(tmp_path / "repository ü")
    copy = Clone(tmp_path / "repository ü")
    yield copy
    copy.settle()


def repeated(clone, *arguments, status=0):
    return clone.striate("repeat", *arguments, status=status)


def table(said):
    """The rows of the seeds: seed → name of the experiment."""
    return {int(seed): name for seed, name, *_ in TABLE.findall(said)}


def experiments(clone):
    return sorted(clone.run("dvc", "exp", "list", "--name-only").split())


def copies(clone):
    return list((clone.folder / repository_copy.FOLDER).glob("*"))


def processes_in(folder):
    """The processes that work there, and those that hold one of its files on their command line."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline", "status"]):
        places = [process.info["cwd"] or "", *(process.info["cmdline"] or [])]
        mine = process.pid in (os.getpid(), os.getppid())
        if not mine and any(place.startswith(str(folder)) for place in places):
            found.append(process)
    return found


# --- what is to be repeated ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overrides", "shown", "changes"),
    [
        ("workspace", [], "digits-2x4", {}),
        ("workspace", ["training.learning_rate=0.01"], "digits-2x4-learning_rate-0.01",
         {"training.learning_rate": 0.01}),
        ("workspace", ["training.learning_rate=1e-2"], "digits-2x4-learning_rate-1e-2",
         {"training.learning_rate": 0.01}),
        ("workspace", ["model.width=[8, 16]"], "digits-2x-8-16-width-8-16",
         {"model.width": [8, 16]}),
        ("workspace", ["data.split_seed=7", "model.layers=3"], "digits-3x4-split_seed-7-layers-3",
         {"data.split_seed": 7, "model.layers": 3}),
        ("workspace", ["training.init_from=../../a/ü.lock"], "digits-2x4-init_from-a-.lock",
         {"training.init_from": "../../a/ü.lock"}),
        ("workspace", [f"data.path={'x' * 200}"], f"digits-2x4-path-{'x' * 84}",
         {"data.path": "x" * 200}),
        ("workspace", ["data.name=folder", "data.path=a"], "folder-2x4-name-folder-path-a",
         {"data.name": "folder", "data.path": "a"}),
        ("mnist-99", ["training.epochs=1"], "mnist-99-epochs-1",
         {"data.name": "mnist", "training.epochs": 1}),
        ("HEAD", ["augment.flip=true"], "HEAD-flip-true", {"augment.flip": True}),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_a_setting_has_a_name_and_all_params(clone, name, overrides, shown, changes):
    found = repeat.setting(clone.folder, name, overrides)
    assert found.name == shown
    expected = params.flatten(changed(**QUICK))
    if name == "mnist-99":
        expected |= params.flatten(recipes.read(name))
    del expected["seed"]
    assert found.flat == expected | changes
    ref = f"refs/exps/aa/{'b' * 38}/{repeat.jobs(clone.folder, found, [3])[0].name}"
    clone.run("git", "check-ref-format", ref)


@pytest.mark.slow
def test_an_experiment_is_repeated_with_its_own_params(clone):
    changes = ["-S", "model.layers=3", "-S", "seed=4"]
    clone.run("dvc", "exp", "run", "-n", "deep-seed4", *changes)
    clone.go_back()
    found = repeat.setting(clone.folder, "deep-seed4", [])
    assert (found.name, found.params["seed"], found.params["model"]["layers"]) == ("deep", 4, 3)


FAULTY = {
    "seed=1": "seed is what varies; --seeds says how many there are to be",
    "seed.x=1": "params.yaml: seed is {'x': 1}",
    "training.epochs": "-S takes KEY=VALUE, such as model.layers=3, not 'training.epochs'",
    "=3": "-S takes KEY=VALUE",
    "training.epochs=": "params.yaml: training.epochs is ",
    "training.epochs=many": "params.yaml: training.epochs is 'many'",
    "training.epoch=3": "params.yaml: training.epoch ",
    "epochs=3": "params.yaml: epochs ",
    "model=3": "params.yaml: model ",
    "data.name.x=3": "params.yaml: 'data.name' is not a known key",
    "model.width=[8": "-S model.width: '[8' is not a value of YAML",
    "model.width=!!python/name:os.system": "-S model.width: ",
    "data.split_seed=-1": "params.yaml: data.split_seed is -1; it must be auto, or a whole number",
    "data.split_seed=4294967296": "params.yaml: data.split_seed is 4294967296",
}


@pytest.mark.parametrize("word", FAULTY)
def test_a_faulty_change_is_explained(tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(changed()))
    with pytest.raises(UserError) as caught:
        repeat.setting(tmp_path, "workspace", [word])
    assert str(caught.value).startswith(FAULTY[word])


def test_a_section_and_a_key_of_it_is_faulty_in_whatever_order(tmp_path):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed()))
    for words in (["model=3", "model.layers=2"], ["model.layers=2", "model=3"]):
        with pytest.raises(UserError, match=r"params.yaml: "):
            repeat.setting(tmp_path, "workspace", words)


# --- which seeds are missing ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("have", "own", "wanted", "expected"),
    [
        (None, 0, 3, [0, 1, 2]),
        (None, 1, 3, [1, 0, 2]),
        (None, 4_294_967_295, 2, [4_294_967_295, 0]),
        (None, 0, 1, [0]),
        ([0, 1, 2], 0, 3, []),
        ([0, 1, 2], 0, 1, []),
        ([0, 1, 2], 0, 5, [3, 4]),
        ([1, 7], 0, 4, [0, 2]),
        ([1, 7], 9, 3, [9]),
    ],
)
def test_the_missing_seeds_are_the_own_one_and_the_lowest(have, own, wanted, expected):
    group = None if have is None else groups.group([made_up(seed) for seed in have])[0]
    assert repeat.missing(group, own, wanted) == expected


def made_up(seed, name="one", commit="c", data="d", hashes=None, **changes):
    flat = params.flatten(params.check(changed(seed=seed, **changes)).model_dump())
    return Record(
        [Name(f"{name}-{seed}", commit, "b")], {records.DATA: data, "n": f"{name}-{seed}"}, flat,
        {}, {}, commit or None, hashes or {}, [],
    )  # fmt: skip


def members(root, found):
    group = repeat.members(root, repeat.Setting("one", changed()), found)
    return [member.names[0].name for member in group.members] if group else None


def test_members_have_equal_params_and_the_code_of_the_working_tree(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/train.py").write_text("code")
    md5 = "c13367945d5d4c91047b3b50234aa7ab"
    equal = {"stages/train.py": md5}
    found = [
        made_up(0, hashes=equal),
        made_up(3, hashes=equal),
        made_up(1, hashes=equal, model__layers=3),
        made_up(2, hashes={"stages/train.py": "of other code"}),
        made_up(4, hashes={"stages/gone.py": md5}),
        made_up(5, "workspace", commit="", hashes=equal),
    ]
    assert members(tmp_path, found) == ["one-0", "one-3"]
    assert members(tmp_path, found[2:]) is None


def test_of_two_states_of_the_data_the_last_counts(tmp_path):
    found = [made_up(0), made_up(1), made_up(2, data="other")]
    assert members(tmp_path, found) == ["one-2"]


# --- running them --------------------------------------------------------------------------------


@pytest.mark.slow
def test_seeds_are_made_once_completed_later_and_written_for_the_report(clone):
    said = repeated(clone, "--seeds", "3")
    assert said.startswith("digits-2x4: 1 of 3 seeds are there, 2 to run\n")
    assert table(said) == {0: "main", 1: "digits-2x4-seed1", 2: "digits-2x4-seed2"}
    assert "mean ± sd" in said
    assert said.endswith(
        "\nmetrics/seeds.csv holds 3 seeds now; `dvc repro` draws them in the report\n"
    )
    assert [row["seed"] for row in seeds.read(clone.folder / seeds.FILE)] == [0, 1, 2]
    assert copies(clone) == []
    assert clone.run("git", "status", "--porcelain") == " M metrics/seeds.csv\n"

    again = repeated(clone, "--seeds", "3")
    assert again.lstrip("\n").startswith("seed  experiment")
    assert table(again) == table(said)
    assert "metrics/seeds.csv" not in again
    assert table(repeated(clone, "--seeds", "1")) == table(said)

    more = repeated(clone, "main", "--seeds", "4", "--workers", "1")
    assert more.startswith("main: 3 of 4 seeds are there, 1 to run\nmain-seed3: training\n")
    assert table(more) == table(said) | {3: "main-seed3"}
    assert len(seeds.read(clone.folder / seeds.FILE)) == 4

    # MLflow has a run for each, as of a plain experiment.
    assert "agree" in clone.striate("verify")
    store = mlflow_store.open_store()
    runs = store.runs()
    assert {run.info.run_name for run in runs} >= set(experiments(clone))
    machines = [{key: run.data.tags.get(key) for key in MACHINE} for run in runs]
    assert machines == [machines[0]] * 4
    assert all(machines[0].values())
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.metrics["training_seconds"] > 0
        for curve, points in {"val_accuracy": 2, "step_loss": 5}.items():
            assert len(store.client.get_metric_history(run.info.run_id, curve)) == points


def lock_of(clone, name):
    """What DVC recorded of the training of an experiment."""
    commit = refs(clone)[name]
    return yaml.safe_load(clone.run("git", "show", f"{commit}:dvc.lock"))["stages"]["train"]


def plain_lock(clone, *changes):
    """The same of a plain `dvc exp run` in a clone of the repository, which has an empty cache."""
    folder = clone.folder.parent / "plain"
    clone.run("git", "clone", "-q", ".", str(folder))
    plain = Clone(folder)
    plain.env["STRIATE_TRACKING"] = "off"
    plain.run(
        "dvc", "exp", "run", "-n", "plain", *[word for one in changes for word in ("-S", one)]
    )
    return lock_of(plain, "plain")


@pytest.mark.slow
def test_weights_are_those_of_a_plain_experiment(clone):
    change = "training.learning_rate=0.002"
    repeated(clone, "-S", change, "--seeds", "2")
    mine = lock_of(clone, "digits-2x4-learning_rate-0.002-seed1")
    assert mine == plain_lock(clone, change, "seed=1")


def refs(clone):
    lines = clone.run("git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
    return {ref.split("/")[-1]: commit for ref, commit in map(str.split, lines.splitlines())}


@pytest.mark.slow
def test_recipes_and_changes_run_and_other_work_is_left_alone(clone):
    """Digits after another data set: what was preloaded is not what the training wants."""
    (clone.folder / "recipes/wide.yaml").write_text("# Wide.\nmodel:\n  width: [4, 6]\n")
    (clone.folder / "data/manifest.json").write_text('{"name": "mnist"}')
    said = repeated(clone, "wide", "--seeds", "2", "-S", "data.split_seed=3")
    names = {0: "wide-split_seed-3-seed0", 1: "wide-split_seed-3-seed1"}
    assert table(said) == names
    assert "All hold out the same images (data.split_seed 3)." in said
    assert "metrics/seeds.csv" not in said
    assert lock_of(clone, names[1]) == plain_lock(
        clone, "model.width=[4,6]", "data.split_seed=3", "seed=1"
    )


def test_an_unknown_name_lists_what_there_is(clone):
    said = repeated(clone, "nonsense", status=2)
    assert said.startswith(
        "error: there is no experiment, branch or commit 'nonsense'; known here:"
    )
    assert "; recipes: " in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_seeds_that_fail_are_named_and_nothing_of_them_stays(clone):
    write_yaml(clone.folder, **QUICK, **DIVERGING)
    said = repeated(clone, "--seeds", "2", status=2)
    assert "\ndigits-2x4-seed1: failed\n" in said
    reason = "digits-2x4-seed0, digits-2x4-seed1 failed: the loss became nan at step "
    assert f"\nerror: {reason}" in said
    assert experiments(clone) == []
    assert copies(clone) == []


@pytest.mark.slow
def test_a_seed_that_is_killed_is_named_and_the_others_are_kept(clone):
    running = start(clone, "--seeds", "3", "--workers", "1", "-S", "training.epochs=15")
    wait_until(lambda: runner_of(clone, "-seed1"))
    runner_of(clone, "-seed1")[0].kill()
    said = running.communicate()[0]
    assert running.returncode == 2
    assert list(table(said)) == [0, 2]
    assert "digits-2x4-epochs-15-seed1 failed: it was killed; the mean is over the seeds" in said
    assert copies(clone) == []
    wait_until(lambda: processes_in(clone.folder) == [])


def start(clone, *arguments, **options):
    return clone.start(
        sys.executable, "-m", "striate.cli", "repeat", *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
    )  # fmt: skip


def runner_of(clone, ending):
    return [
        process
        for process in processes_in(clone.folder)
        if "striate.pipeline.dvc_runner" in process.info["cmdline"]
        and any(word.endswith(ending) for word in process.info["cmdline"])
    ]


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


LONG = ["--seeds", "2", "-S", "training.epochs=60"]


@pytest.mark.walk
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_early_nothing_is_left_and_it_goes_on(clone, ending):
    running = start(clone, *LONG)
    states = clone.folder / RESUME_DIR
    wait_until(lambda: len(list(states.glob("*.state"))) == 2)
    os.killpg(running.pid, ending)
    said = running.communicate()[0]
    if ending == signal.SIGINT:
        assert running.returncode == 130
        assert said.endswith("interrupted: the same command resumes\n")
        assert copies(clone) == []
    wait_until(lambda: processes_in(clone.folder) == [])
    assert experiments(clone) == []
    assert copies(clone) == []
    again = repeated(clone, *LONG)
    assert list(table(again)) == [0, 1]
    assert "agree" in clone.striate("verify")
    assert list(states.glob("*.state")) == []


@pytest.mark.slow
def test_a_damaged_table_of_seeds_is_written_anew(clone):
    (clone.folder / seeds.FILE).write_text("<<<<<<< HEAD\n")
    said = repeated(clone, "--seeds", "2")
    assert "has no column seed; `striate repeat` writes it anew, now" in said
    assert [row["seed"] for row in seeds.read(clone.folder / seeds.FILE)] == [0, 1]


@pytest.mark.slow
def test_two_at_once_make_each_seed_once(clone):
    both = [start(clone, "--seeds", "3", "-S", "training.epochs=5") for _ in range(2)]
    said = [running.communicate()[0] for running in both]
    assert [running.returncode for running in both] == [0, 0], said
    assert table(said[0]) == table(said[1])
    assert len(experiments(clone)) == 3
    assert sum(": training\n" in one for one in said) == 1
    assert "agree" in clone.striate("verify")


@pytest.mark.slow
def test_without_tracking_there_is_no_run(clone):
    clone.settle()
    before = len(mlflow_store.open_store().runs())
    clone.env["STRIATE_TRACKING"] = "off"
    repeated(clone, "--seeds", "2")
    clone.settle()
    assert len(mlflow_store.open_store().runs()) == before


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ({}, "it was killed"),
        ({"epoch": 1}, "it was killed"),
        ({"status": -9, "output": "> exec env"}, "it was killed"),
        ({"status": 137, "output": "> exec env"}, "it was killed"),
        ({"status": 255, "output": "epoch 1\nerror: it is faulty\nERROR: failed"}, "it is faulty"),
        ({"status": 0, "output": ""}, "DVC printed no message"),
    ],
)
def test_the_last_message_says_why_an_experiment_failed(last, reason):
    assert repeat._reason(last) == reason
