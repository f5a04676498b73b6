"""Run experiments."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from striate.cli import workspace
from striate.cli.table import a_path, argument, command, number
from striate.console import waiting
from striate.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from optuna import Study

    from striate.pipeline.repeat import Failure, Job
    from striate.tracking.groups import Group
    from striate.tracking.times import Heard
    from striate.tuning.confirm import Candidate


@command(
    argument(
        "path", metavar="PATH", nargs="?", type=a_path, values="file",
        help="a folder or an archive of images (default: data.path of params.yaml)",
    ),
    argument(
        "--to", metavar="FILE", type=a_path, values="file", default=Path("reports/data.html"),
        help="where to write the page",
    ),
)  # fmt: skip
def data(path: Path | None, to: Path) -> None:
    """Look at a folder of images before a training.

    Counts images by class and part, and finds unreadable files, images that are nearly equal
    within a part, between parts or in two classes, unequal classes and several sizes. Reads every
    file and changes none. Exit status 1 if one cannot be read.

    Example: striate data images
    """
    workspace.check_name("--to", to, "data.html")
    workspace.output_folder(to.parent)
    from striate.analysis import data_page
    from striate.config import params
    from striate.console import columns
    from striate.datasets import layouts, survey

    path = path or Path(params.load().data.path)
    with tempfile.TemporaryDirectory() as scratch, layouts.opened(path, Path(scratch)) as layout:
        seen = survey.look(layout)
        pairs = survey.near_duplicates(seen)
        found = data_page.findings(layout, seen, pairs)
        data_page.write(layout, seen, pairs, found, to)
    print(columns(data_page.counts(layout, seen)), "", columns(data_page.sizes(seen)), "", sep="\n")
    print(*data_page.lines(found), f"\nwith images: {to}", sep="\n")
    if any(one.error for one in seen):
        sys.exit(1)


@command(
    argument("name", metavar="NAME", nargs="?", values="recipes", help="without it, list all"),
)
def recipe(name: str | None) -> None:
    """Print a recipe as arguments for `dvc exp run`.

    Use it as `dvc exp run $(striate recipe NAME)`. A rung of the ladder has settings for several
    data sets: ladder/resnet/mnist.

    Example: striate recipe mnist-99
    """
    from striate.config import recipes

    if name is None:
        for known, description in recipes.names().items():
            print(f"{known}\n  {description}")
        return
    try:
        params = recipes.read(name)
    except UserError:
        # In `dvc exp run $(striate recipe NAME)` nothing sees this command's status; without an
        # argument that DVC refuses, it would run the workspace as it is.
        print("--no-such-recipe")
        raise
    print(*recipes.arguments(params))


@command(
    argument(
        "source", metavar="SOURCE", values="sources",
        help="an experiment, branch, commit or folder, models:/NAME@ALIAS, or timm:NAME for"
        " published weights",
    ),
    argument(
        "--to", metavar="FOLDER", type=a_path, values="directory",
        help="where to copy them (default: weights/NAME)",
    ),
    argument(
        "--from", metavar="FILE", type=a_path, values="file", dest="file",
        help="read those of timm:NAME from a .safetensors or .pth file, not from the Hugging Face"
        " Hub",
    ),
)  # fmt: skip
def fetch(source: str, to: Path | None, file: Path | None) -> None:
    """Copy trained weights here to start a training from.

    Prints their folder: `dvc exp run -S training.init_from=$(striate fetch mnist)`.

    Example: striate fetch mnist
    """
    with waiting("loading PyTorch"):
        from striate.serving import sources

    if file and not source.startswith("timm:"):
        raise UserError(f"--from goes with timm:NAME only, not with {source}")
    target = to or sources.default_folder(source)
    try:
        with waiting(f"reading the network of {source}"):
            sources.keep(source, target, file)
    except (UserError, OSError):
        # In `dvc exp run -S training.init_from=$(striate fetch …)` nothing sees this command's
        # status, and an empty value is an internal error to DVC.
        print("weights/no-such-network")
        raise
    print(target)


SETTING = argument(
    "name", metavar="NAME", nargs="?", values="experiments", default="workspace",
    help="an experiment, branch, tag or commit, a recipe, or `workspace`: params.yaml as it is",
)  # fmt: skip
WORKERS = argument(
    "--workers", metavar="N", type=number(1, 1024),
    help="experiments that run at once (one on each core, or one on a GPU)",
)  # fmt: skip
MOST_ROUNDS = 2  # of `repeat`: the first may find other data, of which the second adds the rest
CHANGED = "the new experiments are of other code or data than are there now; run it again"


@command(
    SETTING,
    argument(
        "--seeds", metavar="N", type=number(1, 10_000), default=5,
        help="how many seeds there are to be in all",
    ),
    argument(
        "-S", "--set-param", metavar="KEY=VALUE", action="append", default=None, dest="overrides",
        help="change a param; may be given several times",
    ),
    WORKERS,
)  # fmt: skip
def repeat(name: str, seeds: int, overrides: list[str] | None, workers: int | None) -> None:
    """Repeat a setting with other seeds, for a mean with its error.

    Makes the experiments that differ from NAME in `seed` alone until there are N seeds; existing
    ones count. Shows the mean, standard deviation and interval. The same command resumes or adds.

    Example: striate repeat main --seeds 5
    """
    root = workspace.repository()
    from striate.analysis import seeds as analysis
    from striate.pipeline import repeat
    from striate.tracking import records

    wanted = repeat.setting(root, name, overrides or [])
    failures: list[repeat.Failure] = []
    _mend_table(root)
    with repeat.alone(root), runner(root, workers) as run:
        for round_ in count():
            found = records.find(root).records
            group = repeat.members(root, wanted, found)
            new = repeat.missing(group, int(wanted.params["seed"]), seeds)
            if not new or failures:
                break
            if round_ == MOST_ROUNDS:
                raise UserError(CHANGED)
            others = repeat.of_other_code(root, wanted, found)
            if others and not round_:
                workspace.note(
                    f"{others} of these params were made by other code than is here, and do not"
                    " count"
                )
            have = f"{seeds - len(new)} of {seeds} seeds are there"
            print(f"{wanted.name}: {have}, {len(new)} to run", flush=True)
            failures = run(repeat.jobs(root, wanted, new))
    if group is None:
        raise UserError(_failed(failures))
    print()
    print(analysis.text(group))
    _keep_seeds(root, group, name == records.WORKSPACE)
    if failures:
        raise UserError(f"{_failed(failures)}; the mean is over the seeds that did not fail")


@contextmanager
def runner(
    root: Path, workers: int | None, heard: Heard | None = None
) -> Iterator[Callable[[Sequence[Job]], list[Failure]]]:
    """A function that runs experiments, says how they do, and logs all of them to MLflow.

    It raises a KeyboardInterrupt that says that the command can be resumed.

    Args:
        root: the repository.
        workers: how many experiments run at once; None for one on each core, or one on a GPU.
        heard: takes note of the times of the trainings.
    """
    import threading

    from striate.pipeline import repeat
    from striate.tracking import logger
    from striate.tracking.trackers import _relay, mlflow

    names = logger.switched_on()
    relayed = [logger.RELAY if name == logger.MLFLOW else name for name in names]
    switch = {logger.SWITCH: ",".join(relayed) or "off"}
    # One process for all experiments; it starts with the first call.
    tracker, lock = None, threading.Lock()

    def report(name: str, message: dict[str, Any]) -> None:
        nonlocal tracker
        if _relay.MESSAGE in message:
            with lock:
                tracker = tracker or mlflow.tracker(os.getpid())
            tracker.relay(name, message[_relay.MESSAGE])
            if heard:
                heard.hear(name, message[_relay.MESSAGE])
        if not message:
            said = "training"
        elif "status" in message:
            said = "finished" if message["status"] == 0 else "failed"
        else:
            return
        # In one piece: several threads report.
        print(f"{name}: {said}\n", end="", flush=True)

    try:
        yield lambda queue: repeat.run(root, queue, workers, switch, report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command resumes") from None
    finally:
        if tracker:
            tracker.close()


def _mend_table(root: Path) -> None:
    """Empty metrics/seeds.csv if it is missing or cannot be read: the stage visualize needs it."""
    from striate.reporting import seeds

    path = root / seeds.FILE
    try:
        if path.exists():
            seeds.read(path)
            return
    except UserError as error:
        workspace.note(f"{error}, now")
    seeds.write(path, [])


def _keep_seeds(root: Path, group: Group, anew: bool) -> None:
    """Add the seeds to metrics/seeds.csv if the results in the workspace are of this group.

    A table of another setting is replaced only if `anew`: it may be the committed one.
    """
    from striate.reporting import seeds
    from striate.tracking import groups, records

    try:
        here = records.named(root, records.WORKSPACE)
    except UserError:
        return  # there are no results yet
    own = groups.of(here, group.members)
    if len(own.members) != len(group.members):
        return
    kept = seeds.read(root / seeds.FILE)
    rows = {row[seeds.SEED]: row for row in seeds.of_results(kept, groups.row(here))}
    if not rows and not anew:
        return
    rows |= dict(zip(own.seeds, map(groups.row, own.members), strict=True))
    if kept != sorted(rows.values(), key=lambda row: row[seeds.SEED]):
        seeds.write(root / seeds.FILE, list(rows.values()))
        print(f"\n{seeds.FILE} holds {len(rows)} seeds now; `dvc repro` draws them in the report")


def _failed(failures: Sequence[Failure]) -> str:
    """What became of the experiments that failed."""
    reasons = dict.fromkeys(failed.reason for failed in failures)
    return f"{', '.join(failed.name for failed in failures)} failed: {'; '.join(reasons)}"


@command(
    argument(
        "--trials", metavar="N", type=number(1, 100_000), required=True,
        help="run until N trials of the study have finished",
    ),
    argument(
        "--space", metavar="FILE", type=a_path, values="file", default=Path("tune.yaml"),
        help="which params vary, and how",
    ),
    argument(
        "--study", metavar="NAME", default="tune",
        help="the study, whose name begins those of its experiments",
    ),
    argument(
        "--storage", metavar="URL",
        help="a database that several machines share, such as postgresql://USER:PASSWORD@HOST/DB"
        " (default: $STRIATE_STORAGE, or tune.db beside mlflow.db)",
    ),
    argument(
        "--workers", metavar="N", type=number(1, 1024), default=1,
        help="processes on this machine, which share its cores",
    ),
    argument(
        "--sampler", choices=("tpe", "random"), default="tpe", help="what proposes the params"
    ),
    argument(
        "--confirm", metavar="K", type=number(1, 100),
        help="then train the K best complete trials anew, with 5 fresh seeds each",
    ),
)  # fmt: skip
def tune(
    trials: int,
    space: Path,
    study: str,
    storage: str | None,
    workers: int,
    sampler: str,
    confirm: int | None,
) -> None:
    """Search for good hyperparameters.

    `--trials N` runs until N trials have finished, each as a DVC experiment. The first ten are
    random, then TPE; a median pruner stops weak ones. Trials compete by validation accuracy. The
    best of many is too high by selection: `--confirm K` gives accuracies to report. The same
    command resumes an interrupted study.

    Example: striate tune --trials 20 --workers 2 --confirm 3
    """
    root = workspace.repository()
    with waiting("loading Optuna"):
        import optuna  # noqa: F401

        from striate.config import params
        from striate.console import columns
        from striate.tuning import confirm as confirmation
        from striate.tuning import search_space, studies
        from striate.tuning.workers import STORAGE

    if not studies.NAME.fullmatch(study):
        raise UserError(
            f"--study is {study!r:.60}; it must be 1 to 61 letters, digits, and - _ . between"
            " them, as it begins the names of experiments"
        )
    base = params.load()
    varied = search_space.read(space, base)
    url = storage or os.environ.get(STORAGE) or studies.default_storage(root)
    with studies.reachable(url):
        opened = studies.open_study(study, url, root)
        studies.set_space(opened, varied, base)
        finished = _count_finished(opened)
        print(f"study {study} in {studies.masked(url)}: {finished} of {trials} trials are finished",
            flush=True)  # fmt: skip
        _run_trials(opened, url, root, trials, workers, sampler)
        rows, finished = studies.rows(opened), _count_finished(opened)
        candidates = confirmation.candidates(opened, rows, confirm or 0)
    print()
    print(columns(studies.table(rows)))
    best = rows[0].experiment if rows and rows[0].accuracy is not None else ""
    failures: list[Failure] = []
    if confirm:
        best, failures = _confirm(root, candidates, confirm, finished, workers)
    if best:
        print(f"\nto apply the best one: dvc exp apply {best}")
    _sync(root)
    if failures:
        raise UserError(_failed(failures))


def _run_trials(
    study: Study, url: str, root: Path, trials: int, workers: int, sampler: str
) -> None:
    """Run the trials that are missing.

    Raises:
        KeyboardInterrupt: somebody stopped it; says how far it came.
    """
    from striate.tuning.workers import tune as run_trials

    try:
        run_trials(study, url, root, trials, workers, sampler)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{_count_finished(study)} of {trials} trials are finished; the same command resumes"
        ) from None


def _confirm(
    root: Path, chosen: Sequence[Candidate], asked: int, finished: int, workers: int
) -> tuple[str, list[Failure]]:
    """Train the best trials with fresh seeds, and show what these say.

    Returns:
        The experiment of the best one, or an empty string; and what failed.
    """
    from striate.pipeline import repeat
    from striate.reporting.numbers import plural
    from striate.tracking import records
    from striate.tuning import confirm

    print()
    if len(chosen) < asked:
        there = plural(len(chosen), "complete trial")
        print(f"--confirm {asked}: the study has {there} of different params to confirm")
    if not chosen:
        return "", []
    wanted = confirm.SEEDS * len(chosen)
    with repeat.alone(root), runner(root, workers) as run:
        queue = confirm.missing(root, chosen, records.find(root).records)
        print(
            f"confirming {', '.join(one.row.experiment for one in chosen)}: {wanted - len(queue)}"
            f" of {plural(wanted, 'experiment')} are there, {len(queue)} to run", flush=True,
        )  # fmt: skip
        failures = run(queue) if queue else []
    confirmed = confirm.results(root, chosen, records.find(root).records)
    print()
    print(confirm.text(confirmed, finished, chosen[0].setting.params["data"]["split_seed"]))
    return next((one.row.experiment for one in confirmed if one.scores), ""), failures


def _count_finished(study: Study) -> int:
    from striate.tuning import studies

    return len(studies.finished(study.get_trials(deepcopy=False)))


def _sync(root: Path) -> None:
    """Record the trials in MLflow; a server that fails is only worth a warning."""
    from striate.tracking import logger, mlflow_store, records, sync

    found = records.find(root).records
    if not logger.enabled() or sync.is_synced(root, found):
        return
    try:
        with mlflow_store.reachable(), waiting("reading MLflow's runs"):
            sync.sync(root, mlflow_store.open_store(), found)
    except UserError as error:
        print(f"warning: {error}; `striate sync` records the rest later", file=sys.stderr)
