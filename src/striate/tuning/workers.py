"""Hyper-parameter search: Optuna proposes params, and each trial is an experiment of DVC.

A study lives in a database, which any number of workers share, also on several machines. What a
worker that was killed had begun is begun again by another, under the same name, and its training
goes on from the state that was saved last.

Run as a script, it is one worker of `striate tune`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from striate.config import recipes
from striate.config.params import Params, check
from striate.data import json_csv
from striate.errors import UserError, reported
from striate.evaluation import metrics
from striate.tracking import records
from striate.tracking.git import git
from striate.tracking.mlflow_store import process_tag
from striate.training.states import DONE, STATES
from striate.training.torchrun import cores
from striate.tuning.dvc_runner import Experiment
from striate.tuning.search_space import laid_over, propose, values_of
from striate.tuning.studies import (
    EPOCHS,
    EXPERIMENT,
    PROCESS,
    REASON,
    SPACE,
    TRAINING,
    alone,
    base_of,
    bury,
    finished,
    open_study,
    reachable,
    running,
    sampler_of,
    try_again,
)

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

STORAGE = "STRIATE_STORAGE"  # the address of the studies, which may hold a password

MOST_LOST = 3  # times that an experiment is run and not there
MOST_FAILURES = 5  # trials in a row, after which it is not the params
MOST_DEATHS = 10  # of workers, while no trial finishes
BUSY_SECONDS, MOST_BUSY = 2.0, 60  # how often, and how many times, DVC's own lock is waited for
SHOWN_SECONDS = 2.0  # between two epochs of a trial that are shown in a terminal
BUSY = ("Unable to acquire lock", "is busy")  # in its words


class TrialFailedError(Exception):
    """A training ended by a fault of its params, such as a loss that is no number."""


class Worker:
    """Runs trials, one at a time, until the study has enough of them.

    Args:
        study: which it has opened.
        count: how many finished trials are enough.
        sampler: one of SAMPLERS.
        threads: that a training computes with.
        root: the repository.
    """

    def __init__(
        self, study: optuna.Study, count: int, sampler: str, threads: int, root: Path
    ) -> None:
        self.study, self.count, self.threads, self.root = study, count, threads, root
        self.space: dict[str, Any] = study.user_attrs[SPACE]
        self.base = base_of(study)
        study.sampler = sampler_of(sampler, self.base.seed)
        self._lock = alone(root)
        self._number: int | None = None  # of the trial that goes on
        self._failures: list[str] = []  # of the last trials, one after the other

    def work(self) -> None:
        """Run trials until there are enough finished ones.

        Raises:
            UserError: something is wrong that is not a trial's.
        """
        while True:
            # What is looked at here must hold until the next trial has begun.
            with self._lock:
                bury(self.study)
                trials = self.study.get_trials(deepcopy=False)
                done = len(finished(trials))
                if done >= self.count:
                    return
                if len(self._failures) >= MOST_FAILURES:
                    raise UserError(
                        f"{MOST_FAILURES} trials in a row failed; the last one:"
                        f" {self._failures[-1]}"
                    )
                if done + running(trials) < self.count:
                    self._one()
                    continue
            # The others' trials are enough, unless one of them fails.
            time.sleep(1)

    def _one(self) -> None:
        self._number = None
        try:
            self.study.optimize(self._objective, n_trials=1, catch=(TrialFailedError,))
        except (KeyboardInterrupt, UserError):
            trial = self._frozen()
            if trial is not None and trial.state.name == "FAIL":
                try_again(self.study, trial)
            raise
        except ValueError:
            trial = self._frozen()
            if trial is None or trial.state.name != "FAIL":
                raise
            # This machine was silent for so long that another one has taken the trial.

    def _frozen(self) -> FrozenTrial | None:
        return None if self._number is None else self.study.get_trials()[self._number]

    def _objective(self, trial: optuna.Trial) -> float:
        """Train; returns the validation accuracy."""
        self._number = trial.number
        trial.set_user_attr(PROCESS, process_tag(os.getpid()))
        drawn = values_of(propose(trial, self.space, self.base), self.space)
        trials = self.study.get_trials(deepcopy=False)
        ahead = [other for other in trials if other.number < trial.number]
        if len(finished(trials)) + running(ahead) >= self.count:
            # A worker elsewhere has begun the last one at the same moment.
            raise TrialFailedError
        name = trial.user_attrs.get(EXPERIMENT)
        if name is None:
            name = free_name(self.root, f"{self.study.study_name}-{trial.number}")
            trial.set_user_attr(EXPERIMENT, name)
        self._lock.release(force=True)
        twins = [other.number for other in ahead if other.params == trial.params]
        while running([self.study.get_trials(deepcopy=False)[number] for number in twins]):
            time.sleep(1)  # its result will be in the cache
        failures, self._failures = self._failures, []
        try:
            return self._train(trial, name, drawn)
        except TrialFailedError as error:
            self._failures = [*failures, str(error)]
            trial.set_user_attr(REASON, str(error))
            print(f"{name}: failed: {error}", flush=True)
            raise

    def _train(self, trial: optuna.Trial, name: str, drawn: dict[str, Any]) -> float:
        """Run the experiment, unless DVC has it already; returns the validation accuracy."""
        import optuna

        params = laid_over(self.base, drawn)
        settings = check(params)
        # All params, so that an edit of params.yaml meanwhile changes no trial.
        arguments = [*recipes.arguments(params), *_copied(self.root, settings)]
        busy = lost = 0
        while busy < MOST_BUSY and lost < MOST_LOST:
            kept = metrics_of(self.root, name)
            if kept is not None:
                trial.set_user_attr(EPOCHS, int(kept["epochs"]))
                print(f"{name}: {kept['val_accuracy']:.2%}", flush=True)
                return kept["val_accuracy"]
            print(f"{name}: training", flush=True)
            cut, status, said, shown = None, 0, "", time.monotonic()
            with Experiment(self.root, name, arguments, self.threads) as experiment:
                for message in experiment.messages():
                    if "training" in message:
                        trial.set_user_attr(TRAINING, message["training"])
                    elif "epoch" in message and cut is None:
                        epoch = message["epoch"]
                        trial.report(message["val_accuracy"], epoch)
                        trial.set_user_attr(EPOCHS, epoch)
                        if sys.stdout.isatty() and time.monotonic() - shown > SHOWN_SECONDS:
                            shown = time.monotonic()
                            print(
                                f"{name}: epoch {epoch} of {settings.training.epochs},"
                                f" {message['val_accuracy']:.2%}",
                                flush=True,
                            )
                        if epoch < settings.training.epochs and trial.should_prune():
                            cut = f"{message['val_accuracy']:.2%} after epoch {epoch}"
                            experiment.stop()
                    elif "status" in message:
                        status, said = message["status"], message["said"]
            if metrics_of(self.root, name) is not None:
                continue  # also where it had ended before it could be cut
            if cut is not None:
                forget(self.root, [trial.user_attrs])
                print(f"{name}: cut, {cut}", flush=True)
                raise optuna.TrialPruned
            if status:
                fault = reason(said)
                if "failed to reproduce 'train'" in said:
                    forget(self.root, [trial.user_attrs])
                    raise TrialFailedError(fault)
                if not any(sign in said for sign in BUSY):
                    raise UserError(f"{name} cannot be run: {fault}")
                busy += 1
                time.sleep(BUSY_SECONDS)
            else:
                lost += 1  # what ran it was killed; or DVC kept nothing, and says nothing
        said = "DVC keeps no experiment" if lost == MOST_LOST else "another DVC command goes on"
        raise UserError(f"{name} cannot be run: {said}")


def _copied(root: Path, settings: Params) -> list[str]:
    """Arguments for the files that a training reads and Git does not track."""
    paths = []
    if settings.data.name == "folder" and not Path(settings.data.path).is_absolute():
        # DVC copies no folder to where there is one already, such as images/ with its README.
        paths += sorted(Path(root, settings.data.path).glob("*/"))
    if not Path(settings.training.init_from).is_absolute():
        paths.append(root / settings.training.init_from)
    named = [path.relative_to(root).as_posix() for path in paths if not _tracked(root, path)]
    return [word for name in named for word in ("--copy-paths", name)]


def _tracked(root: Path, path: Path) -> bool:
    return bool(git(root, "ls-files", "--", str(path)))


def reason(said: str) -> str:
    """The line in the words of DVC and its stages that says what was wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for sign in ("error: ", "ERROR: "):
        for line in lines:
            if line.startswith(sign):
                return line.removeprefix(sign)
    return lines[-1] if lines else "DVC said nothing"


