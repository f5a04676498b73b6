"""The search of `striate tune` against random search, at an equal number of trials.

    python benchmarks/tuning.py --trials 30 --seeds 2 --minutes 60

CIFAR-10 at the notebook's budget: five epochs over all training images less a tenth, which
validates; a network of two layers; the space of benchmarks/tuning.yaml. Random search, and TPE with
the pruner of `striate tune`, for each seed in a process of its own with one core, in turn. Both
draw the same first trials from a seed, and equal params are trained once. A run ends after so many
minutes (a trial that goes on is finished first), and the same command takes it up again; studies
and trainings lie in the temporary folder. Prints the best validation accuracy after every five
trials, and the processor's seconds until then, which depend little on what else the machine does.
Set STRIATE_MIRROR to a folder with the data.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import optuna
import torch

from striate.config import params
from striate.data import arrays, tensors
from striate.errors import UserError
from striate.models import checkpoint, devices, normalization, registry
from striate.training import loop
from striate.training.task import Task
from striate.tuning import search_space, studies

SPACE = Path(__file__).with_suffix(".yaml")
FOLDER = Path(tempfile.gettempdir()) / "striate-benchmarks"
EVERY = 5  # trials between two columns of the table


def trained(drawn, settings, split, manifest):
    """Train with these params; yields the row of each epoch and the seconds until then.

    What an equal training has yielded before is not trained again.
    """
    name = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()
    path = FOLDER / f"tuning-{name[:16]}.json"
    known = json.loads(path.read_text()) if path.exists() else []
    yield from known
    if len(known) == settings.training.epochs:
        return
    known, before = [], len(known)
    begin = time.process_time()
    for row in fitted(settings, split, manifest):
        known.append([row["val_accuracy"], time.process_time() - begin])
        path.write_text(json.dumps(known))
        if len(known) > before:
            yield known[-1]


def fitted(settings, split, manifest):
    """Train; yields the row of each epoch."""
    normalize = normalization.pick_normalization(manifest, settings.data.normalize)
    torch.manual_seed(settings.seed)
    description = checkpoint.describe(settings.model.architecture(), manifest, normalize)
    model = checkpoint.build(description)
    train_set, val_set = tensors.train_val_split(split, settings.data.val_size, settings.split_seed)
    model.fit_to_data(normalize(train_set.images[: registry.FIT_IMAGES]))
    yield from loop.fit(model, Task(train_set, val_set, settings, normalize))


def database(sampler, seed):
    return FOLDER / f"tuning-{sampler}-{seed}.db"


def search(sampler, seed, trials, end):
    """Go on with one study until it has so many trials, or the time is over."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    devices.keep_freed_memory()
    base = params.load(common.ROOT / "params.yaml")
    space = search_space.read(SPACE, base)
    folder = common.stored(space["data.name"])
    manifest = arrays.load_manifest(folder)
    split = tensors.load_split(folder, "train", torch.device("cpu"))
    study = optuna.create_study(
        study_name=f"{sampler}-{seed}", storage=f"sqlite:///{database(sampler, seed)}",
        direction="maximize", load_if_exists=True,
        pruner=studies.pruner() if sampler == "tpe" else optuna.pruners.NopPruner(),
    )  # fmt: skip
    study.sampler = studies.make_sampler(sampler, seed)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # it was killed
    while time.monotonic() < end:
        if len(studies.finished(study.get_trials(deepcopy=False))) >= trials:
            return
        trial = study.ask()
        drawn = search_space.values_of(search_space.propose(trial, space, base), space)
        settings = params.check(search_space.override(base, drawn))
        state, row = optuna.trial.TrialState.COMPLETE, [0.0, 0.0]
        try:
            epochs = trained(drawn, settings, split, manifest)
            for epoch, row in enumerate(epochs, start=1):
                trial.report(row[0], epoch)
                if epoch < settings.training.epochs and trial.should_prune():
                    state = optuna.trial.TrialState.PRUNED
                    break
        except UserError as error:
            trial.set_user_attr("reason", str(error))
            state = optuna.trial.TrialState.FAIL
        accuracy, seconds = row
        trial.set_user_attr("seconds", seconds)
        value = accuracy if state == optuna.trial.TrialState.COMPLETE else None
        study.tell(trial, value, state)
        print(f"{sampler} {seed}: trial {trial.number} {state.name.lower()} {accuracy:.2%}",
              file=sys.stderr, flush=True)  # fmt: skip


def result(sampler, seed):
    """What a study has found: the best accuracy so far and all seconds, by finished trial."""
    study = optuna.load_study(
        study_name=f"{sampler}-{seed}", storage=f"sqlite:///{database(sampler, seed)}"
    )
    best, seconds, curve = 0.0, 0.0, []
    for trial in study.get_trials(deepcopy=False):
        seconds += trial.user_attrs.get("seconds", 0.0)
        if trial.state.name == "COMPLETE":
            best = max(best, trial.value)
        if trial.state.name in ("COMPLETE", "PRUNED"):
            curve.append([best, seconds])
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    found = {"sampler": sampler, "seed": seed, "curve": curve, "params": study.best_params}
    return found | {"pruned": states.count("PRUNED"), "failed": states.count("FAIL")}


def print_table(found, trials):
    marks = list(range(EVERY, trials + 1, EVERY))
    rows = []
    for sampler in studies.SAMPLERS:
        mine = [one for one in found if one["sampler"] == sampler]
        for one in mine:
            cells = [f"{accuracy:.2%}, {seconds:,.0f} s"
                     for accuracy, seconds in (one["curve"][mark - 1] for mark in marks
                                               if mark <= len(one["curve"]))]  # fmt: skip
            cuts = f"{one['pruned']} pruned, {one['failed']} failed"
            blank = [""] * (len(marks) - len(cells))
            rows.append([f"{sampler}, seed {one['seed']}", *cells, *blank, cuts])
        whole = [one for one in mine if len(one["curve"]) >= trials]
        if len(whole) > 1:
            means = [
                [statistics.mean(one["curve"][mark - 1][n] for one in whole) for n in (0, 1)]
                for mark in marks
            ]
            cells = [f"{accuracy:.2%}, {seconds:,.0f} s" for accuracy, seconds in means]
            rows.append([f"{sampler}, mean of {len(whole)}", *cells, ""])
    common.table(["search", *(f"{mark} trials" for mark in marks), "trials"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--one", metavar="SEED", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if arguments.one is not None:
        end = time.monotonic() + 60 * arguments.minutes
        for sampler in reversed(studies.SAMPLERS):  # random first: its trials are never pruned
            search(sampler, arguments.one, arguments.trials, end)
        return
    print(common.header() + "\n")
    common.stored("cifar10")  # once, before two processes need it
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--one", str(seed), "--trials", str(arguments.trials),
             "--minutes", str(arguments.minutes)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for seed in range(arguments.seeds)
    ]  # fmt: skip
    statuses = [process.wait() for process in processes]
    if any(statuses):
        sys.exit(1)
    found = [
        result(sampler, seed)
        for seed in range(arguments.seeds) for sampler in studies.SAMPLERS
        if database(sampler, seed).exists()
    ]  # fmt: skip
    print_table(found, arguments.trials)
    left = [f"{one['sampler']} {one['seed']}" for one in found
            if len(one["curve"]) < arguments.trials]  # fmt: skip
    if left or len(found) < 2 * arguments.seeds:
        print(f"\nnot complete yet: {', '.join(left)}; the same command goes on")


if __name__ == "__main__":
    main()
