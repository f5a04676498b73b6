"""The command `striate`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from striate.errors import UserError, reported
from striate.progress import track, waiting

if TYPE_CHECKING:
    from striate.tracking.records import Found, LeftOut, Record


NOTHING_FINISHED = "there is no finished experiment here yet; `dvc repro` makes one"


def main() -> None:
    """Run one subcommand; a fault of its input ends it with status 2."""
    parser = argparse.ArgumentParser(
        prog="striate", description="Work with the pipeline's results."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    predict_parser = commands.add_parser(
        "predict",
        help="say what is on pictures",
        description="Classes and probabilities of pictures of any kind and size; exit status 1 when"
        " one cannot be read.",
    )
    predict_parser.add_argument(
        "paths", metavar="IMAGE | FOLDER", nargs="+",
        help="files, and folders whose pictures are all taken",
    )  # fmt: skip
    predict_parser.add_argument(
        "--checkpoint", metavar="SOURCE", default="models",
        help="a folder, experiment, branch or commit, or models:/NAME@ALIAS (default: models)",
    )  # fmt: skip
    predict_parser.add_argument(
        "--top", metavar="N", type=int, default=3, help="classes that are named (default: 3)"
    )
    predict_parser.add_argument("--json", action="store_true", help="a JSON object a line")
    predict_parser.add_argument(
        "--show", metavar="FOLDER", type=Path, help="write each picture as the network sees it"
    )
    predict_parser.set_defaults(run=run_predict)

    export_parser = commands.add_parser(
        "export",
        help="write the network as one file for other programs",
        description="Write a network as ONNX, as PyTorch's pt2 or as safetensors, read the file"
        " again, compare its predictions of the test images in data/ with the checkpoint's, and"
        " time both. ONNX and pt2 files take float32 pixels (batch, channels, height, width) from 0"
        " to 255 (digits: 0 to 16), not scaled or normalized, and return float32 logits.",
    )
    export_parser.add_argument(
        "source", metavar="SOURCE", nargs="?", default="models",
        help="a folder, experiment, branch or commit, or models:/NAME@ALIAS (default: models)",
    )  # fmt: skip
    export_parser.add_argument("--format", required=True, choices=("onnx", "pt2", "safetensors"))
    export_parser.add_argument(
        "--int8", action="store_true", help="compute in 8-bit integers (onnx)"
    )
    export_parser.add_argument(
        "--to", metavar="FOLDER", type=Path, default=Path("exports"), help="default: exports"
    )
    export_parser.set_defaults(run=run_export)

    fetch_parser = commands.add_parser(
        "fetch",
        help="bring a trained network here to begin a training with",
        description="Copy the checkpoint of an experiment, branch or commit, of models:/NAME@ALIAS,"
        " or of a folder to weights/NAME, and print that path:"
        " dvc exp run -S training.init_from=$(striate fetch mnist)",
    )
    fetch_parser.add_argument("source", metavar="SOURCE")
    fetch_parser.add_argument("--to", metavar="FOLDER", type=Path, help="another place for it")
    fetch_parser.set_defaults(run=run_fetch)

    gate_parser = commands.add_parser(
        "gate",
        help="fail when a metric got worse",
        description="Compare metrics/ with what REV holds; exit status 1 when one is worse,"
        " missing or differs where it must not, 2 when the comparison cannot be made.",
    )
    gate_parser.add_argument(
        "--against",
        metavar="REV",
        help="commit, branch or tag (default: origin/main, or the commit before HEAD where HEAD is"
        " in it)",
    )
    gate_parser.set_defaults(run=run_gate)

    compare_parser = commands.add_parser(
        "compare",
        help="what differs between experiments, and whether by chance",
        description="Params, metrics, learning curves and predictions of two or more experiments,"
        " branches, tags or commits, or of `workspace`, against the first; also as a page.",
    )
    compare_parser.add_argument("names", metavar="NAME", nargs="+")
    compare_parser.add_argument(
        "--page", metavar="FILE", type=Path, default=Path("reports/compare.html"),
        help="where the page is written (default: reports/compare.html)",
    )  # fmt: skip
    compare_parser.set_defaults(run=run_compare)

    experiments_parser = commands.add_parser(
        "experiments",
        help="all experiments as a table",
        description="Every experiment with its validation and test accuracy, its size and the"
        " params that differ; best validation accuracy first.",
    )
    experiments_parser.set_defaults(run=run_experiments)

    pareto_parser = commands.add_parser(
        "pareto",
        help="accuracy of all experiments against size and time",
        description="A table, and a picture with the Pareto front, of every experiment on the"
        " data of HEAD. Networks are compared by validation accuracy where any has one, and by"
        " seconds where they were timed on one kind of machine.",
    )
    pareto_parser.add_argument(
        "--picture", metavar="FILE", type=Path, default=Path("reports/pareto.png"),
        help="where the picture is written (default: reports/pareto.png)",
    )  # fmt: skip
    pareto_parser.set_defaults(run=run_pareto)

    summary_parser = commands.add_parser("summary", help="the results as a table")
    summary_parser.set_defaults(run=run_summary)

    sync_parser = commands.add_parser(
        "sync",
        help="make MLflow's runs agree with DVC's experiments",
        description="For HEAD, the working tree and every DVC experiment: find its run, make it"
        " from DVC's files where it is missing, add what it lacks.",
    )
    sync_parser.set_defaults(run=run_sync)

    share_parser = commands.add_parser(
        "share",
        help="push what was run here, so that nobody runs it again",
        description="Push DVC's run cache with all files of its runs to the default remote; `dvc"
        " push --run-cache` leaves the metrics behind.",
    )
    share_parser.set_defaults(run=run_share)

    verify_parser = commands.add_parser(
        "verify",
        help="check that MLflow's runs agree with DVC's experiments",
        description="Exit status 1 and a line for each disagreement.",
    )
    verify_parser.set_defaults(run=run_verify)

    recipe_parser = commands.add_parser(
        "recipe",
        help="print a recipe as arguments of `dvc exp run`",
        description="dvc exp run $(striate recipe NAME); without a name, list the recipes.",
    )
    recipe_parser.add_argument("name", metavar="NAME", nargs="?")
    recipe_parser.set_defaults(run=run_recipe)

    tune_parser = commands.add_parser(
        "tune",
        help="search for good params",
        description="Run trials, each a DVC experiment with params that Optuna proposes, until the"
        " study has N finished ones; the same command goes on after it was stopped. Trials are"
        " compared by validation accuracy.",
    )
    tune_parser.add_argument(
        "--trials",
        metavar="N",
        type=int,
        required=True,
        help="of the whole study, whoever runs them",
    )
    tune_parser.add_argument(
        "--space", metavar="FILE", type=Path, default=Path("tune.yaml"),
        help="which params vary, and how (default: tune.yaml)",
    )  # fmt: skip
    tune_parser.add_argument("--study", metavar="NAME", default="tune", help="default: tune")
    tune_parser.add_argument(
        "--storage", metavar="URL",
        help="a database that several machines share, such as postgresql://USER:PASSWORD@HOST/DB"
        " (default: $STRIATE_STORAGE, or tune.db beside mlflow.db)",
    )  # fmt: skip
    tune_parser.add_argument(
        "--workers", metavar="N", type=int, default=1,
        help="processes on this machine, which share its cores (default: 1)",
    )  # fmt: skip
    tune_parser.add_argument("--sampler", choices=("tpe", "random"), default="tpe")
    tune_parser.set_defaults(run=run_tune)

    promote_parser = commands.add_parser(
        "promote",
        help="register an experiment's model as the champion",
        description="Refuses a model that scores below the present champion: by validation"
        " accuracy where both were trained on the same images and held out the same ones, else by"
        " test accuracy. Whoever promotes by test accuracy chooses by it: the winner's is then too"
        " high by luck.",
    )
    promote_parser.add_argument("experiment", metavar="EXP", help="experiment, branch or workspace")
    promote_parser.add_argument("--force", action="store_true", help="also if it scores below")
    promote_parser.set_defaults(run=run_promote)

    ui_parser = commands.add_parser("ui", help="open MLflow's pages on this machine")
    ui_parser.add_argument("--port", type=int, default=5000, help="default: 5000")
    ui_parser.set_defaults(run=run_ui)

    serve_parser = commands.add_parser(
        "serve",
        help="open a page on which to draw for the champion",
        description="Serve the champion by MLflow's scoring server, and a page to ask it, on this"
        " machine only.",
    )
    serve_parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    serve_parser.set_defaults(run=run_serve)

    with reported():
        arguments = parser.parse_args()
        _note_other_code()
        try:
            arguments.run(arguments)
        except UserError as error:
            raise UserError(f"{error}{_said_of_place()}") from None


def _note_other_code() -> None:
    """Say where the working folder has code of its own, and another copy of it runs."""
    here, running = Path("src/striate").absolute(), Path(__file__).parent
    if here.is_dir() and not here.samefile(running):
        print(
            f"note: this is the code in {running}, not that in {here};"
            " `source .venv/bin/activate` takes this repository's own",
            file=sys.stderr,
        )


def _said_of_place() -> str:
    """What to add to a failure in a folder inside a repository: commands run in its root."""
    here = Path.cwd()
    if (here / ".dvc/config").is_file():
        return ""
    root = next((folder for folder in here.parents if (folder / ".dvc/config").is_file()), None)
    return f"; this is a folder inside {root}, where commands run: cd {root}" if root else ""


def run_predict(arguments: argparse.Namespace) -> None:
    """Print a line for each picture; exit with status 1 when one could not be read."""
    import json
    import tempfile

    if arguments.top < 1:
        raise UserError(f"--top is {arguments.top}; it must be 1 or more")

    with waiting("loading PyTorch"):
        from striate.datasets.image_reading import PictureError, printable
        from striate.models import checkpoint, devices, model_json
        from striate.serving import inference, sources

    files = inference.files_of(arguments.paths)
    _note_unrecorded(arguments.checkpoint)
    with waiting("loading the network"), tempfile.TemporaryDirectory() as scratch:
        device = devices.pick_device("auto")
        place = sources.find(arguments.checkpoint, Path(scratch, "found"))
        trained = checkpoint.load(place, device)
    if trained.description["confidence"] is None:
        print(
            f"note: this network was trained with fewer than {model_json.LEAST_IMAGES} validation"
            " images: its probabilities are not calibrated, and nobody knows which pictures are"
            " unlike its training images",
            file=sys.stderr,
        )
    if arguments.show:
        arguments.show.mkdir(parents=True, exist_ok=True)
    broken = 0
    # Where the answers go to the terminal, they show themselves how far this is.
    shown = files if sys.stdout.isatty() else track(files, "pictures")
    for file, found in zip(shown, inference.look(files, trained, device), strict=True):
        if isinstance(found, PictureError):
            broken += 1
            print(f"error: {found}", file=sys.stderr)
            if arguments.json:
                print(json.dumps({"file": str(file), "error": str(found)}))
            continue
        ranked = sorted(
            zip(found.verdict.probabilities, trained.classes, strict=True), reverse=True
        )
        top = {name: round(share, 6) for share, name in ranked[: arguments.top]}
        if arguments.json:
            unlike = found.verdict.unlike
            print(json.dumps({"file": str(file), "probabilities": top, "unlike": unlike}))
        else:
            said = ", ".join(f"{name} {share:.1%}" for name, share in top.items())
            print(
                f"{printable(file)}: {said}"
                + (" – unlike the training images" * bool(found.verdict.unlike))
            )
        if arguments.show:
            target = inference.place_of_view(file, arguments.show)
            target.parent.mkdir(parents=True, exist_ok=True)
            inference.view(found.pixels, trained.normalization.peak).save(target)
    if broken:
        print(f"{broken:,} of {len(files):,} pictures could not be read", file=sys.stderr)
        sys.exit(1)


def run_export(arguments: argparse.Namespace) -> None:
    """Write the file, check it, and print how it compares."""
    import tempfile

    kind = arguments.format
    if arguments.int8 and kind != "onnx":
        raise UserError(f"--int8 goes with --format onnx only, not with {kind}")
    _note_unrecorded(arguments.source)
    with waiting("loading PyTorch"):
        import torch

        from striate.data import arrays, tensors
        from striate.models import checkpoint, devices, model_json
        from striate.serving import export, sources
        from striate.tables import columns
        from striate.training import lazy_images

    devices.keep_freed_memory()
    with tempfile.TemporaryDirectory() as scratch:
        place = sources.find(arguments.source, Path(scratch, "found"))
        trained = checkpoint.load(place, torch.device("cpu"))
        size = (place / checkpoint.WEIGHTS).stat().st_size
    model_json.check_fits(trained.description, arrays.load_manifest(Path("data")))
    test = tensors.load_split(Path("data"), "test", torch.device("cpu"))
    calibration = None
    if arguments.int8:
        learnt = lazy_images.load(Path("data"), "train", torch.device("cpu"))
        calibration = learnt.images[: export.CALIBRATION_IMAGES].read()
    path = arguments.to / f"model{'-int8' if arguments.int8 else ''}.{export.ENDINGS[kind]}"
    with waiting(f"writing {path}"):
        export.write(trained, kind, path, calibration)
    if kind == "safetensors":
        # The card is that of the network in models/.
        card = Path("reports/model_card.md") if arguments.source == "models" else None
        export.complete(trained, path.parent, card)

    with waiting("comparing its predictions with the checkpoint's"):
        ours = export.eager(checkpoint.Pixels(trained).eval())
        theirs = export.read(kind, path, trained.description)
        reference = export.logits_of(ours, test.images)
        verdict = export.check(reference, export.logits_of(theirs, test.images), test.labels)
    count = verdict.differing
    print(
        f"{path}: of {len(test.labels):,} test images, {count:,} {'is' if count == 1 else 'are'}"
        f" predicted otherwise than by the checkpoint; accuracy {verdict.accuracy:.2%}; logits"
        f" differ by {verdict.furthest:.2g} at most\n"
        + f"{export.usage(trained)}\n"
        * (kind != "safetensors"),
        flush=True,
    )
    names = {"PyTorch, eager": ours, str(path): theirs}
    sizes = [size, path.stat().st_size]
    with waiting("timing both"):
        times = export.milliseconds(names, test.images[0].float().numpy())
    heads = [f"ms, batch of {size}" for size in export.TIMED_BATCHES]
    rows = [
        [name, f"{size / 1024:,.0f}", *(f"{value:,.3f}" for value in times[name])]
        for name, size in zip(names, sizes, strict=True)
    ]
    print(columns([["network", "KiB", *heads], *rows]))


def run_fetch(arguments: argparse.Namespace) -> None:
    """Copy a checkpoint and print where it is."""
    with waiting("loading PyTorch"):
        from striate.serving import sources

    target = arguments.to or sources.place_of(arguments.source)
    try:
        with waiting(f"reading the network of {arguments.source}"):
            sources.keep(arguments.source, target)
    except UserError:
        # In `dvc exp run -S training.init_from=$(striate fetch …)` nothing sees this command's
        # status, and an empty value is an internal error to DVC.
        print("weights/no-such-network")
        raise
    print(target)


def run_gate(arguments: argparse.Namespace) -> None:
    """Print the comparison; exit with status 1 when a metric fails."""
    from striate.analysis import gate

    folder = Path()
    rules = gate.load_rules(folder / "gate.yaml")
    revision, why = arguments.against, ""
    if revision is None:
        revision, why = gate.default_revision(rules, folder)
    commit = gate.resolved(folder, revision)
    before, now = gate.metrics_at(rules, revision, folder), gate.metrics_now(rules, folder)
    gate.check_rules(rules, before, now, revision)
    sources = gate.source_at(revision, folder), gate.source_now(folder)
    gate.check_sources(*sources, revision)
    verdicts = gate.compare(before, now, rules)
    print(gate.table(verdicts))
    for said in (gate.noise_said(verdicts, rules), gate.params_said(*sources)):
        if said:
            print(f"\n{said}")
    because = f", because {why}" if why else ""
    print(f"\nagainst {revision} ({commit[:7]}){because}: {gate.outcome(verdicts)}")
    sys.exit(1 if any(verdict.failed for verdict in verdicts) else 0)


def run_compare(arguments: argparse.Namespace) -> None:
    """Print the comparison and write its page."""
    import tempfile

    if len(set(arguments.names)) < max(2, len(arguments.names)):
        raise UserError("name at least two experiments, each once; `dvc exp list` shows them")
    root = _repository()
    with waiting("loading PyTorch"):
        from striate.analysis import compare
        from striate.data import files

    with waiting("comparing"), tempfile.TemporaryDirectory() as scratch:
        read = [
            compare.read(root, name, Path(scratch, str(number)))
            for number, name in enumerate(arguments.names)
        ]
    sides = [side for side, _ in read]
    for side in sides:
        if side.record.revision is None:
            _note_changed_params(side.record)
    scored = read[0][1]
    sentences = compare.sentences(sides, scored)
    print(compare.text(sides, sentences), flush=True)
    files.write(arguments.page, compare.page(sides, sentences, scored).encode())
    print(f"\nwith curves and images: {arguments.page}")


def run_pareto(arguments: argparse.Namespace) -> None:
    """Print the table and draw the picture."""
    from striate.analysis import overview, pareto
    from striate.reporting.figures.style import save
    from striate.reporting.figures.trade_off import trade_off
    from striate.tables import columns
    from striate.tracking import background, logger, mlflow_store, sync

    root = _repository()
    found, left_out, accuracy = pareto.comparable(_whole(root).records)
    _print_left_out(left_out)
    if not found:
        raise UserError("no experiment has an accuracy and a size to compare")
    times: list[tuple[float | None, str]] = [(None, "")] * len(found)
    if logger.enabled():
        background.settle(root)
        with mlflow_store.reachable(), waiting("reading training times from MLflow"):
            times = sync.training_times(root, found)
    candidates = pareto.candidates(found, accuracy, times)
    print(columns(pareto.table(candidates, accuracy)))
    print()
    for line in pareto.notes(candidates) + overview.notes(found):
        print(line)
    save(trade_off(pareto.panels(candidates), accuracy), arguments.picture)
    print(f"as a picture: {arguments.picture}")


def run_experiments(arguments: argparse.Namespace) -> None:
    """Print a row for each experiment."""
    from striate.analysis import overview
    from striate.tables import columns

    root = _repository()
    found, _, here = _whole(root)
    _note_changed_params(here)
    print(columns(overview.table(found, here)))
    for line in overview.notes(found):
        print(f"\n{line}")


def run_summary(arguments: argparse.Namespace) -> None:
    """Print what was trained, how well it does, and where to look next."""
    from striate.config import params
    from striate.evaluation import metrics
    from striate.tracking import mlflow_store, records

    settings = params.load()
    model, training = settings.model, settings.training
    train, test = (metrics.read_metrics(Path(f"metrics/{name}.json")) for name in ("train", "test"))
    here = records.named(mlflow_store.root(), records.WORKSPACE)
    _note_changed_params(here)
    rows = {
        "data": f"{settings.data.name}, seed {settings.seed}",
        "network": f"{model.arch}, {model.layers} layer{'s' if model.layers > 1 else ''},"
        f" width {model.width}, {train['parameters']:,} parameters",
        "training": f"{train['epochs']:,} epoch{'s' if train['epochs'] != 1 else ''}"
        f" of {training.optimizer}, batches of {training.batch_size}",
        "training accuracy": f"{train['train_accuracy']:.2%}",
    }
    if "val_accuracy" in train:
        rows["validation accuracy"] = f"{train['val_accuracy']:.2%}"
    rows["test accuracy"] = f"{test['accuracy']:.2%} ({test['errors']:,} of {test['n']:,} wrong)"
    rows["test loss"] = f"{test['loss']:.4f}"
    rows["calibration error"] = f"{test['ece']:.2%}"
    print()
    for name, value in rows.items():
        print(f"  {name:<20} {value}")
    print(
        "\nNext: look at          reports/index.html"
        "\n      try an idea:       dvc exp run -S model.layers=3"
        "\n      compare:           make compare"
        "\n      open MLflow:       make ui"
    )


def _note_changed_params(here: Record | None) -> None:
    """Say where params.yaml is newer than the results in the working tree."""
    from striate.config import params
    from striate.tracking import records

    try:
        now = params.flatten(params.load().model_dump())
    except UserError:
        return  # whoever trains with it says what is wrong
    changed = records.changed_params(here, now) if here else []
    if changed:
        print(
            f"note: params.yaml was changed after these results: {', '.join(changed)}; `dvc repro`"
            " makes those of the new params",
            file=sys.stderr,
        )


def _note_unrecorded(source: str) -> None:
    """Say where the network in models/ is not the one that dvc.lock names."""
    from striate.tracking import mlflow_store, records

    if source == records.MODELS and not records.is_recorded(mlflow_store.root(), source):
        print(
            f"note: {source}/ is not what dvc.lock names; `dvc checkout` brings that",
            file=sys.stderr,
        )


def run_sync(arguments: argparse.Namespace) -> None:
    """Print a row for each experiment and what was done about its run."""
    from striate.tables import columns
    from striate.tracking import background, logger, mlflow_store, records, sync

    if not logger.enabled():
        print("tracking is off: nothing was synchronised")
        return
    root = _repository()
    background.settle(root)
    found, left_out, _ = records.find(root)
    _print_left_out(left_out)
    if not found and mlflow_store.is_own() and not mlflow_store.database().exists():
        raise UserError(NOTHING_FINISHED)
    if sync.agreed(root, found):
        print("MLflow agrees with DVC: nothing to do")
        return
    with (
        mlflow_store.reachable(),
        waiting(f"looking at MLflow's runs of {_experiments(len(found))}"),
    ):
        rows = sync.sync(root, mlflow_store.open_store(), found)
    if not rows:
        raise UserError(NOTHING_FINISHED)
    changed = [row for row in rows if row.done]
    same = len(rows) - len(changed)
    if not changed:
        print(f"MLflow agrees with DVC on {_experiments(same)}: nothing to do")
        return
    print(columns([sync.HEADER, *changed]))
    if same:
        print(f"and it agreed on {_experiments(same)} before")


def run_share(arguments: argparse.Namespace) -> None:
    """Push the run cache, and say how much that was."""
    from striate.tracking import share

    runs, files = share.share(_dvc_root())
    print(f"{runs:,} runs of stages are in the remote, {files:,} files of them new")


def run_verify(arguments: argparse.Namespace) -> None:
    """Print every disagreement; exit with status 1 when there is one."""
    from striate.tracking import background, logger, mlflow_store, sync

    if not logger.enabled():
        print("tracking is off: nothing was compared")
        return
    root = _repository()
    background.settle(root)
    found = _whole(root).records
    with (
        mlflow_store.reachable(),
        waiting(f"comparing {_experiments(len(found))} with MLflow's runs"),
    ):
        faults = sync.verify(root, mlflow_store.open_store(), found)
    for fault in faults:
        print(fault)
    if not faults:
        print(f"MLflow agrees with DVC on {_experiments(len(found))}")
    sys.exit(1 if faults else 0)


def _whole(root: Path) -> Found:
    """All experiments; those that are left out are named on standard error.

    Raises:
        UserError: there is none.
    """
    from striate.tracking import records

    found = records.find(root)
    _print_left_out(found.left_out)
    if not found.records:
        raise UserError(NOTHING_FINISHED)
    return found


def _print_left_out(left_out: list[LeftOut]) -> None:
    from striate.tracking import records

    for line in records.in_words(left_out):
        print(f"note: left out: {line}", file=sys.stderr)


def _experiments(count: int) -> str:
    return f"{count} experiment{'s' if count != 1 else ''}"


def _dvc_root() -> Path:
    """The root of the DVC repository, checked before anything is made in it."""
    from striate.tracking import mlflow_store

    root = mlflow_store.root()
    if not (root / ".dvc" / "config").is_file():
        raise UserError(f"{root} is not the root of a DVC repository; commands run there")
    return root


def _repository() -> Path:
    """The root of the DVC repository, which has a commit."""
    from striate.tracking import background, records

    root = _dvc_root()
    records.head(root)
    background.tell(root)
    return root


def run_recipe(arguments: argparse.Namespace) -> None:
    """Print a recipe's params as arguments, or the list of recipes."""
    from striate.config import recipes

    if arguments.name is not None:
        try:
            recipe = recipes.read(arguments.name)
        except UserError:
            # In `dvc exp run $(striate recipe NAME)` nothing sees this command's status; without
            # an argument that DVC refuses, it would run the workspace as it is.
            print("--no-such-recipe")
            raise
        print(*recipes.arguments(recipe))
        return
    for name, said in recipes.names().items():
        print(f"{name}\n  {said}")


