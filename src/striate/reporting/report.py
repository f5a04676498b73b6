"""Values in, one self-contained HTML page out."""

from __future__ import annotations

import base64
import io
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from striate.config.params import Params, flatten
from striate.config.recipes import arguments
from striate.data.splits import held_out_count
from striate.evaluation.scores import per_class_scores, surest_mistakes, wilson

SAMPLES, PREDICTIONS, MISTAKES = 36, 100, 36  # images in each gallery, at most


class Tile(NamedTuple):
    """An image of a gallery."""

    source: str
    caption: str
    wrong: bool


def render(template: str, **values: Any) -> str:
    """Fill in one of the templates of this package; every value is escaped."""
    environment = Environment(
        loader=PackageLoader("striate.reporting"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(values)


class Picture(NamedTuple):
    """A picture of the page."""

    source: str
    width: int  # pixels at which it is shown: fewer than it has, so that it is sharp on any screen


def embedded(png: bytes) -> str:
    """A PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def picture(png: bytes) -> Picture:
    """A picture of the page, from the content of a PNG file."""
    with Image.open(io.BytesIO(png)) as image:
        return Picture(embedded(png), image.width * 3 // 5)


def percent(share: float, digits: int = 2) -> str:
    """A fraction in percent."""
    return f"{share:.{digits}%}"


def epochs(count: float) -> str:
    """A number of epochs in words."""
    return f"{count:,} epoch{'s' if count != 1 else ''}"


def interval(hits: int, total: int) -> str:
    """Wilson's 95 % interval of a proportion, in percent."""
    low, high = wilson(hits, total)
    return f"{100 * low:.2f} to {high:.2%}"


def tile(pixels: NDArray[np.floating], caption: str, wrong: bool = False) -> Tile:
    """An image of a gallery.

    Args:
        pixels: (C, H, W) in 0..1, C is 1 or 3.
        caption: what stands below it.
        wrong: whether it is framed as a mistake.
    """
    levels = np.clip(np.rint(255 * pixels), 0, 255).astype(np.uint8)
    layout = levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(layout).save(buffer, format="png")
    return Tile(embedded(buffer.getvalue()), caption, wrong)


def spread(labels: NDArray[np.integer], count: int) -> NDArray[np.integer]:
    """Indices of images that show all classes: the first image of each, then the second, and so on.

    Of more classes than `count`, as many are shown, evenly apart.

    Args:
        labels: (N,) of all images.
        count: the most images.

    Returns:
        (M,) with M of at most `count`.
    """
    order = np.argsort(labels, kind="stable")
    _, firsts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    if len(firsts) > count:
        chosen = firsts[np.linspace(0, len(firsts) - 1, count).round().astype(int)]
    else:
        turns = np.arange(len(labels)) - np.repeat(firsts, sizes)
        chosen = np.argsort(turns, kind="stable")[:count]
    return np.asarray(order[chosen])


def samples(
    pictures: NDArray[np.floating], labels: NDArray[np.integer], classes: list[str]
) -> list[Tile]:
    """Training images under the names of their classes."""
    return [tile(image, classes[label]) for image, label in zip(pictures, labels, strict=True)]


def predictions(
    pictures: NDArray[np.floating],
    labels: NDArray[np.integer],
    logits: NDArray[np.floating],
    classes: list[str],
) -> list[Tile]:
    """Test images under what was predicted."""
    tiles = []
    for image, label, row in zip(pictures, labels, logits, strict=True):
        guess = int(row.argmax())
        wrong = guess != label
        caption = f"{classes[guess]}, not {classes[label]}" if wrong else classes[guess]
        tiles.append(tile(image, caption, wrong))
    return tiles


def mistakes(
    pictures: NDArray[np.floating],
    labels: NDArray[np.integer],
    logits: NDArray[np.floating],
    classes: list[str],
) -> list[Tile]:
    """The test images of whose wrong class the network is surest, surest first."""
    found, sureness = surest_mistakes(logits, labels)
    guesses = logits.argmax(axis=1)
    return [
        tile(
            pictures[index],
            f"{classes[guesses[index]]} {sure:.1%}, is {classes[labels[index]]}",
            wrong=True,
        )
        for index, sure in zip(found[:MISTAKES], sureness, strict=False)
    ]


def headline(
    train: dict[str, float], test: dict[str, float], validated: int
) -> list[dict[str, str]]:
    """The numbers that stand first, each with what puts it into proportion.

    Args:
        train: what metrics/train.json holds.
        test: what metrics/test.json holds.
        validated: how many images the validation part has.
    """
    n, errors = int(test["n"]), int(test["errors"])
    tiles = []
    if "val_accuracy" in train:
        right = round(train["val_accuracy"] * validated)
        tiles.append(
            {
                "name": "validation accuracy",
                "value": percent(train["val_accuracy"]),
                "note": interval(right, validated),
            }
        )
    tiles += [
        {
            "name": "test accuracy",
            "value": percent(test["accuracy"]),
            "note": interval(n - errors, n),
        },
        {"name": "test errors", "value": f"{errors:,}", "note": f"of {n:,} images"},
        {
            "name": "training accuracy",
            "value": percent(train["train_accuracy"]),
            "note": f"after {epochs(train['kept_epoch'])}",
        },
        {"name": "test loss", "value": f"{test['loss']:.4f}", "note": "cross-entropy in nats"},
        {"name": "macro F1", "value": f"{test['macro_f1']:.4f}", "note": "mean over the classes"},
        {
            "name": "calibration error",
            "value": percent(test["ece"]),
            "note": "confidence against accuracy",
        },
        {
            "name": "parameters",
            "value": f"{train['parameters']:,}",
            "note": "numbers that training changes",
        },
    ]
    return tiles


def choice_said(train: dict[str, float]) -> str:
    """By which accuracy to choose among experiments, in a sentence or two."""
    how = (
        "Choose among experiments by validation accuracy"
        if "val_accuracy" in train
        else "To choose among experiments, hold images out for validation (data.val_size)"
    )
    return (
        f"{how}: each was scored on the test set once, and the highest of several test accuracies"
        " is partly luck."
    )


def class_rows(
    scores: list[dict[str, float]], confusion: NDArray[np.integer], classes: list[str]
) -> list[dict[str, Any]]:
    """The table of classes: what `scores.per_class_scores` gives, with hits and intervals."""
    return [
        row
        | {"name": name, "hits": int(hits), "interval": interval(int(hits), int(row["support"]))}
        for row, hits, name in zip(scores, np.diag(confusion), classes, strict=True)
    ]


def calibration_said(rows: list[dict[str, float]], error: float) -> str:
    """The calibration in a sentence.

    Args:
        rows: what `scores.calibration` gives.
        error: the expected calibration error.
    """
    total = sum(row["count"] for row in rows)
    gap = sum(row["count"] * (row["accuracy"] - row["confidence"]) for row in rows) / total
    lean = "too unsure" if gap > 0 else "too sure"
    return (
        f"Confidence is {percent(error)} from accuracy on average (expected calibration error,"
        f" 15 bins); on the whole, the network is {lean} by {percent(abs(gap))}."
    )


def page(
    settings: Params,
    manifest: dict[str, Any],
    scores: dict[str, dict[str, float]],
    hashes: dict[str, str],
    pictures: dict[str, bytes],
    confusion: NDArray[np.integer],
    calibration: list[dict[str, float]],
    galleries: dict[str, list[Tile]],
) -> str:
    """The page that shows one experiment.

    Args:
        settings: all of params.yaml.
        manifest: of the data.
        scores: what metrics/train.json and metrics/test.json hold, as `train` and `test`.
        hashes: by which the run is found in MLflow.
        pictures: PNG by name, as in reports/figures, and `curves_stacked`.
        confusion: what `scores.confusion_matrix` gives.
        calibration: what `scores.calibration` gives.
        galleries: `samples`, `predictions` and `mistakes`.
    """
    train, test = scores["train"], scores["test"]
    model, training = settings.model, settings.training
    total = manifest["train"]["count"]
    validated = held_out_count(total, settings.data.val_size)
    flat = flatten(settings.model_dump())
    folder_only = ("data.path", "data.size", "data.test_size")
    matter = {
        key: value
        for key, value in flat.items()
        if settings.data.name == "folder" or key not in folder_only
    }
    layers = f"{model.layers} layer{'s' if model.layers > 1 else ''}"
    return render(
        "report.html.j2",
        title=f"{settings.data.name}: {model.arch} of {layers}, {percent(test['accuracy'])} right",
        sentence=(
            f"A network ({model.arch}, {layers}, width {model.width}, {train['parameters']:,}"
            f" parameters) learnt from {total - validated:,} images of {settings.data.name} in"
            f" {epochs(train['epochs'])} of {training.optimizer} with batches of"
            f" {training.batch_size}, and was scored once on {test['n']:,} test images."
        ),
        headline=headline(train, test, validated),
        choice=choice_said(train),
        pictures={name: picture(content) for name, content in pictures.items()},
        filters=[
            (name.removeprefix("filters_"), picture(content))
            for name, content in pictures.items()
            if name.startswith("filters_")
        ],
        classes=class_rows(per_class_scores(confusion), confusion, manifest["classes"]),
        calibration=calibration_said(calibration, test["ece"]),
        errors=f"{test['errors']:,}",
        params=matter,
        arguments=" ".join(quote(part) for part in arguments(flat)),
        hashes=hashes,
        **galleries,
    )
