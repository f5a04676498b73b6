"""The best trials, trained anew: with which seeds, how often, and what is said of the scores."""

import json
from itertools import pairwise

import commands
import pytest
import repositories
import yaml
from clones import Clone
from paths import ROOT

from striate.config import params
from striate.pipeline import repeat
from striate.reporting.uncertainty import summarize
from striate.tracking import records
from striate.tuning import confirm, studies, workers

RATE = "training.learning_rate"
SPACE = {RATE: {"low": 0.001, "high": 0.1, "log": True}}
RATES = [0.012, 0.011, 0.05, 0.013]  # of the trials: the best is tune-1, then tune-0 and tune-3


def score(self, trial, name, drawn):
    """Instead of a training: best at a learning rate of 0.01."""
    return 0.99 - abs(drawn[RATE] - 0.01)


class Experiments:
    """Instead of DVC: experiments that come out as told.

    Attributes:
        scores: by setting and seed, the validation accuracy; a text is why it fails.
        found: the records of those that exist.
        queues: the names in each queue that was run.
        stop_at: the position in a queue at which it is interrupted.
    """

    def __init__(self):
        self.scores, self.found, self.queues, self.stop_at = {}, [], [], None

    def run(self, root, queue, count, variables, report):
        self.queues.append([job.name for job in queue])
        failures = []
        for job in queue[: self.stop_at]:
            accuracy = self.scores.get(job.setting.name, {}).get(job.seed, 0.5)
            if isinstance(accuracy, str):
                failures.append(repeat.Failure(job.name, accuracy))
            else:
                self.add(job.name, job.setting.flat | {"seed": job.seed}, accuracy)
        if self.stop_at is not None:
            raise KeyboardInterrupt
        return failures

    def add(self, name, flat, accuracy, hashes=None):
        names = [records.Name(name, "0123", "4567")]
        identity = {records.DATA: "digits", records.PARAMS: str(flat)}
        scores = {"val_accuracy": accuracy}, {"accuracy": 0.1234}
        self.found.append(records.Record(names, identity, flat, *scores, "0123", hashes or {}, []))


