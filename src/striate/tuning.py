"""Hyper-parameter search: Optuna proposes params, and each trial is an experiment of DVC.

A study lives in a database, which any number of workers share, also on several machines. What a
worker that was killed had begun is begun again by another, under the same name, and its training
goes on from the state that was saved last.

Run as a script, it is one worker of `striate tune`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from filelock import FileLock

from striate import datasets, limits, recipes, records, results
from striate.errors import UserError, reported
from striate.experiment import Experiment
from striate.git import git
from striate.params import Params, check, read_yaml
from striate.stage import DONE, STATES
from striate.tracking import is_gone, process_tag

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

STORAGE = "STRIATE_STORAGE"  # the address of the studies, which may hold a password
LOCK = STATES / "tuning.lock"
SAMPLERS = ("tpe", "random")
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")

RANGE_KEYS = {"low", "high", "step", "log"}
MOST_CHOICES = 50
DIGITS = 4  # significant ones of a number that is drawn
# These say which images a trial is scored on, and trials that are compared share them.
MEASURE = ("seed", "data.name", "data.path", "data.size", "data.test_size", "data.val_size")

STARTUP_TRIALS = 10  # that are drawn at random before any is proposed, and finish before any is cut
FIRST_JUDGED = 2  # epoch; after the first one, the order is mostly that of the learning rates
BEAT_SECONDS, SILENT_SECONDS = 20, 120  # a worker elsewhere that is silent for so long is dead
MOST_TRIES = 4  # of a trial whose workers are killed
MOST_LOST = 3  # times that an experiment is run and not there
MOST_FAILURES = 5  # trials in a row, after which it is not the params
MOST_DEATHS = 10  # of workers, while no trial finishes
BUSY_SECONDS, MOST_BUSY = 2.0, 60  # how often, and how many times, DVC's own lock is waited for

BUSY = ("Unable to acquire lock", "is busy")  # in its words

# User attributes of a trial.
EXPERIMENT, TRAINING, PROCESS = "experiment", "training", "process"
REASON, EPOCHS = "reason", "epochs"
SPACE, BASE = "space", "base"  # and of a study


class TrialFailedError(Exception):
    """A training ended by a fault of its params, such as a loss that is no number."""


class Row(NamedTuple):
    """A trial for the table; `accuracy` is a fraction, of the validation images."""

    number: int
    experiment: str
    state: str
    epochs: int | None
    accuracy: float | None
    params: dict[str, Any]


def read_space(path: Path, base: Params) -> dict[str, Any]:
    """Read a search space, and check everything that a trial may draw from it.

    Args:
        path: a YAML file: for each param a range, a list of choices, or one fixed value.
        base: the params that hold where the space says nothing.

    Returns:
        What the file holds.

    Raises:
        UserError: names the key, and what it may be. Of ranges the ends are tried, each with all
            choices and ends of every other key.
    """
    space = read_yaml(path)
    tried = {}
    for key, asked in space.items():
        if not isinstance(key, str) or (key != "seed" and key.count(".") != 1):
            raise UserError(f"{path}: {key!r} is not the name of a param, such as model.layers")
        tried[key] = _ends(f"{path}: {key}", asked)
        if _varies(asked) and (key in MEASURE or key.startswith("evaluate.")):
            raise UserError(
                f"{path}: {key} must be one value: it says how networks are scored, not what they"
                " learn"
            )
    if not any(_varies(asked) for asked in space.values()):
        raise UserError(f"{path}: no param varies; give one a list, or a range with low and high")
    first = {key: values[0] for key, values in tried.items()}
    chosen = [key for key, values in tried.items() if len(values) > 1]
    _check_drawn(base, first, path)
    # What the schema refuses of values together, it refuses of two.
    for keys in combinations(chosen, min(2, len(chosen))):
        for drawn in product(*(tried[key] for key in keys)):
            _check_drawn(base, first | dict(zip(keys, drawn, strict=True)), path)
    return space


def _varies(asked: Any) -> bool:
    return isinstance(asked, list | dict)


def _ends(place: str, asked: Any) -> list[Any]:
    """The choices, the ends of a range, or the one value.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(asked, list):
        texts = [json.dumps(choice) for choice in asked]
        if not 0 < len(asked) <= MOST_CHOICES or len(set(texts)) < len(texts):
            raise UserError(f"{place} must list 1 to {MOST_CHOICES} choices, each once")
        return asked
    if not isinstance(asked, dict):
        return [asked]
    numbers = {name: asked.get(name) for name in ("low", "high", "step") if name in asked}
    if set(asked) - RANGE_KEYS or not {"low", "high"} <= set(asked):
        raise UserError(f"{place} is no range; it must hold low and high, and perhaps step or log")
    for name, value in numbers.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise UserError(f"{place}: {name} is {value!r}; it must be a number")
    low, high, step = asked["low"], asked["high"], asked.get("step")
    log = asked.get("log", False)
    if low >= high:
        raise UserError(f"{place}: low is {low}; it must be less than high, which is {high}")
    if not isinstance(log, bool):
        raise UserError(f"{place}: log is {log!r}; it must be true or false")
    if log and (low <= 0 or step is not None):
        raise UserError(f"{place}: with log, low must be above 0, and there can be no step")
    if step is not None:
        count = (high - low) / step if step > 0 else 0.5
        if not math.isclose(count, round(count), abs_tol=1e-9):
            raise UserError(f"{place}: from low to high must be a whole number of steps above 0")
    return [low, high]


