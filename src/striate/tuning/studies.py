"""The study of a search: its database, its trials, and what becomes of those that nobody runs."""

from __future__ import annotations

import json
import logging
import random
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from filelock import FileLock

from striate.config.params import Params, check
from striate.errors import UserError, one_line
from striate.tracking.background import is_gone
from striate.tracking.mlflow_store import address, with_driver
from striate.training.states import STATES
from striate.tuning.search_space import flat, nested, values_of, varies

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

LOCK = STATES / "tuning.lock"
SAMPLERS = ("tpe", "random")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")

STARTUP_TRIALS = 10  # that are drawn at random before any is proposed, and finish before any is cut
FIRST_JUDGED = 2  # epoch; after the first one, the order is mostly that of the learning rates
BEAT_SECONDS, SILENT_SECONDS = 20, 120  # a worker elsewhere that is silent for so long is dead
MOST_TRIES = 4  # of a trial whose workers are killed

# User attributes of a trial.
EXPERIMENT, TRAINING, PROCESS = "experiment", "training", "process"
REASON, EPOCHS = "reason", "epochs"
SPACE, BASE = "space", "base"  # and of a study


class Row(NamedTuple):
    """A trial for the table; `accuracy` is a fraction, of the validation images."""

    number: int
    experiment: str
    state: str
    epochs: int | None
    accuracy: float | None
    params: dict[str, Any]


def default_storage(root: Path) -> str:
    """A database beside MLflow's: it cannot be made anew from DVC's files, so it is no scratch."""
    return address(root / "tune.db")


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
        if url.drivername.partition("+")[0] not in ("sqlite", "postgresql", "postgres"):
            raise ValueError("nothing that studies are tried with")
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
        said = one_line(getattr(cause, "orig", None) or cause)
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
    storage = with_driver(storage)
    # SQLite has one writer at a time, and a connection to a server may have been closed meanwhile.
    local = storage.startswith("sqlite")
    options: dict[str, Any] = (
        {"connect_args": {"timeout": 60}} if local else {"pool_pre_ping": True}
    )
    # Two processes that create one SQLite database at once leave it broken; of two machines that
    # create the tables of a server's, one is refused.
    for left in (2, 1, 0):
        try:
            with alone(root):
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


def alone(root: Path) -> FileLock:
    """A lock among the workers of this machine."""
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def agree(study: optuna.Study, space: dict[str, Any], base: Params) -> None:
    """Give a new study its space and its params, or compare them with those that it has.

    Raises:
        UserError: they differ, so that its trials would not be comparable.
    """
    ours: dict[str, dict[str, Any]] = {BASE: flat(base), SPACE: space}
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
    return check(nested(study.user_attrs[BASE], {}), f"study {study.study_name}")


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


def running(trials: Sequence[FrozenTrial]) -> int:
    """How many of the trials go on."""
    return sum(trial.state.name == "RUNNING" for trial in trials)


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
        varied = {key: drawn[key] for key, asked in space.items() if varies(asked)}
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