def run_tune(arguments: argparse.Namespace) -> None:
    """Print each trial as it ends, the table of all, and how to take the best one up."""
    for name, most in (("trials", 100_000), ("workers", 1024)):
        if not 1 <= getattr(arguments, name) <= most:
            raise UserError(f"--{name} is {getattr(arguments, name)}; it must be from 1 to {most}")
    root = _repository()
    with waiting("loading Optuna"):
        import optuna  # noqa: F401

        from striate.config import params
        from striate.tables import columns
        from striate.tracking import logger, mlflow_store, records, sync
        from striate.tuning import search_space, studies, workers

    if not studies.NAME.fullmatch(arguments.study):
        raise UserError(
            f"--study is {arguments.study!r:.60}; it must be 1 to 61 letters, digits, and"
            " - _ . between them, as it begins the names of experiments"
        )
    base = params.load()
    space = search_space.read(arguments.space, base)
    storage = arguments.storage or os.environ.get(workers.STORAGE) or studies.default_storage(root)
    with studies.reachable(storage):
        study = studies.open_study(arguments.study, storage, root)
        studies.agree(study, space, base)
        trials = study.get_trials(deepcopy=False)
        print(
            f"study {arguments.study} in {studies.shown(storage)}:"
            f" {len(studies.finished(trials))} of {arguments.trials} trials are finished",
            flush=True,
        )
        try:
            workers.tune(
                study, storage, root, arguments.trials, arguments.workers, arguments.sampler
            )
        except KeyboardInterrupt:
            done = len(studies.finished(study.get_trials(deepcopy=False)))
            raise KeyboardInterrupt(
                f"{done} of {arguments.trials} trials are finished; the same command goes on"
            ) from None
        rows = studies.rows(study)
    print()
    print(columns(studies.table(rows)))
    if rows and rows[0].accuracy is not None:
        print(f"\nto take the best one up: dvc exp apply {rows[0].experiment}")
    found = records.find(root).records
    if logger.enabled() and not sync.agreed(root, found):
        try:
            with mlflow_store.reachable(), waiting("looking at MLflow's runs"):
                sync.sync(root, mlflow_store.open_store(), found)
        except UserError as error:
            print(f"warning: {error}; `striate sync` records the rest later", file=sys.stderr)