def _check_drawn(base: Params, drawn: dict[str, Any], path: Path) -> None:
    """Refuse what no training can have, by the schema and by the images."""
    settings = check(laid_over(base, drawn), path)
    known = datasets.CATALOGUE.get(settings.data.name)
    try:
        if known is not None:
            shape, count = known.shape, known.counts[0]
            limits.check(settings, shape, len(known.classes), count)
            held = float(limits.check_val_size(settings.data.val_size, count))
        else:
            held = settings.data.val_size  # of a person's own pictures, whose number is not known
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not held:
        raise UserError(
            f"data.val_size is {settings.data.val_size:g}, which leaves no validation images to"
            " choose by; it must be larger"
        )


def laid_over(base: Params, drawn: dict[str, Any]) -> dict[str, Any]:
    """The params as sections, with some of their values replaced, by keys such as `model.width`."""
    values: dict[str, Any] = base.model_dump()
    for key, value in drawn.items():
        section, _, name = key.rpartition(".")
        if section:
            values.setdefault(section, {})[name] = value
        else:
            values[name] = value
    return values


def propose(trial: optuna.Trial, space: dict[str, Any], base: Params) -> dict[str, Any]:
    """What Optuna proposes for each param that varies, as it keeps it."""
    values = _flat(base)
    for key, asked in space.items():
        if isinstance(asked, list):
            trial.suggest_categorical(key, [_named(choice) for choice in asked])
        elif isinstance(asked, dict):
            low, high, log = asked["low"], asked["high"], asked.get("log", False)
            if isinstance(values[key], float):  # also where the ends are written as 0 and 1
                trial.suggest_float(key, low, high, log=log, step=asked.get("step"))
            else:
                trial.suggest_int(key, low, high, log=log, step=asked.get("step", 1))
    return trial.params


def _flat(base: Params) -> dict[str, Any]:
    """Like `striate.params.flatten`, but 1.0 stays a number with a fraction."""
    sections = base.model_dump()
    flat = {"seed": sections.pop("seed")}
    return flat | {f"{name}.{k}": v for name, keys in sections.items() for k, v in keys.items()}


def _named(choice: Any) -> Any:
    """A choice as Optuna stores it, which knows no lists."""
    return json.dumps(choice) if isinstance(choice, list) else choice


def values_of(proposed: dict[str, Any], space: dict[str, Any]) -> dict[str, Any]:
    """The params that a trial sets: what was proposed, in few digits, and what is fixed."""
    found = {}
    for key, asked in space.items():
        if isinstance(asked, list):
            found[key] = next(c for c in asked if _named(c) == proposed[key])
        elif isinstance(asked, dict):
            value = proposed[key]
            if isinstance(value, float):
                value = min(max(float(f"{value:.{DIGITS}g}"), asked["low"]), asked["high"])
            found[key] = value
        else:
            found[key] = asked
    return found


def default_storage(root: Path) -> str:
    """A database beside MLflow's: it cannot be made anew from DVC's files, so it is no scratch."""
    return f"sqlite:///{root / 'tune.db'}"


def shown(storage: str) -> str:
    """The address of a storage without what it says of users and passwords."""
    from sqlalchemy.engine import make_url

    url = make_url(storage)
    host = f"{url.host}{f':{url.port}' if url.port else ''}" if url.host else ""
    return f"{url.drivername}://{host}/{url.database or ''}"


