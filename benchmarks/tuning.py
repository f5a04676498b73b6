"""The search of `striate tune` against random search, at an equal number of trials.

    python benchmarks/tuning.py --trials 20 --seeds 2 --minutes 7

CIFAR-10 at the notebook's budget: five epochs over all training images less a tenth, which
validates; a network of two layers; the space of benchmarks/tuning.yaml. TPE with the pruner of
`striate tune` and random search without one run side by side, each on one core, in this process's
children. A run ends after so many minutes (a trial that goes on is finished first) and the same
command takes it up again; studies lie in the temporary folder, and each that is complete is added
to a file of JSON lines beside them. Prints the best validation accuracy after every five trials,
and the processor's seconds until then, which do not depend on what else the machine does. Set
STRIATE_MIRROR to a folder with the data.
"""

import argparse
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

from striate import checkpoint, devices, images, models, params, training, tuning
from striate.errors import UserError

SPACE = Path(__file__).with_suffix(".yaml")
FOLDER = Path(tempfile.gettempdir()) / "striate-benchmarks"
RESULTS = FOLDER / "tuning.jsonl"
EVERY = 5  # trials between two columns of the table


def trained(settings, split, manifest):
    """Train with these params; yields the row of each epoch."""
    normalize = images.normalization(manifest, settings.data.normalize)
    torch.manual_seed(settings.seed)
    description = checkpoint.describe(settings.model.model_dump(), manifest, normalize)
    model = checkpoint.build(description)
    learnt, val = images.hold_out(split, settings.data.val_size, settings.seed)
    models.whiten_(model, normalize(learnt.images[: models.WHITENING_IMAGES]))
    yield from training.fit(
        model, learnt, val, settings=settings.training, augmentation=settings.augment,
        normalize=normalize, seed=settings.seed,
    )  # fmt: skip


def search(sampler, seed, trials, minutes):
    """Go on with one study until it has so many trials, or the time is over."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    devices.keep_freed_memory()
    base = params.load(common.ROOT / "params.yaml")
    space = tuning.read_space(SPACE, base)
    folder = common.stored(space["data.name"])
    manifest = images.load_manifest(folder)
    split = images.load_split(folder, "train", torch.device("cpu"))
    study = optuna.create_study(
        study_name=f"{sampler}-{seed}", storage=f"sqlite:///{FOLDER}/tuning-{sampler}-{seed}.db",
        direction="maximize", load_if_exists=True,
        pruner=tuning.pruner() if sampler == "tpe" else optuna.pruners.NopPruner(),
    )  # fmt: skip
    study.sampler = tuning.sampler_of(sampler, seed)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # it was killed
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        if len(tuning.finished(study.get_trials(deepcopy=False))) >= trials:
            return
        trial = study.ask()
        drawn = tuning.values_of(tuning.propose(trial, space, base), space)
        settings = params.check(tuning.laid_over(base, drawn))
        begin, state, row = time.process_time(), optuna.trial.TrialState.COMPLETE, None
        try:
            for row in trained(settings, split, manifest):
                trial.report(row["val_accuracy"], row["epoch"])
                if row["epoch"] < settings.training.epochs and trial.should_prune():
                    state = optuna.trial.TrialState.PRUNED
                    break
        except UserError as error:
            trial.set_user_attr("reason", str(error))
            state = optuna.trial.TrialState.FAIL
        trial.set_user_attr("seconds", time.process_time() - begin)
        value = row["val_accuracy"] if state == optuna.trial.TrialState.COMPLETE else None
        study.tell(trial, value, state)
        print(f"{sampler} {seed}: trial {trial.number} {state.name.lower()}"
              f" {row['val_accuracy'] if row else 0:.2%}", file=sys.stderr, flush=True)  # fmt: skip


def result(sampler, seed):
    """What a study has found: the best accuracy so far and all seconds, by finished trial."""
    name = f"{sampler}-{seed}"
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{FOLDER}/tuning-{name}.db")
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


def kept():
    return (
        [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    )


def print_table(trials):
    marks = list(range(EVERY, trials + 1, EVERY))
    rows = []
    for sampler in tuning.SAMPLERS:
        mine = [one for one in kept() if one["sampler"] == sampler and len(one["curve"]) >= trials]
        for one in mine:
            points = [one["curve"][mark - 1] for mark in marks]
            cells = [f"{accuracy:.2%}, {seconds:,.0f} s" for accuracy, seconds in points]
            cuts = f"{one['pruned']} cut, {one['failed']} failed"
            rows.append([f"{sampler}, seed {one['seed']}", *cells, cuts])
        if mine:
            means = [
                [statistics.mean(one["curve"][mark - 1][n] for one in mine) for n in (0, 1)]
                for mark in marks
            ]
            cells = [f"{accuracy:.2%}, {seconds:,.0f} s" for accuracy, seconds in means]
            rows.append([f"{sampler}, mean of {len(mine)}", *cells, ""])
    common.table(["search", *(f"{mark} trials" for mark in marks), "trials"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--one", nargs=2, metavar=("SAMPLER", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if arguments.one:
        search(arguments.one[0], int(arguments.one[1]), arguments.trials, arguments.minutes)
        return
    print(common.header() + "\n")
    end = time.monotonic() + 60 * arguments.minutes
    common.stored("cifar10")  # once, before two processes need it
    left = []
    for seed in range(arguments.seeds):
        done = {(one["sampler"], one["seed"]) for one in kept()
                if len(one["curve"]) >= arguments.trials}  # fmt: skip
        waiting = [sampler for sampler in tuning.SAMPLERS if (sampler, seed) not in done]
        minutes = (end - time.monotonic()) / 60
        if minutes > 0:
            pair = [
                subprocess.Popen(
                    [sys.executable, __file__, "--one", sampler, str(seed),
                     "--trials", str(arguments.trials), "--minutes", str(minutes)],
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                )
                for sampler in waiting
            ]  # fmt: skip
            statuses = [process.wait() for process in pair]
            if any(statuses):
                sys.exit(1)
            for sampler in waiting:
                found = result(sampler, seed)
                if len(found["curve"]) >= arguments.trials:
                    with RESULTS.open("a") as stream:
                        stream.write(json.dumps(found) + "\n")
                    waiting = [other for other in waiting if other != sampler]
        left += [f"{sampler} {seed}" for sampler in waiting]
    print_table(arguments.trials)
    if left:
        print(f"\nnot complete yet: {', '.join(left)}; the same command goes on")


if __name__ == "__main__":
    main()