def run_promote(arguments: argparse.Namespace) -> None:
    """Register a model; exit with status 1 when the champion is better."""
    root = _repository()
    from striate.tracking import records

    record = records.named(root, arguments.experiment, (records.MODELS,))
    print("registering a model takes 10 to 30 seconds ...", file=sys.stderr, flush=True)
    from striate.serving import registry
    from striate.tracking import background, mlflow_store

    background.settle(root)
    with mlflow_store.reachable():
        promoted, said = registry.promote(root, record, arguments.force)
    print(said)
    sys.exit(0 if promoted else 1)


def run_ui(arguments: argparse.Namespace) -> None:
    """Serve MLflow's pages on the loopback address until interrupted, or name a server's."""
    from striate.tracking import mlflow_store

    root = _dvc_root()
    server = f"http://127.0.0.1:{arguments.port}"
    if not mlflow_store.shared():
        _take_port(arguments.port, root / ".dvc" / "tmp" / f"striate-ui-{arguments.port}.lock")
    with mlflow_store.reachable(), waiting("loading MLflow"):
        store = mlflow_store.open_store()
        view = store.share_view()
    if mlflow_store.shared():
        server = mlflow_store.tracking_uri().rstrip("/")
    home = f"{server}/#/experiments/{store.experiment}/runs"
    # Without the last it opens the pages for language models and hides what matters here.
    for title, mode in (("Runs:      ", "TABLE"), ("Comparison:", "CHART")):
        choice = f"viewStateShareKey={view}&compareRunsMode={mode}&workflowType=machine_learning"
        print(f"{title} {home}?{choice}", flush=True)
    if mlflow_store.shared():
        return
    print("The server answers in 10 to 40 seconds; Ctrl-C ends it.", flush=True)
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1",
        "--port", str(arguments.port),
    ]  # fmt: skip
    settings = {
        # Not as an argument: everybody on a machine can read those, and it may hold a password.
        "MLFLOW_BACKEND_STORE_URI": mlflow_store.tracking_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",
    }
    # The server takes this process's place, so that what stops the one stops the other.
    os.execve(sys.executable, command, os.environ | settings)  # noqa: S606


def _take_port(port: int, lock: Path) -> None:
    """Refuse a port that is used, or will be by a server of this repository that starts.

    The lock lasts as long as this process, also when the server has taken its place.
    """
    import fcntl
    import socket

    with socket.socket() as probe:
        # As servers do, so that an address whose last server has just ended is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used: {error.strerror}; name another: --port 5001"
            ) from None
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(
            f"another `striate ui` is starting on port {port}; open its addresses, or name another"
            " port: --port 5001"
        ) from None


def run_serve(arguments: argparse.Namespace) -> None:
    """Serve the page until interrupted."""
    import signal

    _dvc_root()
    print("starting the champion's scoring server takes 10 to 40 seconds ...", flush=True)
    from striate.serving import web

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    champion, scoring = web.find_champion(), web.free_port()
    try:
        with (
            web.server(champion, arguments.port, scoring) as page,
            web.scoring_server(champion.version, scoring),
        ):
            print(f"http://127.0.0.1:{page.server_port}/ is open; Ctrl-C ends it.", flush=True)
            page.serve_forever()
    except KeyboardInterrupt:
        print("ended")


if __name__ == "__main__":
    main()