def free_name(root: Path, wanted: str) -> str:
    """A name that no experiment has: the wanted one, or one with a number behind it."""
    name, number = wanted, 1
    while _commit(root, name):
        number += 1
        name = f"{wanted}-{number}"
    if name != wanted:
        print(f"warning: there is an experiment {wanted} already; this one is {name}", flush=True)
    return name


def _commit(root: Path, name: str) -> str:
    """Where DVC keeps the experiment of that name, or nothing."""
    asked = ("for-each-ref", "--count=1", "--format=%(objectname)", f"refs/exps/*/*/{name}")
    return (git(root, *asked) or "").strip()


def metrics_of(root: Path, name: str) -> dict[str, float] | None:
    """What metrics/train.json of an experiment holds, or None where there is none."""
    commit = _commit(root, name)
    text = git(root, "show", f"{commit}:./{records.TRAIN}") if commit else None
    if text is None:
        return None
    called = f"{records.TRAIN} of {name}"
    found = metrics.check_metrics(json_csv.parse_json(text, called), called, "train.json")
    if "val_accuracy" not in found:
        raise UserError(f"{called} holds no val_accuracy; data.val_size must be larger than 0")
    return found


def forget(root: Path, attributes: Sequence[dict[str, Any]]) -> None:
    """Remove the saved states of trainings that nobody will take up again."""
    for one in attributes:
        if TRAINING in one:
            for ending in (".state", DONE):
                Path(root, STATES, one[TRAINING] + ending).unlink(missing_ok=True)


