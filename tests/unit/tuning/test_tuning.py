"""The search: what may be asked of it, how its trials end, and that no kill costs it one."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import commands
import psutil
import pytest
import repositories
import yaml
from clones import Clone
from optuna.trial import TrialState
from paths import ROOT

from striate.config import params
from striate.errors import UserError
from striate.tracking import background
from striate.training import events
from striate.training.resume_files import RESUME_DIR
from striate.tuning import search_space, studies, workers

BASE = params.load(ROOT / "params.yaml")
SPACE = {"training.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with a commit and the params of this one."""
    repositories.start(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(root, space=None, name="tune"):
    study = studies.open_study(name, studies.default_storage(root), root)
    studies.set_space(study, space or SPACE, BASE)
    return study


def asked(study):
    """A trial that is begun by hand, which has no heartbeat."""
    with pytest.warns(UserWarning, match="Heartbeat of storage is supposed to be used with"):
        return study.ask()


def worker(root, count):
    return workers.Worker(opened(root), count, "tpe", 1, root)


def quick(self, trial, name, drawn):
    """Instead of a training: best at a learning rate of 0.01."""
    rate = drawn["training.learning_rate"]
    return 1 - abs(rate - 0.01)


def proposed(root):
    return [trial.params for trial in opened(root).trials]


def test_a_study_that_was_stopped_goes_on_as_one_that_was_not(root, monkeypatch):
    monkeypatch.setattr(workers.Worker, "_train", quick)
    monkeypatch.setattr(studies, "STARTUP_TRIALS", 3)
    worker(root, 6).work()
    whole = proposed(root)
    (root / "tune.db").unlink()
    for count in (2, 5, 6):
        worker(root, count).work()
    assert proposed(root) == whole
    assert len({json.dumps(one) for one in whole}) == 6
    worker(root, 6).work()
    assert len(opened(root).trials) == 6


def test_workers_side_by_side_end_with_as_many_trials_as_are_asked_for(root, monkeypatch):
    def slow(self, trial, name, drawn):
        time.sleep(0.05)
        return quick(self, trial, name, drawn)

    monkeypatch.setattr(workers.Worker, "_train", slow)
    monkeypatch.setattr(time, "sleep", lambda seconds, wait=time.sleep: wait(min(seconds, 0.05)))
    team = [worker(root, 7) for _ in range(3)]
    threads = [threading.Thread(target=one.work) for one in team]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trials = opened(root).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 7
    assert len({json.dumps(trial.params) for trial in trials}) == 7
    names = [trial.user_attrs["experiment"] for trial in trials]
    assert names == [f"tune-{number}" for number in range(7)]


def test_the_last_trial_is_run_once_where_two_machines_begin_it(root, monkeypatch):
    monkeypatch.setattr(workers.Worker, "_train", quick)
    here = worker(root, 1)
    elsewhere = opened(root)
    asked(elsewhere)  # it was begun after this worker had looked
    with here._lock:
        here._run_trial()
    assert [trial.state.name for trial in elsewhere.trials] == ["RUNNING", "FAIL"]
    assert studies.rows(elsewhere) == []


def test_the_trial_of_a_worker_that_is_gone_is_begun_again_under_its_name(root, monkeypatch):
    monkeypatch.setattr(workers.Worker, "_train", quick)
    study = opened(root)
    lost = asked(study)
    search_space.propose(lost, SPACE, BASE)
    with subprocess.Popen(["true"]) as process:
        tag = background.process_tag(process.pid)
    for key, value in {"experiment": "tune-0", "training": "abc", "process": tag}.items():
        lost.set_user_attr(key, value)
    alive = asked(study)
    alive.set_user_attr("process", background.process_tag(os.getpid()))
    anonymous = asked(study)
    assert anonymous.number == 2
    successor = worker(root, 3)
    studies.fail_stale_trials(successor.study)
    successor._run_trial()
    trials = opened(root).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "RUNNING", "RUNNING", "COMPLETE"]
    assert trials[3].params == trials[0].params
    assert trials[3].user_attrs["experiment"] == "tune-0"
    assert [(row.number, row.experiment) for row in studies.rows(study)] == [(3, "tune-0")]
    monkeypatch.setattr(studies, "GRACE_SECONDS", -1)
    studies.fail_stale_trials(
        study
    )  # the one that never said whose it is does not hold the study up
    assert [trial.state.name for trial in study.trials][:3] == ["FAIL", "RUNNING", "FAIL"]


