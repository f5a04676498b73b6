"""Optuna studies: their database, sampler and pruner, and trials whose worker is gone."""

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

from striate.config.params import Params, check, nested
from striate.errors import UserError, one_line
from striate.tracking.addresses import sqlite_address, with_driver
from striate.tracking.background import is_gone
from striate.training.resume_files import RESUME_DIR
from striate.tuning.search_space import flat, values_of, varies

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

LOCK = RESUME_DIR / "tuning.lock"
SAMPLERS = ("tpe", "random")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")

STARTUP_TRIALS = 10  # random ones, before TPE proposes any and the pruner stops any
WARMUP_EPOCHS = 2  # without pruning: at first, the ranking is mostly that of learning rates
HEARTBEAT_SECONDS, GRACE_SECONDS = 20, 120  # of workers on other machines
MAX_ATTEMPTS = 4  # at a trial whose workers are killed

# User attributes of a trial.
EXPERIMENT, TRAINING, PROCESS = "experiment", "training", "process"
REASON, EPOCHS = "reason", "epochs"
SPACE, BASE = "space", "base"  # and of a study


class Row(NamedTuple):
    """A trial in the table; `accuracy` is that on the validation set, from 0 to 1."""

    number: int
    experiment: str
    state: str
    epochs: int | None
    accuracy: float | None
    params: dict[str, Any]


def default_storage(root: Path) -> str:
    """A database beside MLflow's. Unlike that, it cannot be recreated from DVC's files."""
    return sqlite_address(root / "tune.db")


def masked(storage: str) -> str:
    """The address of a storage without user names and passwords."""
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
            raise ValueError("part of the password was parsed as the host")
        if url.drivername.partition("+")[0] not in ("sqlite", "postgresql", "postgres"):
            raise ValueError("an unsupported database")
        masked(storage)
    except (SQLAlchemyError, ValueError):
        # Do not show it: the fault may be an unquoted password.
        raise UserError(
            "the storage must be an address such as sqlite:///tune.db or"
            " postgresql://USER:PASSWORD@HOST/DATABASE, with %40 for an @ in a password"
        ) from None
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError, AssertionError) as error:
        # Optuna asserts that it can store the state of a finished trial.
        failure = error.__context__ if isinstance(error, AssertionError) else error
        if not isinstance(failure, SQLAlchemyError | StorageInternalError | ImportError):
            raise
        cause = failure.__cause__ if isinstance(failure.__cause__, Exception) else failure
        text = one_line(getattr(cause, "orig", None) or cause)
        password = str(url.password or "")
        options = [value for values in url.normalized_query.values() for value in values]
        for secret in (storage, password, quote(password, safe=""), *options):
            text = text.replace(secret, "***") if secret else text
        raise UserError(f"the studies in {masked(storage)} cannot be used: {text}") from None


def open_study(name: str, storage: str, root: Path) -> optuna.Study:
    """Open a study; create it and its database where they are missing."""
    import optuna
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    storage = with_driver(storage)
    # SQLite has one writer at a time; a server may have closed an idle connection.
    local = storage.startswith("sqlite")
    options: dict[str, Any] = (
        {"connect_args": {"timeout": 60}} if local else {"pool_pre_ping": True}
    )
    # Two processes that create one SQLite database at once leave it broken. On a server, one of two
    # machines that create the tables at once gets an error.
    for retries in (2, 1, 0):
        try:
            with worker_lock(root):
                return optuna.create_study(
                    study_name=name,
                    direction="maximize",
                    load_if_exists=True,
                    storage=optuna.storages.RDBStorage(
                        storage.replace("{", "{{").replace("}", "}}"),
                        engine_kwargs=options,
                        heartbeat_interval=HEARTBEAT_SECONDS,
                        grace_period=GRACE_SECONDS,
                        heartbeat_stale_trial_callback=retry_trial,
                    ),
                    pruner=pruner(),
                )
        except (IntegrityError, ProgrammingError):
            if not retries:
                raise
            time.sleep(1)
    raise AssertionError