def tune(
    study: optuna.Study, storage: str, root: Path, count: int, workers: int, sampler: str
) -> None:
    """Run workers until the study has so many finished trials.

    Args:
        study: whose space is set.
        storage: its address.
        root: the repository.
        count: of finished trials, whoever ran them.
        workers: how many processes run trials here, side by side.
        sampler: one of SAMPLERS.

    Raises:
        UserError: what one of them found wrong.
    """
    missing = count - len(finished(study.get_trials(deepcopy=False)))
    threads = max(1, cores() // workers)
    deaths = known = 0
    with tempfile.TemporaryDirectory() as scratch:
        team: dict[int, subprocess.Popen[bytes]] = {}

        def start(index: int) -> None:
            with Path(scratch, str(index)).open("wb") as sink:
                team[index] = subprocess.Popen(
                    [sys.executable, "-m", "striate.tuning.workers", study.study_name, str(count),
                     sampler, str(threads)],
                    cwd=root, env=os.environ | {STORAGE: storage}, stderr=sink,
                    stdin=subprocess.PIPE, start_new_session=True,
                )  # fmt: skip

        try:
            for index in range(min(workers, missing)):
                start(index)
            while team:
                time.sleep(0.2)
                for index, worker in list(team.items()):
                    status = worker.poll()
                    if status == 0:
                        del team[index]
                    elif status is not None and status < 0:
                        done = len(finished(study.get_trials(deepcopy=False)))
                        deaths, known = (1, done) if done > known else (deaths + 1, known)
                        if deaths >= MOST_DEATHS:
                            raise UserError(
                                f"{deaths} workers were killed and no trial finished, the last one"
                                f" by signal {-status}; is there too little memory?"
                            )
                        start(index)
                    elif status is not None:
                        said = Path(scratch, str(index)).read_text(errors="replace").strip()
                        raise UserError(said.removeprefix("error: "))
        finally:
            for worker in team.values():
                assert worker.stdin is not None  # noqa: S101
                worker.stdin.close()
            for worker in team.values():
                worker.wait()
    # Where a trial's workers were killed too often, or a state is of another number of threads.
    trials = study.get_trials(deepcopy=False)
    wanted = [one.user_attrs.get(TRAINING) for one in trials if not one.state.is_finished()]
    left = [one.user_attrs for one in trials if one.user_attrs.get(TRAINING) not in wanted]
    forget(root, left)


def main(name: str, count: int, sampler: str, threads: int) -> None:
    """Be one worker, until the study is complete or whoever started it is gone."""

    def follow() -> None:
        os.read(sys.stdin.fileno(), 1)  # nothing comes, until the other end is closed
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=follow, daemon=True).start()
    storage, root = os.environ[STORAGE], Path.cwd()
    with reachable(storage):
        Worker(open_study(name, storage, root), count, sampler, threads, root).work()


if __name__ == "__main__":
    with reported():
        main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
