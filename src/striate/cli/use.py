"""Use a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from striate.cli import workspace
from striate.cli.table import a_path, argument, command, number
from striate.console import track, waiting
from striate.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from striate.data.tensors import Split
    from striate.models.checkpoint import Checkpoint
    from striate.serving.export import Network
    from striate.serving.inference import ClassifiedFile

SOURCE = "an experiment, branch, commit or folder, or models:/NAME@ALIAS"
DEVICE = argument(
    "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto",
    help="device to run on; auto takes the first that works of CUDA, MPS and the CPU",
)  # fmt: skip


@command(
    argument(
        "paths", metavar="IMAGE|FOLDER", nargs="+", values="file",
        help="image files, and folders whose images are all read",
    ),
    argument("--checkpoint", metavar="SOURCE", values="sources", default="models", help=SOURCE),
    argument(
        "--top", metavar="N", type=number(1, 1_000_000), default=3, help="how many classes to print"
    ),
    argument("--json", dest="as_json", action="store_true", help="print one JSON object per line"),
    argument(
        "--show", metavar="FOLDER", type=a_path, values="directory",
        help="save each image as the network sees it",
    ),
    argument(
        "--why", metavar="FOLDER", type=a_path, values="directory",
        help="save each image with what spoke for its likeliest class (red) and against it (blue)",
    ),
    DEVICE,
)  # fmt: skip
def predict(
    paths: list[str],
    checkpoint: str,
    top: int,
    as_json: bool,
    show: Path | None,
    why: Path | None,
    device: str,
) -> None:
    """Classify images.

    Reads images of any format, size and colour, and prints the most probable classes of each;
    flags out-of-distribution images. Exit status 1 if one cannot be read.

    Example: striate predict photo.jpg --checkpoint mnist
    """
    folders = [folder for folder in (show, why) if folder]
    for folder in folders:
        workspace.output_folder(folder)
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError(f"--show and --why are both {show}; name two folders")
    with waiting("loading PyTorch"):
        from striate.datasets.image_reading import ImageReadError
        from striate.models import model_json
        from striate.serving import inference

    files = inference.find_files(paths)
    trained, chosen = _load(checkpoint, device)
    if trained.description["confidence"] is None:
        workspace.note(
            f"this network was trained with fewer than {model_json.LEAST_IMAGES} validation"
            " images: its probabilities are not calibrated, and it flags no out-of-distribution"
            " images"
        )
    broken, peak = 0, trained.normalization.peak
    # Answers that go to the terminal are their own progress bar.
    tracked = files if sys.stdout.isatty() else track(files, "images")
    found_files = inference.classify(files, trained, chosen, why is not None)
    for file, found in zip(tracked, found_files, strict=True):
        if isinstance(found, ImageReadError):
            broken += 1
            print(f"error: {found}", file=sys.stderr)
            if as_json:
                print(json.dumps({"file": str(file), "error": str(found)}))
            continue
        print(_answer(found, trained.classes, top, as_json))
        if show:
            _save(inference.view(found.pixels, peak), file, show)
        if why and found.evidence is not None:
            _save(inference.reasons(found.pixels, peak, found.evidence), file, why)
    if broken:
        print(f"{broken:,} of {len(files):,} images could not be read", file=sys.stderr)
        sys.exit(1)


def _save(view: Image, file: Path, folder: Path) -> None:
    from striate.serving import inference

    target = inference.view_path(file, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    view.save(target)


def _load(source: str, device: str) -> tuple[Checkpoint, torch.device]:
    """A checkpoint on the device that `--device` picks."""
    import tempfile

    from striate.models import checkpoint, devices
    from striate.serving import sources

    workspace.note_unrecorded(source)
    with waiting("loading the network"), tempfile.TemporaryDirectory() as scratch:
        chosen = devices.pick_device(device, "--device")
        return checkpoint.load(sources.find(source, Path(scratch, "found")), chosen), chosen


def _answer(found: ClassifiedFile, classes: Sequence[str], top: int, as_json: bool) -> str:
    """The most probable classes of one image, as a line."""
    from striate.datasets.image_reading import printable

    unlike = found.prediction.out_of_distribution
    ranked = sorted(zip(found.prediction.probabilities, classes, strict=True), reverse=True)
    best = {name: round(probability, 6) for probability, name in ranked[:top]}
    if as_json:
        return json.dumps({"file": str(found.file), "probabilities": best, "unlike": unlike})
    text = ", ".join(f"{name} {probability:.1%}" for name, probability in best.items())
    return f"{printable(found.file)}: {text}{' – unlike the training images' * bool(unlike)}"


@command(
    argument(
        "folder", metavar="FOLDER", type=a_path, values="file",
        help="a folder of images for each class, or what else `data.path` takes; where there are"
        " parts, `test` counts",
    ),
    argument("sources", metavar="SOURCE", nargs="+", values="sources", help=SOURCE),
    DEVICE,
)  # fmt: skip
def evaluate(folder: Path, sources: list[str], device: str) -> None:
    """Score networks on labelled images of your own.

    Prints accuracy, its 95% interval and the errors of each network, best first, on images that
    training never saw, such as a hidden test set. Images are prepared as `striate predict` does,
    and networks score without test-time augmentation. Exit status 1 if a network cannot be used,
    2 if an image cannot be read.

    Example: striate evaluate private/test main deeper
    """
    import tempfile

    from striate.console import columns
    from striate.datasets import image_reading, layouts
    from striate.errors import one_line

    is_archive = folder.is_file() and folder.name.lower().endswith(layouts.ARCHIVES)
    if not (folder.is_dir() or is_archive):
        fault = "is a file" if folder.exists() else "is not there"
        raise UserError(f"{folder} {fault}; name a folder with a folder for each class")
    if (folder / layouts.TEST).is_dir() and not (folder / layouts.TRAIN).exists():
        folder /= layouts.TEST
    scores = {}
    with tempfile.TemporaryDirectory() as scratch, layouts.opened(folder, Path(scratch)) as found:
        if found.skipped:
            workspace.note(image_reading.describe_skipped(found.skipped))
        with waiting("loading PyTorch"):
            from striate.reporting.numbers import interval
            from striate.serving import scoring
        images = scoring.labelled(found)
        for source in dict.fromkeys(sources):
            try:
                trained, chosen = _load(source, device)
                with waiting(f"scoring {source}"):
                    scores[source] = scoring.score(images, trained, chosen)
            except image_reading.ImageReadError:
                raise
            except UserError as error:
                print(f"error: {source}: {one_line(error)}", file=sys.stderr)
    rows = [
        [name, f"{hits / total:.2%}", interval(hits, total), f"{total - hits:,} of {total:,}"]
        for name, (hits, total) in sorted(scores.items(), key=lambda one: -one[1].hits)
    ]
    if rows:
        print(columns([["network", "accuracy", "95% interval", "errors"], *rows]))
    if len(scores) < len(set(sources)):
        sys.exit(1)


@command(
    argument(
        "source", metavar="SOURCE", nargs="?", values="sources", default="models", help=SOURCE
    ),
    argument(
        "--format", dest="kind", required=True, choices=("onnx", "pt2", "safetensors"),
        help="onnx and pt2 hold network and normalization; safetensors, for the Hugging"
        " Face Hub, the weights, config.json and the model card",
    ),
    argument("--int8", action="store_true", help="quantize to 8-bit integers (onnx only)"),
    argument(
        "--to", metavar="FOLDER", type=a_path, values="directory", default=Path("exports"),
        help="where to write the file",
    ),
    DEVICE,
)  # fmt: skip
def export(source: str, kind: str, int8: bool, to: Path, device: str) -> None:
    """Write a network as ONNX, PyTorch pt2 or safetensors.

    Reads the file back, compares its predictions on the test images in data/ with the
    checkpoint's, and times both on the device (an ONNX file on the CPU). ONNX and pt2 files take
    float32 pixels (batch, channels, height, width) from 0 to 255 (digits: 0 to 16), neither scaled
    nor normalized, and return float32 logits.

    Example: striate export mnist --format onnx --int8
    """
    if int8 and kind != "onnx":
        raise UserError(f"--int8 goes with --format onnx only, not with {kind}")
    workspace.check_folder(to)
    workspace.note_unrecorded(source)
    with waiting("loading PyTorch"):
        import tempfile

        import torch

        from striate.data import arrays, tensors
        from striate.models import checkpoint, devices, model_json
        from striate.serving import export, sources

    devices.keep_freed_memory()
    chosen = devices.pick_device(device, "--device")
    with tempfile.TemporaryDirectory() as scratch:
        folder = sources.find(source, Path(scratch, "found"))
        trained = checkpoint.load(folder, torch.device("cpu"))
        size = (folder / checkpoint.WEIGHTS).stat().st_size
    model_json.check_fits(trained.description, arrays.load_manifest(Path("data")))
    test = tensors.load_split(Path("data"), "test", torch.device("cpu"))
    path = to / f"model{'-int8' if int8 else ''}.{export.ENDINGS[kind]}"
    with waiting(f"writing {path}"):
        export.write(trained, kind, path, _calibration_images() if int8 else None)
    if kind == "safetensors":
        # The model card describes the network in models/.
        card = Path("reports/model_card.md") if source == "models" else None
        export.complete(trained, path.parent, card)

    ours = export.eager(checkpoint.Pixels(trained).eval(), chosen)
    theirs = export.read(kind, path, trained.description, chosen)
    print(_compare_predictions(path, ours, theirs, test))
    if kind != "safetensors":
        print(export.usage(trained))
    sys.stdout.flush()
    names = ["PyTorch, eager", str(path)]
    if chosen.type != "cpu":
        names = [f"{names[0]}, on {chosen}", f"{path}, on {'cpu' if kind == 'onnx' else chosen}"]
    networks = dict(
        zip(names, [(ours, size), (theirs, path.stat().st_size)], strict=True)
    )  # fmt: skip
    print(_time(networks, test.images[0].float().numpy()))


def _calibration_images() -> Tensor:
    """The training images that set the ranges of int8."""
    import torch

    from striate.serving import export
    from striate.training import lazy_images

    train = lazy_images.load(Path("data"), "train", torch.device("cpu"))
    return train.images[: export.CALIBRATION_IMAGES].read()


def _compare_predictions(path: Path, ours: Network, theirs: Network, test: Split) -> str:
    """How the predictions of an exported file differ from the checkpoint's."""
    from striate.serving import export

    with waiting("comparing its predictions with the checkpoint's"):
        reference = export.logits_of(ours, test.images)
        found = export.check(reference, export.logits_of(theirs, test.images), test.labels)
    return (
        f"{path}: {found.differing:,} of {len(test.labels):,} test images are predicted differently"
        f" from the checkpoint; accuracy {found.accuracy:.2%}; largest difference between logits"
        f" {found.furthest:.2g}"
    )


