"""Repeat a setting with other seeds: each one an experiment of DVC, several side by side."""

from __future__ import annotations

import compileall
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock

from striate.config import params, recipes
from striate.config.params import Params
from striate.config.yaml_loader import Loader
from striate.console import waiting
from striate.data import files
from striate.data.json_csv import read_json
from striate.data.processors import cores
from striate.errors import UserError
from striate.models import portable
from striate.pipeline import preloaded
from striate.pipeline.dvc_runner import Experiment
from striate.pipeline.experiments import commit_of_experiment, error_line, free_name, ignored_inputs
from striate.tracking import groups, records
from striate.tracking.commits import MANIFEST
from striate.tracking.groups import Group
from striate.tracking.mlflow_store import run_name
from striate.tracking.records import Record

LOCK = ".dvc/tmp/striate-repeat.lock"
SEED_SUFFIX = re.compile(r"-seed\d+$")
NOT_IN_A_NAME = re.compile(r"([^A-Za-z0-9_.]|\.{2,})+")
MOST_CHARACTERS = 100  # of a name, before the seed
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # exit statuses, the second of a shell's kind
OVERLAP = 3  # experiments on each core, where data are small
NVIDIA = Path("/dev/nvidiactl")
PRELOADED_FROM = 2  # experiments; for a single one, loading the packages first saves nothing


class Setting(NamedTuple):
    """Params whose seed varies.

    Attributes:
        name: begins the names of its experiments.
        params: all of params.yaml, in sections.
    """

    name: str
    params: dict[str, Any]

    @property
    def checked(self) -> Params:
        """The params, checked against the schema."""
        return params.check(self.params, self.name)

    @property
    def flat(self) -> dict[str, Any]:
        """The params by dotted key, without the seed."""
        flat = params.flatten(self.checked.model_dump())
        return {key: value for key, value in flat.items() if key != "seed"}


class Job(NamedTuple):
    """An experiment to run: a setting with a seed."""

    setting: Setting
    seed: int
    name: str


class Failure(NamedTuple):
    """An experiment that DVC could not run, and why."""

    name: str
    reason: str