def worker_lock(root: Path) -> FileLock:
    """The lock that the workers on this machine share."""
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def set_space(study: optuna.Study, space: dict[str, Any], base: Params) -> None:
    """Set the search space and the base params of a new study; check those of an existing one.

    Raises:
        UserError: they differ, so its trials would not be comparable.
    """
    given: dict[str, dict[str, Any]] = {BASE: flat(base), SPACE: space}
    for key, values in given.items():
        if key not in study.user_attrs:
            study.set_user_attr(key, values)
        stored = study.user_attrs[key]
        for name in [*values, *stored]:
            if values.get(name) != stored.get(name) and not (key == BASE and name in space):
                raise UserError(
                    f"study {study.study_name} was begun with {name} {stored.get(name, 'not set')},"
                    f" which is now {values.get(name, 'not set')}; put it back, or begin another"
                    " study: --study NAME"
                )


def base_params(study: optuna.Study) -> Params:
    """The params of a study that its search space does not set."""
    return check(nested(study.user_attrs[BASE], {}), f"study {study.study_name}")


def make_sampler(kind: str, seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of that name, seeded anew for each trial with the trial's number.

    A resumed study then proposes what an uninterrupted one would, and no two workers the same.
    """
    import optuna

    class SeededPerTrial(optuna.samplers.BaseSampler):
        def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
            trial_seed = random.Random(f"{seed} {trial.number}").randrange(2**32)  # noqa: S311
            self.inner: optuna.samplers.BaseSampler = (
                optuna.samplers.RandomSampler(trial_seed)
                if kind == "random"
                else optuna.samplers.TPESampler(seed=trial_seed, n_startup_trials=STARTUP_TRIALS)
            )
            self.inner.before_trial(study, trial)

        def infer_relative_search_space(self, *arguments: Any) -> Any:
            return self.inner.infer_relative_search_space(*arguments)

        def sample_relative(self, *arguments: Any) -> Any:
            return self.inner.sample_relative(*arguments)

        def sample_independent(self, *arguments: Any) -> Any:
            return self.inner.sample_independent(*arguments)

    return SeededPerTrial()


def pruner() -> optuna.pruners.BasePruner:
    """The median pruner: stops a trial whose best accuracy is below the median at some epoch.

    Hyperband, which gives few epochs to many trials, needs more epochs than the five that are usual
    here.
    """
    import optuna

    return optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=WARMUP_EPOCHS)


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that were trained to the end or pruned."""
    return [trial for trial in trials if is_finished(trial)]


def is_finished(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards `--trials`."""
    return trial.state.name in ("COMPLETE", "PRUNED")


def running(trials: Sequence[FrozenTrial]) -> int:
    """How many trials are running."""
    return sum(trial.state.name == "RUNNING" for trial in trials)


def retry_trial(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue a trial whose worker was stopped again, with the same params and name."""
    import optuna

    kept = (EXPERIMENT, TRAINING)
    trial.user_attrs = {key: trial.user_attrs[key] for key in kept if key in trial.user_attrs}
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=MAX_ATTEMPTS - 1)
    retry(study, trial)


def fail_stale_trials(study: optuna.Study) -> None:
    """Fail the trials of workers that are gone, and enqueue them again.

    On this machine, a dead worker is noticed at once; on others, when its heartbeat stops.
    """
    import optuna

    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        worker = trial.user_attrs.get(PROCESS)
        since = datetime.now() - (trial.datetime_start or datetime.now())
        # A worker that was killed before it set PROCESS has drawn no params worth keeping.
        anonymous = worker is None and since > timedelta(seconds=GRACE_SECONDS)
        if anonymous or (worker is not None and is_gone(worker)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if worker is not None:
                retry_trial(study, trial)


def rows(study: optuna.Study) -> list[Row]:
    """The finished and failed trials, best first."""
    space = study.user_attrs[SPACE]
    found = []
    for trial in study.get_trials(deepcopy=False):
        done = is_finished(trial)
        if not done and REASON not in trial.user_attrs:
            continue  # its worker was stopped; it was enqueued again under the same name
        state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed")
        drawn = values_of(trial.params, space)
        varied = {key: drawn[key] for key, entry in space.items() if varies(entry)}
        found.append(
            Row(trial.number, trial.user_attrs[EXPERIMENT], state, trial.user_attrs.get(EPOCHS),
                trial.value if done else None, varied)
        )  # fmt: skip
    order = ("complete", "pruned", "failed")
    return sorted(found, key=lambda row: (order.index(row.state), -(row.accuracy or 0), row.number))


def table(found: Sequence[Row]) -> list[list[str]]:
    """The cells of a table of trials, headings first."""
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