def test_a_worker_elsewhere_that_is_silent_is_given_up(root, monkeypatch):
    monkeypatch.setattr(studies, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(studies, "GRACE_SECONDS", 1)
    study = opened(root)
    trial = asked(study)
    trial.set_user_attr("process", "elsewhere 1 1")
    study._storage.record_heartbeat(trial._trial_id)
    studies.fail_stale_trials(study)
    assert [one.state.name for one in study.trials] == ["RUNNING"]
    time.sleep(3)
    studies.fail_stale_trials(study)
    assert [one.state.name for one in study.trials] == ["FAIL", "WAITING"]


def test_a_trial_whose_workers_are_killed_again_and_again_is_given_up(root):
    study = opened(root)
    with subprocess.Popen(["true"]) as process:
        tag = background.process_tag(process.pid)
    for _ in range(6):
        asked(study).set_user_attr("process", tag)
        studies.fail_stale_trials(study)
    numbers = [trial.system_attrs.get("failed_trial") for trial in study.trials]
    assert numbers == [None, 0, 0, 0, None, 4, 4]


class Canned:
    """Instead of an experiment: each time, the messages that are next."""

    runs = ()
    stopped = 0

    def __init__(self, *arguments):
        type(self).arguments = arguments

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def stop(self):
        Canned.stopped += 1

    def messages(self):
        yield from Canned.runs.pop(0)


@pytest.fixture
def canned(root, monkeypatch):
    """Experiments that end as it is told; and metrics by the name of the experiment."""
    kept = {}
    monkeypatch.setattr(workers, "Experiment", Canned)
    monkeypatch.setattr(workers, "metrics_of", lambda root, name: kept.get(name))
    Canned.runs, Canned.stopped = [], 0
    (root / RESUME_DIR).mkdir(parents=True)
    return SimpleNamespace(runs=Canned.runs, kept=kept)


def states(root):
    return sorted(path.name for path in (root / RESUME_DIR).glob("*.*") if path.suffix != ".lock")


def epochs(*accuracies):
    rows = enumerate(accuracies, 1)
    return [{"epoch": epoch, "val_accuracy": accuracy} for epoch, accuracy in rows]


def test_a_trial_that_is_worse_than_half_of_the_others_is_pruned(root, canned, monkeypatch, capsys):
    monkeypatch.setattr(studies, "STARTUP_TRIALS", 2)
    curves = [(0.2, 0.5, 0.6, 0.7, 0.8), (0.3, 0.6, 0.7, 0.8, 0.9), (0.9, 0.1, 0.1, 0.1, 0.1),
              (0.1, 0.2)]  # fmt: skip
    for number, curve in enumerate(curves):
        canned.runs.append(
            [{"training": f"t{number}"}, *epochs(*curve), {"status": 0, "output": ""}]
        )
        (root / RESUME_DIR / f"t{number}.state").touch()
    canned.runs[3][-1]["status"] = 255
    for number in range(3):
        # Each is there once DVC has run it.
        real = canned.runs[number]
        metrics = {"epochs": 5, "val_accuracy": curves[number][-1]}
        canned.runs[number] = iter_then(real, lambda n=number, m=metrics: canned.kept.update(
            {f"tune-{n}": m}))  # fmt: skip
    worker(root, 4).work()
    study = opened(root)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3 + ["PRUNED"]
    assert [trial.value for trial in study.trials] == [0.8, 0.9, 0.1, 0.2]
    assert Canned.stopped == 1
    assert states(root) == ["t0.state", "t1.state", "t2.state"]  # which are DVC's stages' to remove
    said = capsys.readouterr().out
    assert "tune-1: 90.00%\n" in said
    assert "tune-3: pruned, 20.00% after epoch 2\n" in said
    table = studies.table(studies.rows(study))
    assert table[0][4:] == ["validation accuracy", "learning_rate"]
    assert [cells[:5] for cells in table[1:]] == [
        ["1", "tune-1", "complete", "5", "90.00%"],
        ["0", "tune-0", "complete", "5", "80.00%"],
        ["2", "tune-2", "complete", "5", "10.00%"],
        ["3", "tune-3", "pruned", "2", "20.00%"],
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_the_epochs_of_a_trial(root, canned, monkeypatch, capsys, terminal):
    monkeypatch.setattr(workers, "SHOWN_SECONDS", -1)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    metrics = {"epochs": 2, "val_accuracy": 0.8}
    messages = [*epochs(0.5, 0.8), {"status": 0, "output": ""}]
    canned.runs.append(iter_then(messages, lambda: canned.kept.update({"tune-0": metrics})))
    worker(root, 1).work()
    shown = ["tune-0: epoch 1 of 5, 50.00%", "tune-0: epoch 2 of 5, 80.00%"] * terminal
    said = capsys.readouterr().out.splitlines()
    assert said == ["tune-0: training", *shown, "tune-0: 80.00%"]


def iter_then(messages, do):
    yield from messages
    do()


NAN = "error: the loss became nan at step 3\nERROR: failed to reproduce 'train': it failed\n"


def test_a_training_that_fails_is_not_tried_again_and_others_follow(root, canned, capsys):
    for number in (0, 2):
        canned.runs.append([{"training": f"t{number}"}, {"status": 255, "output": NAN}])
        (root / RESUME_DIR / f"t{number}.state").touch()
        (root / RESUME_DIR / f"t{number}.done").touch()
    canned.kept["tune-1"] = {"epochs": 5, "val_accuracy": 0.5}
    canned.kept["tune-3"] = {"epochs": 5, "val_accuracy": 0.6}
    worker(root, 2).work()
    trials = opened(root).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    assert "tune-0: failed: the loss became nan at step 3" in capsys.readouterr().out
    assert states(root) == []
    states_shown = [row.state for row in studies.rows(opened(root))]
    assert states_shown == ["complete", "complete", "failed", "failed"]


def test_where_every_training_fails_the_study_ends(root, canned):
    canned.runs += [[{"status": 255, "output": NAN}] for _ in range(5)]
    with pytest.raises(UserError, match="5 trials in a row failed; the last one: the loss became"):
        worker(root, 3).work()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ERROR: 'params.yaml' is conflicted", "tune-0 cannot be run: 'params.yaml' is conflicted"),
        ("error: no network\nERROR: failed to reproduce 'download': no", "be run: no network"),
        ("", "DVC printed no message"),
    ],
)
def test_what_is_no_fault_of_the_params_ends_the_study(root, canned, said, expected):
    canned.runs.append([{"status": 255, "output": said}])
    with pytest.raises(UserError, match=expected):
        worker(root, 3).work()