class Study:
    """A study without trainings, and the command that confirms its best trials."""

    def __init__(self, root, run):
        self.root, self.run, self.count = root, run, 0

    def search(self, *rates, **space):
        """Run trials with these learning rates."""
        space = SPACE | {key.replace("__", "."): value for key, value in space.items()}
        (self.root / "tune.yaml").write_text(yaml.safe_dump(space))
        self.study = studies.open_study("tune", studies.default_storage(self.root), self.root)
        studies.set_space(self.study, space, params.load(ROOT / "params.yaml"))
        for rate in rates:
            self.study.enqueue_trial({RATE: rate})
        self.count += len(rates)
        workers.Worker(self.study, self.count, "random", 1, self.root).work()

    def confirm(self, count, status=0):
        """What `striate tune --confirm` writes on standard output and on standard error."""
        return self.run("tune", "--trials", self.count, "--confirm", count, status=status)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with a commit and the params of this one."""
    repositories.start(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def experiments(monkeypatch):
    fake = Experiments()
    monkeypatch.setenv("STRIATE_TRACKING", "off")
    monkeypatch.setattr(repeat, "run", fake.run)
    monkeypatch.setattr(records, "find", lambda root: records.Found(fake.found, [], None))
    return fake


@pytest.fixture
def study(root, experiments, monkeypatch, capsys):
    monkeypatch.setattr(workers.Worker, "_train", score)
    return Study(root, lambda *words, status: commands.run(monkeypatch, capsys, *words,
                                                           status=status))  # fmt: skip


def named(trial, *seeds):
    return [f"{trial}-seed{seed}" for seed in seeds]


def confirmed(said):
    """The cells of the table of confirmed trials, headings first."""
    lines = said[said.index("\ntrial  experiment  search: ") :].strip().split("\n\n")[0]
    heading, rule, *rows = lines.splitlines()
    starts = [0]
    for width in map(len, rule.split("  ")):
        starts.append(starts[-1] + width + 2)
    return [[line[a:b].strip() for a, b in pairwise(starts)] for line in (heading, *rows)]


def test_the_best_trials_are_trained_with_five_fresh_seeds_in_one_queue(study, experiments):
    study.search(*RATES)
    experiments.scores = {
        "tune-1": {1: 0.90, 2: 0.91, 3: 0.92, 4: 0.93, 5: 0.94},
        "tune-0": {1: 0.95, 2: 0.95, 3: 0.96, 4: 0.97, 5: 0.97},
    }
    said, _ = study.confirm(2)
    assert experiments.queues == [named("tune-1", 1, 2, 3, 4, 5) + named("tune-0", 1, 2, 3, 4, 5)]
    heading, *rows = confirmed(said)
    assert heading[2:] == [
        "search: validation accuracy (1 seed, best of 4)",
        "confirmed: validation accuracy over 5 fresh seeds",
        "95% interval of the mean",
    ]
    assert rows == [
        ["0", "tune-0", "98.80%", "96.00% ± 1.00%", "94.76 to 97.24%"],
        ["1", "tune-1", "98.90%", "92.00% ± 1.58%", "90.04 to 93.96%"],
    ]
    assert said.count("to apply the best one") == 1
    assert said.endswith("to apply the best one: dvc exp apply tune-0\n")
    assert "The search's accuracy chose the trial, so it is too high by selection" in said
    assert "12.34" not in said  # the test set chooses nothing


def test_what_exists_is_not_run_again(study, experiments):
    study.search(*RATES)
    experiments.stop_at = 3
    _, err = study.confirm(2, status=130)
    assert err.endswith("interrupted: the same command resumes\n")
    experiments.stop_at = None
    said, _ = study.confirm(2)
    assert "confirming tune-1, tune-0: 3 of 10 experiments are there, 7 to run\n" in said
    assert experiments.queues[1] == named("tune-1", 4, 5) + named("tune-0", 1, 2, 3, 4, 5)
    again, _ = study.confirm(2)
    assert confirmed(again) == confirmed(said)
    study.confirm(3)
    assert experiments.queues[2:] == [named("tune-3", 1, 2, 3, 4, 5)]


def test_experiments_of_other_code_and_of_the_searchs_seed_do_not_count(study, experiments, root):
    study.search(*RATES)
    (root / "src").mkdir()
    (root / "src/train.py").touch()
    flat = params.flatten(params.load().model_dump()) | {RATE: 0.011}
    experiments.add("by-hand", flat | {"seed": 2}, 0.5)
    experiments.add("old", flat | {"seed": 3}, 0.5, {"src/train.py": "0" * 32})
    experiments.add("tune-1", flat | {"seed": 0}, 0.99)
    said, _ = study.confirm(1)
    assert experiments.queues == [named("tune-1", 1, 3, 4, 5)]
    assert confirmed(said)[1][3] == "50.00% ± 0.00%"


def test_no_fresh_seed_is_that_of_the_search_which_the_space_may_set(study, experiments):
    study.search(*RATES, seed=3)
    study.confirm(1)
    assert experiments.queues == [named("tune-1", 0, 1, 2, 4, 5)]


def test_failed_seeds_are_named_and_their_means_are_marked_and_come_last(study, experiments):
    study.search(*RATES)
    experiments.scores = {
        "tune-1": {1: 0.99, 2: "the loss became nan at step 3", 3: 0.97, 4: 0.99, 5: 0.97},
        "tune-3": dict.fromkeys(range(1, 6), "the loss became nan at step 3"),
    }
    said, err = study.confirm(3, status=2)
    assert [row[1:] for row in confirmed(said)[1:]] == [
        ["tune-0", "98.80%", "50.00% ± 0.00%", "–"],
        ["tune-1", "98.90%", "98.00% ± 1.15% (4 of 5 seeds)", "96.16 to 99.84%"],
        ["tune-3", "98.70%", "– (0 of 5 seeds)", "–"],
    ]
    assert "\nMeans over fewer than 5 seeds leave out seeds that failed." in said
    assert "to apply the best one: dvc exp apply tune-0\n" in said
    names = ", ".join(named("tune-1", 2) + named("tune-3", 1, 2, 3, 4, 5))
    assert err == f"error: {names} failed: the loss became nan at step 3\n"


def test_where_all_seeds_fail_no_trial_is_the_best(study, experiments):
    study.search(*RATES)
    experiments.scores = {"tune-1": dict.fromkeys(range(1, 6), "no memory")}
    said, err = study.confirm(1, status=2)
    assert "to apply" not in said
    assert err.endswith("failed: no memory\n")


def test_fewer_complete_trials_than_asked_for_are_confirmed_all(study, experiments):
    study.search(0.012, 0.011, 0.011)
    said, _ = study.confirm(5)
    assert "\n--confirm 5: the study has 2 complete trials of different params to confirm\n" in said
    assert [row[1] for row in confirmed(said)[1:]] == ["tune-1", "tune-0"]


def test_a_fixed_split_is_said_to_keep_a_part_of_the_selection(study):
    study.search(*RATES)
    assert "All seeds hold out the images" not in study.confirm(1)[0]
    (study.root / "tune.db").unlink()
    study.count = 0
    study.search(*RATES, data__split_seed=7)
    said, _ = study.confirm(1)
    assert "by which the trials were chosen (data.split_seed 7), so part of the selection" in said


ROW = studies.Row(0, "tune-0", "complete", 5, 0.99, {})
OTHER = ROW._replace(number=1, experiment="tune-1")


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([0.95, 0.96, 0.97, 0.98, 0.99], [0.96, 0.94, 0.97, 0.95, 0.98],
         "tune-0 against tune-1: +1.00 points, 95% interval −0.96 to +2.96 (paired t-test over"
         " seeds): 5 seeds each cannot tell these two apart."),
        ([0.95, 0.96, 0.97, 0.98, 0.99], [0.84, 0.85, 0.86, 0.87, 0.88],
         "tune-0 against tune-1: +11.00 points, 95% interval +10.49 to +11.51 (paired t-test over"
         " seeds): tune-0 is better, and the choice of seeds does not explain it."),
        ([0.9] * 5, [0.9] * 5, "+0.00 points, 95% interval +0.00 to +0.00 "),
        # Five equal scores do not show that there is no spread.
        ([0.9] * 5, [0.8] * 5, "+10.00 points, 95% interval +4.93 to +15.07 "),
        ([0.9, 0.8], [0.85, 0.7, 0.8, 0.81, 0.85], ": 2 seeds each cannot tell these two apart."),
    ],
)  # fmt: skip
def test_the_first_two_are_compared(first, second, said):
    both = [
        confirm.Confirmed(row, dict(enumerate(scores)))
        for row, scores in ((ROW, first), (OTHER, second))
    ]
    assert said in confirm.text(both, 6, "auto")


@pytest.mark.parametrize(("first", "second"), [([0.9], [0.8]), ([0.9] * 5, [])])
def test_where_too_few_seeds_are_left_nothing_is_compared(first, second):
    both = [
        confirm.Confirmed(row, dict(enumerate(scores)))
        for row, scores in ((ROW, first), (OTHER, second))
    ]
    assert confirm.difference(*both) is None
    assert "against" not in confirm.text(both, 6, "auto")


def test_a_study_without_complete_trials_has_none_to_confirm(study, experiments, monkeypatch):
    def pruned(self, trial, name, drawn):
        import optuna

        raise optuna.TrialPruned

    monkeypatch.setattr(workers.Worker, "_train", pruned)
    study.search(*RATES)
    said, _ = study.confirm(2)
    assert "\n--confirm 2: the study has 0 complete trials of different params to confirm\n" in said
    assert "to apply" not in said
    assert experiments.queues == []


@pytest.mark.walk
def test_the_fresh_seeds_of_a_real_search_are_experiments_of_dvc(tmp_path):
    clone = Clone.unrun(tmp_path / "striate", training__epochs=1)
    pipeline = yaml.safe_load((clone.folder / "dvc.yaml").read_text())
    del pipeline["stages"]["visualize"], pipeline["plots"]  # which take a third of the time
    (clone.folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    (clone.folder / "tune.yaml").write_text(yaml.safe_dump(SPACE))
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "Start.")
    clone.env["STRIATE_TRACKING"] = "off"
    said = clone.striate("tune", "--trials", "1", "--workers", "2", "--confirm", "1")
    (row,) = confirmed(said)[1:]
    form = "--format=%(refname:lstrip=4) %(objectname)"
    commits = dict(map(str.split, clone.run("git", "for-each-ref", form, "refs/exps").splitlines()))
    assert commits.keys() == {"tune-0", *named("tune-0", 1, 2, 3, 4, 5)}
    del commits["tune-0"]
    mean = summarize([
        json.loads(clone.run("git", "show", f"{commit}:metrics/train.json"))["val_accuracy"]
        for commit in commits.values()
    ])  # fmt: skip
    assert row[3] == f"{mean.mean:.2%} ± {mean.sd:.2%}"
