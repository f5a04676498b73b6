"""Measure networks and recipes."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from striate.cli import workspace
from striate.cli.run import SETTING, WORKERS, runner
from striate.cli.table import a_path, argument, command, number
from striate.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from striate.config.ablation import Change
    from striate.config.params import Params
    from striate.pipeline.repeat import Setting
    from striate.pipeline.several import Measured
    from striate.tracking.times import Heard, Timing

PARAM = argument(
    "-S", "--set-param", metavar="KEY=VALUE", action="append", default=None, dest="overrides",
    help="set a param in all of them; may be given several times",
)  # fmt: skip
DRY_RUN = argument(
    "--dry-run", dest="dry_run", action="store_true", help="say what would run, and run nothing"
)
MOST_CHARACTERS = 60  # of a recipe, in the names of experiments


@command(
    argument("data", metavar="DATA", nargs="?", default="digits", help="the data set"),
    argument(
        "--seeds", metavar="N", type=number(2, 10_000), default=5, help="seeds of each network"
    ),
    PARAM,
    argument(
        "--workers", metavar="N", type=number(1, 1024), default=1,
        help="experiments that run at once; more of them take longer each",
    ),
    argument(
        "--to", metavar="FOLDER", type=a_path, values="directory", default=Path("reports/ladder"),
        help="where to write DATA.md, DATA.png and, with every seed, DATA.csv",
    ),
    DRY_RUN,
)  # fmt: skip
def ladder(
    data: str, seeds: int, overrides: list[str] | None, workers: int, to: Path, dry_run: bool
) -> None:
    """Train the networks of recipes/ladder/ and compare them by year.

    Makes the experiments that are missing until each has the seeds 0 to N - 1, then a table and a
    picture of test accuracy, parameters and seconds of training. The same command resumes.

    Example: striate ladder digits --seeds 5
    """
    root = workspace.repository()
    from striate.analysis import ladder
    from striate.config import recipes
    from striate.console import columns
    from striate.data import files
    from striate.pipeline import repeat
    from striate.reporting.figures.ladder import ladder as draw
    from striate.reporting.figures.style import save

    rungs = recipes.rungs(data)
    changes = overrides or []
    fixed = [key for key in ("data.name", "data.path") if key in repeat.parsed(changes)]
    if fixed:
        raise UserError(f"-S cannot change {fixed[0]}: all networks learn {data}; name other DATA")
    settings = [repeat.setting(root, name, changes) for name in rungs]
    if dry_run:
        _print_missing(root, settings, range(seeds))
        return
    workspace.output_folder(to)
    found, heard = _complete(root, settings, range(seeds), workers)
    timings = _times(root, found, heard)
    steps = ladder.steps(rungs, found, timings)
    print()
    print(columns(ladder.table(steps)))
    for line in ladder.notes([step.candidate for step in steps if step.candidate]):
        print(f"\n{line}")
    points = ladder.points(steps)
    if points:
        save(draw(points, f"test accuracy on {data}"), to / f"{data}.png")
        again = _command(data, seeds, changes, workers, to)
        files.write(to / f"{data}.md", ladder.page(steps, data, f"{data}.png", again).encode())
        files.write(to / f"{data}.csv", ladder.seeds(steps, timings).encode())
        print(f"\nas a page, a picture and a table of every seed: {to / data}.md, .png and .csv")
    _refuse_failures(found)


@command(
    argument(
        "recipe", metavar="RECIPE", values="recipes", help="a recipe; an experiment or `workspace`"
    ),
    argument(
        "--seeds", metavar="N", type=number(2, 10_000), default=3, help="seeds of each setting"
    ),
    PARAM,
    WORKERS,
    argument(
        "--picture", metavar="FILE", type=a_path, values="file",
        help="where to write the picture (default: reports/ablation/RECIPE.png)",
    ),
    DRY_RUN,
)  # fmt: skip
def ablate(
    recipe: str,
    seeds: int,
    overrides: list[str] | None,
    workers: int | None,
    picture: Path | None,
    dry_run: bool,
) -> None:
    """Find out what each setting of a recipe buys.

    Takes each setting in which RECIPE differs from the committed params.yaml back to its value
    there, one at a time, then everything; the data set stays. Trains each with the seeds 0 to
    N - 1, and shows what is lost, as a table and a picture. The same command resumes.

    Example: striate ablate mnist-fast --dry-run
    """
    root = workspace.repository()
    from striate.analysis import ablation as analysis
    from striate.config import ablation
    from striate.console import columns
    from striate.pipeline import repeat
    from striate.reporting.figures.style import save
    from striate.reporting.figures.waterfall import waterfall
    from striate.reporting.numbers import mean_sd

    if picture:
        workspace.check_name("--picture", picture, "ablation.png")
    wanted = repeat.setting(root, recipe, overrides or [])
    plan = ablation.plan(wanted.checked, _committed(root), repeat.parsed(overrides or []))
    if not plan.changes:
        raise UserError(f"{recipe} does not differ from the committed params.yaml in any setting")
    settings = [wanted, *(_changed(wanted, change) for change in plan.changes)]
    if dry_run:
        for change in plan.changes:
            print(f"taken back: {analysis.in_words(change)}")
        for key, reason in plan.skipped.items():
            print(f"not taken back alone: {key}: {reason}")
        _print_missing(root, settings, range(seeds))
        return
    path = picture or Path("reports/ablation", f"{wanted.name}.png")
    workspace.output_folder(path.parent)
    found, heard = _complete(root, settings, range(seeds), workers)
    timings = _times(root, found, heard)
    rows = analysis.rows(plan.changes, found, timings)
    print()
    print(columns(analysis.table(rows)))
    for line in analysis.notes(rows, plan.skipped):
        print(f"\n{line}")
    base = rows[0].candidate
    if base:
        shown = f"{' '.join([recipe, *(overrides or [])])} ({mean_sd(base.accuracy)})"
        save(waterfall(analysis.bars(rows), "test accuracy", shown), path)
        print(f"\nas a picture: {path}")
    _refuse_failures(found)


def _command(data: str, seeds: int, overrides: Sequence[str], workers: int, to: Path) -> str:
    """What to type to get a ladder again."""
    words = ["striate", "ladder", data, "--seeds", f"{seeds}"]
    for one in overrides:
        words += ["-S", one]
    words += ["--workers", f"{workers}"] if workers > 1 else []
    return shlex.join([*words, "--to", f"{to}"])


def _refuse_failures(found: Sequence[Measured]) -> None:
    """End with an error if a training failed, after all that could be shown."""
    failed = [f"{one.setting.name}: {'; '.join(one.reasons)}" for one in found if one.reasons]
    if failed:
        raise UserError(f"trainings failed: {', '.join(failed)}")


def _committed(root: Path) -> Params:
    """The params of HEAD; what they lack is as in the working tree."""
    import yaml

    from striate.config import params
    from striate.config.yaml_loader import Loader
    from striate.tracking.git import blobs

    here = params.load(root / "params.yaml").model_dump()
    (text,) = blobs(root, ["HEAD:./params.yaml"])
    try:
        committed = yaml.load(text or "", Loader) or {}  # noqa: S506 - a safe one
        known = params.flatten(here)
        flat = {key: value for key, value in params.flatten(committed).items() if key in known}
    except (yaml.YAMLError, AttributeError):
        raise UserError("the params.yaml of HEAD is not valid YAML; commit one that is") from None
    return params.check(params.nested(flat, here), "params.yaml of HEAD")


def _changed(wanted: Setting, change: Change) -> Setting:
    """A setting with a change, under a name of its own."""
    from striate.config import ablation
    from striate.pipeline.repeat import Setting

    name = f"{wanted.name[:MOST_CHARACTERS].strip('-.')}-without-{change.key}"
    return Setting(name, ablation.sections(wanted.checked, change))


def _print_missing(root: Path, settings: Sequence[Setting], seeds: Sequence[int]) -> None:
    from striate.pipeline import several
    from striate.reporting.numbers import plural
    from striate.tracking import records

    queue = several.missing(root, settings, seeds, records.find(root).records)
    for job in queue:
        print(job.name)
    print(f"{plural(len(queue), 'training')} would run")


def _complete(
    root: Path, settings: Sequence[Setting], seeds: Sequence[int], workers: int | None
) -> tuple[list[Measured], Heard]:
    """Run what is missing; what there is then of each setting, and what was heard meanwhile."""
    from striate.pipeline import repeat, several
    from striate.reporting.numbers import plural
    from striate.tracking import records, times

    heard = times.Heard()
    with repeat.alone(root), runner(root, workers, heard) as run:
        found = records.find(root).records
        queue = several.missing(root, settings, seeds, found)
        print(
            f"{plural(len(settings), 'setting')} with {plural(len(seeds), 'seed')}:"
            f" {plural(len(queue), 'experiment')} to run", flush=True,
        )  # fmt: skip
        failures = several.run_all(queue, found, run)
        measured = several.measured(root, settings, seeds, failures)
    return measured, heard


def _times(root: Path, measured: Sequence[Measured], heard: Heard) -> dict[str, Timing]:
    """The seconds of training; of what ran earlier, only where MLflow answers."""
    from striate.tracking import times

    made = [record for one in measured for record in one.by_seed.values()]
    logged: dict[str, Timing] = {}
    try:
        logged = workspace.training_times(root, made)
    except UserError as error:
        workspace.note(f"{error}; seconds are those of trainings that ran now")
    return times.by_record(made, logged, heard)


@command(
    SETTING,
    argument(
        "--folds", metavar="K", type=number(2, 100), default=5,
        help="parts; each is classified by a network that trains on the others",
    ),
    PARAM,
    WORKERS,
    argument(
        "--to", metavar="FOLDER", type=a_path, values="directory",
        help="where to write index.html, doubts.csv and, for your own training images,"
        " leave_out.txt, or leave_out.new.txt beside a list that differs"
        " (default: reports/doubts, with --test reports/doubts_test)",
    ),
    argument(
        "--test", dest="of_test", action="store_true",
        help="doubt the labels of the test images instead, by the mean of the K networks",
    ),
    DRY_RUN,
)  # fmt: skip
def doubts(
    name: str,
    folds: int,
    overrides: list[str] | None,
    workers: int | None,
    to: Path | None,
    of_test: bool,
    dry_run: bool,
) -> None:
    """Find images whose label is probably wrong.

    Trains K networks, each without one part of the training images, and lets each classify the
    part that it never saw. Ranks the labels that they doubt, and estimates by confident learning
    how many are wrong. The same command resumes.

    Example: striate doubts mnist-fast --folds 5
    """
    root = workspace.repository()
    from striate.analysis import doubts as analysis
    from striate.analysis import doubts_page
    from striate.data import arrays
    from striate.models.defaults import RANDOM
    from striate.pipeline import folds as pipeline
    from striate.reporting.numbers import plural

    settings = pipeline.settings(root, name, overrides or [], folds)
    params = settings[0].checked
    if dry_run:
        _print_missing(root, settings, [params.seed])
        return
    to = to or Path("reports/doubts_test" if of_test else "reports/doubts")
    workspace.output_folder(to)
    if params.training.init_from != RANDOM.as_posix():
        workspace.note(
            f"the networks begin as {params.training.init_from}; if that was trained on these"
            " images, it has seen what they are to doubt"
        )
    found, _ = _complete(root, settings, [params.seed], workers)
    _refuse_failures(found)
    trained = [one.by_seed[params.seed] for one in found]
    pipeline.check_same_data(trained)
    split = "test" if of_test else "train"
    with tempfile.TemporaryDirectory() as scratch:
        output = "predictions" if of_test else "models"
        data, outputs = pipeline.fetch(root, trained, split, output, Path(scratch))
        if of_test:
            probabilities = analysis.mean_test_probabilities(data, [*outputs.values()])
        else:
            probabilities = _classify_held_out(data, outputs, params)
        labels = arrays.map_split(data, split)[1]
        ranked = analysis.doubtful(probabilities, labels)
        wrong = analysis.estimated_wrong(probabilities, labels)
        left_out = pipeline.left_out(root, params)
        written = doubts_page.write(doubts_page.read(data, split, left_out), ranked, wrong, to)
    print(
        f"\n{len(ranked):,} of {len(labels):,} {arrays.CALLED[split]} images are classified"
        f" otherwise than labelled; confident learning estimates {plural(wrong, 'wrong label')}"
    )
    print(*written, sep="\n")


def _classify_held_out(data: Path, networks: dict[str, Path], params: Params) -> np.ndarray:
    from striate.serving import held_out

    return held_out.classify(
        data, networks, params.split_seed,
        batch_size=params.evaluate.batch_size, tta=params.evaluate.tta,
    )  # fmt: skip