def test_a_trial_of_which_dvc_keeps_nothing_is_not_run_for_ever(root, canned):
    canned.runs += [[]] * 4
    with pytest.raises(UserError, match="tune-0 cannot be run: DVC keeps no experiment"):
        worker(root, 1).work()
    assert canned.runs == []


def test_a_database_that_is_gone_is_a_line(root, canned):
    def gone():
        yield from epochs(0.4)
        (root / "tune.db").unlink()

    canned.runs.append(gone())
    storage = studies.default_storage(root)
    said = r"the studies in sqlite://.*/tune.db cannot be used: .*database"
    with refused(said), studies.reachable(storage):
        worker(root, 1).work()


def test_a_trial_that_is_interrupted_comes_first_when_the_study_goes_on(root, canned):
    def interrupted():
        yield from epochs(0.4)
        raise KeyboardInterrupt

    canned.runs.append(interrupted())
    with pytest.raises(KeyboardInterrupt):
        worker(root, 1).work()
    canned.kept["tune-0"] = {"epochs": 5, "val_accuracy": 0.5}
    worker(root, 1).work()
    first, again = opened(root).trials
    assert (first.state.name, again.state.name) == ("FAIL", "COMPLETE")
    assert first.params == again.params
    assert studies.rows(opened(root))[0].experiment == "tune-0"