@contextmanager
def reachable(storage: str) -> Iterator[None]:
    """Turn a failure of the storage into a `UserError` that holds no password."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        url = make_url(storage)
        if "@" in (url.host or ""):
            raise ValueError("a part of the password")
        shown(storage)
    except (SQLAlchemyError, ValueError):
        # What is wrong with it may be a password that is not quoted.
        raise UserError(
            "the storage must be an address such as sqlite:///tune.db or"
            " postgresql://USER:PASSWORD@HOST/DATABASE, with %40 for an @ in a password"
        ) from None
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError, AssertionError) as error:
        # Optuna asserts that it can keep how a trial ended.
        failure = error.__context__ if isinstance(error, AssertionError) else error
        if not isinstance(failure, SQLAlchemyError | StorageInternalError | ImportError):
            raise
        cause = failure.__cause__ if isinstance(failure.__cause__, Exception) else failure
        said = results.one_line(getattr(cause, "orig", None) or cause)
        password = str(url.password or "")
        options = [value for values in url.normalized_query.values() for value in values]
        for secret in (storage, password, quote(password, safe=""), *options):
            said = said.replace(secret, "***") if secret else said
        raise UserError(f"the studies in {shown(storage)} cannot be used: {said}") from None


def open_study(name: str, storage: str, root: Path) -> optuna.Study:
    """A study in its database, both of which are made where they are missing."""
    import optuna
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    # The driver that is installed need not be the one that SQLAlchemy takes by itself.
    storage = re.sub("^postgres(ql)?://", "postgresql+psycopg2://", storage)
    # SQLite has one writer at a time, and a connection to a server may have been closed meanwhile.
    local = storage.startswith("sqlite")
    options: dict[str, Any] = (
        {"connect_args": {"timeout": 60}} if local else {"pool_pre_ping": True}
    )
    # Two processes that create one SQLite database at once leave it broken; of two machines that
    # create the tables of a server's, one is refused.
    for left in (2, 1, 0):
        try:
            with _alone(root):
                return optuna.create_study(
                    study_name=name,
                    direction="maximize",
                    load_if_exists=True,
                    storage=optuna.storages.RDBStorage(
                        storage.replace("{", "{{").replace("}", "}}"),
                        engine_kwargs=options,
                        heartbeat_interval=BEAT_SECONDS,
                        grace_period=SILENT_SECONDS,
                        heartbeat_stale_trial_callback=try_again,
                    ),
                    pruner=pruner(),
                )
        except (IntegrityError, ProgrammingError):
            if not left:
                raise
            time.sleep(1)
    raise AssertionError


def _alone(root: Path) -> FileLock:
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def agree(study: optuna.Study, space: dict[str, Any], base: Params) -> None:
    """Give a new study its space and its params, or compare them with those that it has.

    Raises:
        UserError: they differ, so that its trials would not be comparable.
    """
    ours: dict[str, dict[str, Any]] = {BASE: _flat(base), SPACE: space}
    for key, values in ours.items():
        if key not in study.user_attrs:
            study.set_user_attr(key, values)
        theirs = study.user_attrs[key]
        for name in [*values, *theirs]:
            if values.get(name) != theirs.get(name) and not (key == BASE and name in space):
                raise UserError(
                    f"study {study.study_name} was begun with {name} {theirs.get(name, 'not set')},"
                    f" which is now {values.get(name, 'not set')}; put it back, or begin another"
                    " study: --study NAME"
                )


def base_of(study: optuna.Study) -> Params:
    """The params that hold where the space of a study says nothing."""
    sections: dict[str, Any] = {}
    for key, value in study.user_attrs[BASE].items():
        section, _, name = key.rpartition(".")
        if section:
            sections.setdefault(section, {})[name] = value
        else:
            sections[name] = value
    return check(sections, f"study {study.study_name}")


def sampler_of(kind: str, seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of that name, which draws anew for each trial, by the number that it has.

    So a study that was stopped goes on as if it had not been, and no two workers draw the same.
    """
    import optuna

    class Numbered(optuna.samplers.BaseSampler):
        def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
            drawn = random.Random(f"{seed} {trial.number}").randrange(2**32)  # noqa: S311
            self.own: optuna.samplers.BaseSampler = (
                optuna.samplers.RandomSampler(drawn)
                if kind == "random"
                else optuna.samplers.TPESampler(seed=drawn, n_startup_trials=STARTUP_TRIALS)
            )
            self.own.before_trial(study, trial)

        def infer_relative_search_space(self, *arguments: Any) -> Any:
            return self.own.infer_relative_search_space(*arguments)

        def sample_relative(self, *arguments: Any) -> Any:
            return self.own.sample_relative(*arguments)

        def sample_independent(self, *arguments: Any) -> Any:
            return self.own.sample_independent(*arguments)

    return Numbered()


def pruner() -> optuna.pruners.BasePruner:
    """What cuts a trial: after some epoch, it was never as good as half of the others were there.

    Methods that give few epochs to many trials (Hyperband) need more epochs to divide than the five
    that are usual here.
    """
    import optuna

    return optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=FIRST_JUDGED)


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that were trained to the end, or cut because others were better."""
    return [trial for trial in trials if is_finished(trial)]


def is_finished(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards those that are asked for."""
    return trial.state.name in ("COMPLETE", "PRUNED")