def setting(root: Path, name: str, overrides: Sequence[str]) -> Setting:
    """What `striate repeat NAME -S KEY=VALUE …` is to repeat.

    Args:
        root: the repository.
        name: `workspace` for params.yaml as it is; an experiment, a branch, tag or commit, whose
            params count; or a recipe.
        overrides: `key=value`, as `dvc exp run -S` takes them.

    Raises:
        UserError: there is nothing of that name, or a value is faulty.
    """
    here = params.load(root / "params.yaml").model_dump()
    is_workspace = name == records.WORKSPACE
    base = here if is_workspace else _params_of(root, name, here)
    sections = params.nested(parsed(overrides), base)
    params.check(sections, "params.yaml" if is_workspace else name)
    shown = run_name(params.flatten(sections)) if is_workspace else name
    changes = [re.sub(r"^[^=]*\.", "", word) for word in overrides]  # keys without their sections
    shown = NOT_IN_A_NAME.sub("-", "-".join([SEED_SUFFIX.sub("", shown), *changes]))
    return Setting(shown.strip("-.")[:MOST_CHARACTERS] or "repeat", sections)


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Wait for another `striate repeat` of this repository: it may make the same experiments."""
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    with waiting("waiting for another `striate repeat`"):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _params_of(root: Path, name: str, here: dict[str, Any]) -> dict[str, Any]:
    """The params of an experiment or a recipe; what it lacks is as in params.yaml."""
    try:
        return params.nested(records.named(root, name, needed=()).params, here)
    except UserError as error:
        if recipes.exists(name):
            return params.nested(params.flatten(recipes.read(name)), here)
        known = ", ".join(recipes.names()) if (root / recipes.FOLDER).is_dir() else "none"
        raise UserError(f"{error}; recipes: {known}") from None


def parsed(overrides: Sequence[str]) -> dict[str, Any]:
    """The values by dotted key of `key=value`, as `dvc exp run -S` takes them.

    Raises:
        UserError: one is not of that form, or is the seed.
    """
    found = {}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"-S takes KEY=VALUE, such as model.layers=3, not {word!r:.60}")
        try:
            found[key] = yaml.load(text, Loader)  # noqa: S506 - a safe one
        except yaml.YAMLError:
            raise UserError(f"-S {key}: {text!r:.60} is not a value of YAML") from None
    if "seed" in found:
        raise UserError("seed is what varies; --seeds says how many there are to be")
    return found


def members(root: Path, wanted: Setting, found: Iterable[Record]) -> Group | None:
    """The group of a setting and of the code in the working tree, if it has experiments.

    Results that only the working tree has do not count: the next run would remove them.
    """
    kept = [record for record in found if any(name.commit for name in record.names)]
    equal, _ = _by_code(root, wanted, kept)
    if not equal:
        return None
    # Data of equal params may have changed: those in the working tree count, if it has some.
    data = _hash(root / MANIFEST)
    same = [record for record in equal if record.identity[records.DATA] == data]
    return groups.of((same or equal)[-1], equal)


def of_other_code(root: Path, wanted: Setting, found: Iterable[Record]) -> int:
    """How many experiments have these params and were made by other code than is here."""
    return len(_by_code(root, wanted, found)[1])


def _by_code(
    root: Path, wanted: Setting, found: Iterable[Record]
) -> tuple[list[Record], list[Record]]:
    """The experiments that differ in the seed at most: of the code that is here, and of other."""
    flat, here = wanted.flat, cache(lambda path: _hash(root / path))
    both: tuple[list[Record], list[Record]] = ([], [])
    for record in found:
        if {key: value for key, value in record.params.items() if key != "seed"} == flat:
            codes = [groups.code(hashes) for hashes in (record.hashes, *record.twins)]
            equal = any(all(here(path) == one[path] for path in one) for one in codes)
            both[not equal].append(record)
    return both


def _hash(path: Path) -> str:
    return files.md5(path) if path.exists() else ""


def missing(group: Group | None, own: int, wanted: int) -> list[int]:
    """The seeds to add until there are so many: that of the params, then 0, 1, 2 and so on."""
    have = group.seeds if group else []
    order = dict.fromkeys([own, *range(wanted + len(have) + 1)])
    return [seed for seed in order if seed not in have][: max(0, wanted - len(have))]


def jobs(root: Path, wanted: Setting, new: Sequence[int]) -> list[Job]:
    """The experiments of some seeds, with names that are free."""
    return [Job(wanted, seed, free_name(root, f"{wanted.name}-seed{seed}")) for seed in new]


def run(
    root: Path,
    queue: Sequence[Job],
    workers: int | None,
    variables: Mapping[str, str],
    report: Callable[[str, dict[str, Any]], None],
) -> list[Failure]:
    """Run experiments side by side, each in a copy of the repository.

    Args:
        root: the repository.
        queue: the experiments, of settings that are computed alike.
        workers: how many run at once; None for one on each core, or one on a GPU.
        variables: of the environment.
        report: is called, from several threads, with the name of an experiment and each message
            of its training, and with `{}` when it begins.

    Returns:
        Those that failed.

    Raises:
        KeyboardInterrupt: all were stopped, and can be resumed.
    """
    if not queue:
        return []
    # The stages of all experiments load it; the environment may forbid Python to keep it.
    compileall.compile_dir(root / "src", quiet=2)
    settings = queue[0].setting.checked
    limited = _is_portable(root, settings)
    workers = min(len(queue), workers or _workers(settings, limited))
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // workers))
    arithmetic = portable.VARIABLES if limited else {"OMP_NUM_THREADS": threads}
    environment = arithmetic | dict(variables)
    alone = len(queue) < PRELOADED_FROM
    with nullcontext(environment) if alone else preloaded.python(environment) as ready:
        return _run_all(root, queue, workers, ready, report)


def _is_portable(root: Path, settings: Params) -> bool:
    """Whether the trainings will want portable arithmetic, as far as is known before `download`."""
    try:
        known = read_json(root / MANIFEST).get("name") == settings.data.name != "folder"
    except (UserError, AttributeError):
        known = False
    folder = root / "data" if known else root / "no-data"
    return portable.is_wanted(settings.training, folder)


def _workers(settings: Params, limited: bool) -> int:
    """One on each core, or one where they would share a GPU; more of those with small data.

    These train for a second and wait for DVC and the disk; a few more leave no core idle.
    """
    if limited:
        return OVERLAP * cores()
    return 1 if settings.training.device != "cpu" and NVIDIA.exists() else cores()


def _run_all(
    root: Path,
    queue: Sequence[Job],
    workers: int,
    environment: Mapping[str, str],
    report: Callable[[str, dict[str, Any]], None],
) -> list[Failure]:
    stopping = threading.Event()
    running: dict[str, Experiment] = {}

    def work(job: Job) -> Failure | None:
        if stopping.is_set():
            return None
        sections = job.setting.params | {"seed": job.seed}
        copied = ignored_inputs(root, job.setting.checked)
        last: dict[str, Any] = {}
        report(job.name, {})
        with Experiment(root, job.name, recipes.arguments(sections), copied, environment) as one:
            running[job.name] = one
            if stopping.is_set():
                one.stop()
            for last in one.messages():
                if "status" not in last or not stopping.is_set():
                    report(job.name, last)
        del running[job.name]
        if stopping.is_set() or commit_of_experiment(root, job.name):
            return None
        return Failure(job.name, _reason(last))

    with ThreadPoolExecutor(workers) as pool:
        try:
            return [failed for failed in pool.map(work, queue) if failed]
        except BaseException:
            stopping.set()
            for one in list(running.values()):
                one.stop()
            raise


def _reason(last: dict[str, Any]) -> str:
    """Why an experiment failed, from its last message."""
    status = last.get("status", -signal.SIGKILL)  # of a runner that was killed, there is none
    return "it was killed" if status in KILLED else error_line(last["output"])