def test_a_trial_gets_all_params_and_what_git_does_not_track(root, canned):
    for name in ("images/train/a/1.png", "images/test/a/1.png", "weights/random", "images/README"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    subprocess.run(["git", "add", "weights", "images/README"], cwd=root, check=True)
    space = SPACE | {"data.name": "folder", "data.path": "images"}
    for number, source in enumerate(("weights/mnist", "weights/random")):
        name = f"{number}-0"
        metrics = {"epochs": 1, "val_accuracy": 0.5}
        canned.runs.append(iter_then([], lambda n=name, m=metrics: canned.kept.update({n: m})))
        study = opened(root, space | {"training.init_from": source}, name=str(number))
        workers.Worker(study, 1, "random", 1, root).work()
        _, _, arguments, copied, _ = Canned.arguments
        assert copied == [*(["weights/random"] if source == "weights/random" else []), "images"]
        keys = [word.split("=")[0] for word in arguments[1::2]]
        assert keys == list(params.flatten(BASE.model_dump()))
        assert "data.name=folder" in arguments


def test_a_name_that_an_experiment_has_is_not_used_again(root, monkeypatch, capsys):
    monkeypatch.setattr(workers.Worker, "_train", quick)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()
    reference = f"refs/exps/{head[:2]}/{head[2:]}/tune-0"
    subprocess.run(["git", "update-ref", reference, head], cwd=root, check=True)
    worker(root, 1).work()
    assert [trial.user_attrs["experiment"] for trial in opened(root).trials] == ["tune-0-2"]
    assert "warning: there is an experiment tune-0 already; this one is" in capsys.readouterr().out


@contextmanager
def refused(said):
    with pytest.raises(UserError, match=said):
        yield


def test_a_study_keeps_its_space_and_its_params(root):
    study = opened(root)
    studies.set_space(study, SPACE, BASE)
    assert studies.base_params(study) == BASE
    with refused(r"study tune was begun with training.epochs 5, which is now 6; put it back"):
        changed = params.check(search_space.override(BASE, {"training.epochs": 6}))
        studies.set_space(study, SPACE, changed)
    with refused(r"begun with model.layers not set, which is now \[1, 2\]"):
        studies.set_space(study, SPACE | {"model.layers": [1, 2]}, BASE)
    with refused(r"begun with training.learning_rate .*, which is now not set"):
        studies.set_space(study, {}, BASE)


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql://someone:S%40cret@127.0.0.1:1/studies",
        "postgresql://someone:S@cret@127.0.0.1:port/studies?password=S@cret",
        "postgresql://someone:x@cret@127.0.0.1:1/studies",
        "S@cret",
        "mysql://someone:S%40cret@127.0.0.1/studies",
        "nosuch://someone:S%40cret@127.0.0.1/studies",
        "postgresql://someone:S{cret@127.0.0.1:1/studies?sslmode=S@cret",
    ],
)
def test_no_password_is_shown(root, monkeypatch, capsys, storage):
    (root / "tune.yaml").write_text(yaml.safe_dump(SPACE))
    out, err = commands.run(
        monkeypatch, capsys, "tune", "--trials", 1, "--storage", storage, status=2
    )
    (line,) = err.splitlines()
    assert line.startswith(("error: the studies in ", "error: the storage must be"))
    assert "cret" not in out + err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trials", "0"], "--trials: 0 is not from 1 to 100,000"),
        (["--trials", "1", "--workers", "9999"], "--workers: 9999 is not from 1 to 1,024"),
        (["--trials", "1", "--confirm", "0"], "--confirm: 0 is not from 1 to 100"),
        (["--trials", "1", "--confirm", "101"], "--confirm: 101 is not from 1 to 100"),
        (["--trials", "1", "--study", "a b"], "--study is 'a b'; it must be 1 to 61 letters"),
        (["--trials", "1", "--study", "-b/c"], "--study is '-b/c'; it must be 1 to 61"),
        (["--trials", "1"], "tune.yaml cannot be read: No such file"),
        (["--trials", "1", "--space", "params.yaml"], "params.yaml: 'data' is not the name of a p"),
    ],
)
def test_a_command_that_cannot_be_done_is_a_line_and_begins_nothing(
    root, monkeypatch, capsys, arguments, said
):
    before = sorted(root.rglob("*"))
    options = [argument.replace("--study=", "") for argument in arguments]
    if "-b/c" in options:
        options[-2:] = ["--study=-b/c"]
    _, err = commands.run(monkeypatch, capsys, "tune", *options, status=2)
    (line,) = err.splitlines()
    assert line.startswith(f"error: {said}")
    assert sorted(root.rglob("*")) == before


@pytest.mark.slow
def test_what_a_worker_finds_wrong_is_the_line_of_the_command(root, monkeypatch, capsys):
    (root / "tune.yaml").write_text(yaml.safe_dump(SPACE))  # and there is no dvc.yaml
    out, err = commands.run(monkeypatch, capsys, "tune", "--trials", 3, "--workers", 2, status=2)
    (line,) = err.splitlines()
    assert "cannot be run: " in line
    assert out.startswith(f"study tune in sqlite:///{root}/tune.db: 0 of 3 trials are finished")


def test_optuna_is_loaded_by_no_other_command():
    code = "import sys, striate.cli, striate.tuning.workers; print('optuna' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


def test_progress_is_told_to_a_file_where_one_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv(events.VARIABLE, raising=False)
    events.publish({"epoch": 1})
    monkeypatch.setenv(events.VARIABLE, str(tmp_path / "rows"))
    events.publish({"epoch": 1})
    events.publish({"epoch": 2})
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert rows == [{"epoch": 1}, {"epoch": 2}]