def _time(networks: dict[str, tuple[Network, int]], image: np.ndarray) -> str:
    """A table of names, sizes in KiB, and milliseconds a batch."""
    from striate.console import columns
    from striate.serving import export

    with waiting("timing both"):
        times = export.milliseconds({name: run for name, (run, _) in networks.items()}, image)
    heads = [f"ms, batch of {size}" for size in export.TIMED_BATCHES]
    rows = [
        [name, f"{size / 1024:,.0f}", *(f"{value:,.3f}" for value in times[name])]
        for name, (_, size) in networks.items()
    ]
    return columns([["network", "KiB", *heads], *rows])


@command(
    argument(
        "experiment", metavar="EXPERIMENT", values="experiments",
        help="an experiment, branch or `workspace`",
    ),
    argument("--force", action="store_true", help="even if it scores below the champion"),
)  # fmt: skip
def promote(experiment: str, force: bool) -> None:
    """Register an experiment's model as the champion, the one to use.

    The champion is what MLflow's registry calls models:/striate@champion: `striate serve` shows
    it, and other programs load it by that name. Refuses a model that scores below the champion
    (exit status 1): by validation accuracy if both were trained on the same images and held out
    the same ones, else by test accuracy. Promoting by test accuracy selects by it, which makes the
    winner's too high by luck.

    Example: striate promote mnist
    """
    root = workspace.repository()
    from striate.tracking import records

    record = records.named(root, experiment, (records.MODELS,))
    print("registering a model takes 10 to 30 seconds ...", file=sys.stderr, flush=True)
    from striate.serving import registry
    from striate.tracking import background, mlflow_store

    background.wait(root)
    with mlflow_store.reachable():
        promoted, outcome = registry.promote(root, record, force)
    print(outcome)
    sys.exit(0 if promoted else 1)


@command(
    argument("--port", type=number(0, 65535), default=8000, help="on this machine"), DEVICE
)  # fmt: skip
def serve(port: int, device: str) -> None:
    """Serve a drawing demo of the champion.

    The champion is the model that `striate promote` registered. Runs MLflow's scoring server and a
    page that asks it, on this machine only, until Ctrl-C.

    Example: striate serve --port 8001
    """
    import signal

    workspace.dvc_root()
    from striate.models import devices

    chosen = devices.pick_device(device, "--device")
    print("starting the champion's scoring server takes 10 to 40 seconds ...", flush=True)
    from striate.serving import web

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    champion, scoring = web.find_champion(), web.free_port()
    try:
        with (
            web.server(champion, port, scoring) as page,
            web.scoring_server(champion.version, scoring, chosen),
        ):
            print(f"http://127.0.0.1:{page.server_port}/ is open; Ctrl-C stops it.", flush=True)
            page.serve_forever()
    except KeyboardInterrupt:
        print("stopped")
