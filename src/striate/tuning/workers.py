"""Hyperparameter search: Optuna proposes params, and each trial is a DVC experiment.

A study lives in a database, which any number of workers share, also on several machines. If a
worker is killed, another one runs its trial again under the same name, and the training resumes
from its last saved state.

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
from striate.data.processors import cores
from striate.errors import UserError, exit_on_error
from striate.pipeline.dvc_runner import Experiment
from striate.pipeline.experiments import (
    commit_of_experiment,
    error_line,
    free_name,
    ignored_inputs,
)
from striate.tracking import records
from striate.tracking.background import process_tag
from striate.tracking.git import git
from striate.training.resume_files import DONE, RESUME_DIR
from striate.tuning.search_space import override, propose, values_of
from striate.tuning.studies import (
    EPOCHS,
    EXPERIMENT,
    PROCESS,
    REASON,
    SPACE,
    TRAINING,
    base_params,
    fail_stale_trials,
    finished,
    make_sampler,
    open_study,
    reachable,
    retry_trial,
    running,
    worker_lock,
)

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

STORAGE = "STRIATE_STORAGE"  # the address of the database of studies; may hold a password

MAX_LOST = 3  # further runs of an experiment of which DVC has none
MAX_FAILURES = 5  # trials in a row; after so many, the params are not to blame
MAX_DEATHS = 10  # of workers, while no trial finishes
SHOWN_SECONDS = 2.0  # between two epochs that are shown in a terminal
POLL_SECONDS = 0.2  # between two looks at the workers


class TrialFailedError(Exception):
    """A training failed because of its params, for example by a loss of nan."""


class Worker:
    """Runs trials, one at a time, until enough have finished.

    Args:
        study: opened by this process.
        count: of finished trials, whoever ran them.
        sampler: one of SAMPLERS.
        threads: of each training.
        root: the repository.
    """

    def __init__(
        self, study: optuna.Study, count: int, sampler: str, threads: int, root: Path
    ) -> None:
        self.study, self.count, self.threads, self.root = study, count, threads, root
        self.space: dict[str, Any] = study.user_attrs[SPACE]
        self.base = base_params(study)
        study.sampler = make_sampler(sampler, self.base.seed)
        self._lock = worker_lock(root)
        self._number: int | None = None  # of the running trial
        self._failures: list[str] = []  # of the last trials in a row

    def work(self) -> None:
        """Run trials until enough have finished.

        Raises:
            UserError: something other than a trial's params is wrong.
        """
        while True:
            # Until the next trial has started, no other worker may change what is read here.
            with self._lock:
                fail_stale_trials(self.study)
                trials = self.study.get_trials(deepcopy=False)
                done = len(finished(trials))
                if done >= self.count:
                    return
                if len(self._failures) >= MAX_FAILURES:
                    raise UserError(
                        f"{MAX_FAILURES} trials in a row failed; the last one: {self._failures[-1]}"
                    )
                if done + running(trials) < self.count:
                    self._run_trial()
                    continue
            # The trials of other workers are enough, unless one of them fails.
            time.sleep(1)

    def _run_trial(self) -> None:
        self._number = None
        try:
            self.study.optimize(self._objective, n_trials=1, catch=(TrialFailedError,))
        except (KeyboardInterrupt, UserError):
            trial = self._frozen()
            if trial is not None and trial.state.name == "FAIL":
                retry_trial(self.study, trial)
            raise
        except ValueError:
            trial = self._frozen()
            if trial is None or trial.state.name != "FAIL":
                raise
            # This machine's heartbeat was late, so another one has taken over the trial.

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
            # A worker on another machine has started the last one at the same moment.
            raise TrialFailedError
        name = trial.user_attrs.get(EXPERIMENT)
        if name is None:
            wanted = f"{self.study.study_name}-{trial.number}"
            name = free_name(self.root, wanted)
            if name != wanted:
                print(
                    f"warning: there is an experiment {wanted} already; this one is {name}",
                    flush=True,
                )
            trial.set_user_attr(EXPERIMENT, name)
        self._lock.release(force=True)
        equals = [other.number for other in ahead if other.params == trial.params]
        while running([self.study.get_trials(deepcopy=False)[number] for number in equals]):
            time.sleep(1)  # its result will be in DVC's cache
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

        params = override(self.base, drawn)
        settings = check(params)
        # All params, so that later edits of params.yaml change no trial.
        arguments = recipes.arguments(params)
        for _ in range(MAX_LOST + 1):
            train = metrics_of(self.root, name)
            if train is not None:
                trial.set_user_attr(EPOCHS, int(train["epochs"]))
                print(f"{name}: {train['val_accuracy']:.2%}", flush=True)
                return train["val_accuracy"]
            print(f"{name}: training", flush=True)
            pruned, status, output = self._run_experiment(trial, name, arguments, settings)
            if metrics_of(self.root, name) is not None:
                continue  # also if it finished before it could be pruned
            if pruned:
                remove_states(self.root, [trial.user_attrs])
                print(f"{name}: pruned, {pruned}", flush=True)
                raise optuna.TrialPruned
            if status == 0:
                continue  # its process was killed; or DVC kept no experiment, without a message
            if "failed to reproduce 'train'" in output:
                remove_states(self.root, [trial.user_attrs])
                raise TrialFailedError(error_line(output))
            raise UserError(f"{name} cannot be run: {error_line(output)}")
        raise UserError(f"{name} cannot be run: DVC keeps no experiment")

    def _run_experiment(
        self, trial: optuna.Trial, name: str, arguments: list[str], settings: Params
    ) -> tuple[str, int, str]:
        """Run an experiment, and prune it if others are better.

        Returns:
            Why it was pruned, or an empty string; DVC's exit status; DVC's output.
        """
        pruned, status, output, shown = "", 0, "", time.monotonic()
        epochs = settings.training.epochs
        variables = {"OMP_NUM_THREADS": str(self.threads)} | os.environ
        copied = ignored_inputs(self.root, settings)
        with Experiment(self.root, name, arguments, copied, variables) as experiment:
            for message in experiment.messages():
                if "training" in message:
                    trial.set_user_attr(TRAINING, message["training"])
                elif "epoch" in message and not pruned:
                    epoch, accuracy = message["epoch"], message["val_accuracy"]
                    trial.report(accuracy, epoch)
                    trial.set_user_attr(EPOCHS, epoch)
                    if sys.stdout.isatty() and time.monotonic() - shown > SHOWN_SECONDS:
                        shown = time.monotonic()
                        print(f"{name}: epoch {epoch} of {epochs}, {accuracy:.2%}", flush=True)
                    if epoch < epochs and trial.should_prune():
                        pruned = f"{accuracy:.2%} after epoch {epoch}"
                        experiment.stop()
                elif "status" in message:
                    status, output = message["status"], message["output"]
        return pruned, status, output


def metrics_of(root: Path, name: str) -> dict[str, float] | None:
    """What metrics/train.json of an experiment holds, or None where there is none."""
    commit = commit_of_experiment(root, name)
    text = git(root, "show", f"{commit}:./{records.TRAIN}") if commit else None
    if text is None:
        return None
    called = f"{records.TRAIN} of {name}"
    found = json_csv.check_metrics(json_csv.parse_json(text, called), called, "train.json")
    if "val_accuracy" not in found:
        raise UserError(f"{called} holds no val_accuracy; data.val_size must be larger than 0")
    return found


def remove_states(root: Path, attributes: Sequence[dict[str, Any]]) -> None:
    """Remove the resume checkpoints of trials that will not be resumed, by user attributes."""
    for one in attributes:
        if TRAINING in one:
            for ending in (".state", DONE):
                Path(root, RESUME_DIR, one[TRAINING] + ending).unlink(missing_ok=True)


class Team:
    """The worker processes of one `striate tune`."""

    def __init__(self, study: optuna.Study, command: list[str], root: Path, storage: str) -> None:
        self.study, self.command, self.root, self.storage = study, command, root, storage
        self.workers: dict[int, subprocess.Popen[bytes]] = {}
        self.deaths = self.finished = 0

    def run(self, size: int) -> None:
        """Start so many workers, replace those that are killed, and wait until all have ended.

        Raises:
            UserError: what one of them has found wrong.
        """
        with tempfile.TemporaryDirectory() as logs:
            try:
                for index in range(size):
                    self._start(index, Path(logs))
                while self.workers:
                    time.sleep(POLL_SECONDS)
                    for index, worker in list(self.workers.items()):
                        self._check(index, worker.poll(), Path(logs))
            finally:
                for worker in self.workers.values():
                    assert worker.stdin is not None  # noqa: S101
                    worker.stdin.close()
                for worker in self.workers.values():
                    worker.wait()

    def _start(self, index: int, logs: Path) -> None:
        with Path(logs, str(index)).open("wb") as log:
            self.workers[index] = subprocess.Popen(
                self.command,
                cwd=self.root,
                env=os.environ | {STORAGE: self.storage},
                stdin=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def _check(self, index: int, status: int | None, logs: Path) -> None:
        """Act on the exit status of a worker, which is None while it runs."""
        if status is None:
            return
        if status == 0:
            del self.workers[index]
            return
        if status > 0:
            text = Path(logs, str(index)).read_text(errors="replace").strip()
            raise UserError(text.removeprefix("error: "))
        done = len(finished(self.study.get_trials(deepcopy=False)))
        self.deaths = 1 if done > self.finished else self.deaths + 1
        self.finished = max(done, self.finished)
        if self.deaths >= MAX_DEATHS:
            raise UserError(
                f"{self.deaths} workers were killed and no trial finished, the last one by signal"
                f" {-status}; is there too little memory?"
            )
        self._start(index, logs)


def tune(
    study: optuna.Study, storage: str, root: Path, count: int, workers: int, sampler: str
) -> None:
    """Run workers until the study has `count` finished trials.

    Args:
        study: with its search space set.
        storage: its address.
        root: the repository.
        count: of finished trials, whoever ran them.
        workers: number of processes on this machine.
        sampler: one of SAMPLERS.

    Raises:
        UserError: what one of the workers has found wrong.
    """
    missing = count - len(finished(study.get_trials(deepcopy=False)))
    threads = max(1, cores() // workers)
    command = [
        sys.executable, "-m", "striate.tuning.workers", study.study_name, str(count), sampler,
        str(threads),
    ]  # fmt: skip
    Team(study, command, root, storage).run(min(workers, missing))
    # The states of trials whose workers were killed too often, or of another number of threads.
    trials = study.get_trials(deepcopy=False)
    needed = [one.user_attrs.get(TRAINING) for one in trials if not one.state.is_finished()]
    stale = [one.user_attrs for one in trials if one.user_attrs.get(TRAINING) not in needed]
    remove_states(root, stale)


def main(name: str, count: int, sampler: str, threads: int) -> None:
    """Work until the study is complete or the parent process is gone."""

    def interrupt_with_parent() -> None:
        os.read(sys.stdin.fileno(), 1)  # blocks until the parent closes the pipe
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt_with_parent, daemon=True).start()
    storage, root = os.environ[STORAGE], Path.cwd()
    with reachable(storage):
        Worker(open_study(name, storage, root), count, sampler, threads, root).work()


if __name__ == "__main__":
    with exit_on_error():
        main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