def processes_in(folder):
    """What runs in a folder, or in one below it."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process.cmdline())
        except (psutil.Error, OSError):
            pass
    return found


def wait_until(holds, process, seconds=120):
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """A study on two workers: one is killed, then all are interrupted, and the command is repeated.

    `interrupted` holds the status, the output and the processes that were left, `finished` the
    output and the processes of the second command; `head` is the commit before them.
    """
    clone = Clone.unrun(tmp_path_factory.mktemp("disturbed") / "striate")
    pipeline = yaml.safe_load((clone.folder / "dvc.yaml").read_text())
    del pipeline["stages"]["visualize"], pipeline["plots"]  # which take a third of the time
    (clone.folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    space = SPACE | {"training.epochs": 30, "training.batch_size": 20}
    (clone.folder / "tune.yaml").write_text(yaml.safe_dump(space))
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "Start.")
    head = clone.run("git", "log", "-1", "--decorate")
    clone.env["STRIATE_TRACKING"] = "off"
    command = [sys.executable, "-m", "striate.cli", "tune", "--trials", "2", "--workers", "2"]
    running = clone.start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until(lambda: saved_states(clone), running)
    kill_a_worker(saved_states(clone)[0], running)
    os.killpg(running.pid, signal.SIGINT)
    said, _ = running.communicate(timeout=180)
    interrupted = running.returncode, said, processes_in(clone.folder)
    finished = clone.run(*command), processes_in(clone.folder)
    del clone.env["STRIATE_TRACKING"]
    return SimpleNamespace(clone=clone, head=head, interrupted=interrupted, finished=finished)


def saved_states(clone):
    return list((clone.folder / RESUME_DIR).glob("*.state"))


def kill_a_worker(state, running):
    """Kill the worker whose training saved this state, and wait until another one is there."""
    holder = int(re.match(r"process (\d+) ", state.with_suffix(".lock").read_text())[1])
    (victim,) = [
        process for process in psutil.Process(holder).parents()
        if "striate.tuning.workers" in process.cmdline()
    ]  # fmt: skip
    victim.kill()
    wait_until(lambda: len(psutil.Process(running.pid).children()) == 2, running)
    wait_until(lambda: not psutil.pid_exists(holder), running)


@pytest.fixture
def trials(disturbed):
    """All trials of its study."""
    folder = disturbed.clone.folder
    return studies.open_study("tune", studies.default_storage(folder), folder).trials


@pytest.mark.walk
def test_an_interrupt_ends_all_workers_and_says_how_to_go_on(disturbed):
    status, said, processes = disturbed.interrupted
    assert status == 130, said
    assert re.search(r"^interrupted: \d of 2 trials are finished; the same command resumes$", said,
                     re.M)  # fmt: skip
    assert "Traceback" not in said
    assert processes == []


@pytest.mark.walk
def test_the_same_command_finishes_the_study_after_kills_and_interrupts(disturbed, trials):
    said, processes = disturbed.finished
    assert re.search(r"to apply the best one: dvc exp apply tune-\d", said)
    assert len(studies.finished(trials)) == 2
    assert processes == []


@pytest.mark.walk
def test_a_disturbed_study_leaves_no_states_no_folders_and_no_changes(disturbed):
    clone = disturbed.clone
    assert saved_states(clone) == []
    assert list((clone.folder / ".dvc/tmp/exps/standalone").glob("tmp*")) == []
    assert clone.run("git", "status", "--porcelain") == ""
    assert clone.run("git", "log", "-1", "--decorate") == disturbed.head


@pytest.mark.walk
def test_lost_trials_are_run_again_under_their_names_with_their_params(trials):
    done = studies.finished(trials)
    lost = [trial for trial in trials if trial not in done]
    assert lost
    again = {trial.user_attrs["experiment"]: trial.params for trial in done}
    for trial in lost:
        assert trial.state == TrialState.FAIL
        name = trial.user_attrs["experiment"]
        assert again.setdefault(name, trial.params) == trial.params


@pytest.mark.walk
def test_complete_trials_are_the_experiments_and_have_their_scores(disturbed, trials):
    folder = disturbed.clone.folder
    scores = {
        trial.user_attrs["experiment"]: trial.value
        for trial in trials
        if trial.state == TrialState.COMPLETE
    }
    assert set(disturbed.clone.run("dvc", "exp", "list", "--name-only").split()) == scores.keys()
    for name, value in scores.items():
        assert workers.metrics_of(folder, name)["val_accuracy"] == value


@pytest.mark.walk
def test_the_experiments_of_a_disturbed_study_get_their_runs(disturbed, trials):
    disturbed.clone.striate("sync")
    count = sum(trial.state == TrialState.COMPLETE for trial in trials)
    assert f"MLflow agrees with DVC on {count} experiment" in disturbed.clone.striate("verify")