def try_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put a trial whose worker was ended in line once more, with the same params and name."""
    import optuna

    kept = (EXPERIMENT, TRAINING)
    trial.user_attrs = {key: trial.user_attrs[key] for key in kept if key in trial.user_attrs}
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=MOST_TRIES - 1)
    retry(study, trial)


def bury(study: optuna.Study) -> None:
    """Fail the trials of workers that are gone, and put them in line again.

    Those of this machine are known at once, those of others by their silence.
    """
    import optuna

    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        worker = trial.user_attrs.get(PROCESS)
        since = datetime.now() - (trial.datetime_start or datetime.now())
        # One that was killed before it said who it is has drawn nothing worth keeping.
        nameless = worker is None and since > timedelta(seconds=SILENT_SECONDS)
        if nameless or (worker is not None and is_gone(worker)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if worker is not None:
                try_again(study, trial)


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
        self._lock = _alone(root)
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
                if done + _running(trials) < self.count:
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
        if len(finished(trials)) + _running(ahead) >= self.count:
            # A worker elsewhere has begun the last one at the same moment.
            raise TrialFailedError
        name = trial.user_attrs.get(EXPERIMENT)
        if name is None:
            name = free_name(self.root, f"{self.study.study_name}-{trial.number}")
            trial.set_user_attr(EXPERIMENT, name)
        self._lock.release(force=True)
        twins = [other.number for other in ahead if other.params == trial.params]
        while _running([self.study.get_trials(deepcopy=False)[number] for number in twins]):
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
            cut, status, said = None, 0, ""
            with Experiment(self.root, name, arguments, self.threads) as experiment:
                for message in experiment.messages():
                    if "training" in message:
                        trial.set_user_attr(TRAINING, message["training"])
                    elif "epoch" in message and cut is None:
                        epoch = message["epoch"]
                        trial.report(message["val_accuracy"], epoch)
                        trial.set_user_attr(EPOCHS, epoch)
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


def _running(trials: Sequence[FrozenTrial]) -> int:
    return sum(trial.state.name == "RUNNING" for trial in trials)


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
    found = results.check_metrics(results.parse_json(text, called), called, "train.json")
    if "val_accuracy" not in found:
        raise UserError(f"{called} holds no val_accuracy; data.val_size must be larger than 0")
    return found


def forget(root: Path, attributes: Sequence[dict[str, Any]]) -> None:
    """Remove the saved states of trainings that nobody will take up again."""
    for one in attributes:
        if TRAINING in one:
            for ending in (".state", DONE):
                Path(root, STATES, one[TRAINING] + ending).unlink(missing_ok=True)


def rows(study: optuna.Study) -> list[Row]:
    """The trials for a table, best first; those that were put in line again come last."""
    space = study.user_attrs[SPACE]
    found = []
    for trial in study.get_trials(deepcopy=False):
        done = is_finished(trial)
        if not done and REASON not in trial.user_attrs:
            continue  # its worker was ended, and another trial has its name
        state = {"COMPLETE": "complete", "PRUNED": "cut"}.get(trial.state.name, "failed")
        drawn = values_of(trial.params, space)
        varied = {key: drawn[key] for key, asked in space.items() if _varies(asked)}
        found.append(
            Row(trial.number, trial.user_attrs[EXPERIMENT], state, trial.user_attrs.get(EPOCHS),
                trial.value if done else None, varied)
        )  # fmt: skip
    order = ("complete", "cut", "failed")
    return sorted(found, key=lambda row: (order.index(row.state), -(row.accuracy or 0), row.number))


def table(found: Sequence[Row]) -> list[list[str]]:
    """The cells of the trials, under a heading."""
    keys = list(found[0].params) if found else []
    short = [key.rpartition(".")[2] for key in keys]
    names = [key if short.count(one) > 1 else one for key, one in zip(keys, short, strict=True)]
    head = ["trial", "experiment", "state", "epochs", "validation accuracy", *names]
    cells = [
        [
            str(row.number), row.experiment, row.state,
            "–" if row.epochs is None else str(row.epochs),
            "–" if row.accuracy is None else f"{row.accuracy:.2%}",
            *(json.dumps(value).strip('"') for value in row.params.values()),
        ]
        for row in found
    ]  # fmt: skip
    return [head, *cells]


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
    threads = max(1, _cores() // workers)
    deaths = known = 0
    with tempfile.TemporaryDirectory() as scratch:
        team: dict[int, subprocess.Popen[bytes]] = {}

        def start(index: int) -> None:
            with Path(scratch, str(index)).open("wb") as sink:
                team[index] = subprocess.Popen(
                    [sys.executable, "-m", "striate.tuning", study.study_name, str(count), sampler,
                     str(threads)],
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


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
