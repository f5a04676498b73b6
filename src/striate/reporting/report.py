"""The page of one experiment: a self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from striate.evaluation.metrics import METRICS, others
from striate.evaluation.scores import per_class_scores
from striate.models import configs
from striate.reporting import galleries
from striate.reporting.figures.registry import SECTIONS, Drawing
from striate.reporting.html import embedded, render, shown_width
from striate.reporting.numbers import epochs, interval, mean_interval, mean_sd, percent, plural
from striate.reporting.results import Results
from striate.reporting.uncertainty import Mean

FOLDER_PARAMS = (
    "data.path",
    "data.size",
    "data.resize",
    "data.test_size",
    "data.leave_out",
)  # which other data sets ignore


def page(results: Results, drawings: Sequence[Drawing]) -> str:
    """The page, in HTML.

    Args:
        results: of the experiment.
        drawings: of its figures; each appears in the section that its entry names.
    """
    train, test, params = results.train, results.test, results.params
    data, arch = params["data.name"], params["model.arch"]
    size = configs.stated_size(params)
    network = ", ".join(filter(None, [arch, results.layers]))
    width = f", width {size['width']}" if "width" in size else ""
    return render(
        "report.html.j2",
        title=f"{data}: {network}, {percent(test['accuracy'])} test accuracy",
        sentence=(
            f"This network ({network}{width}, {train['parameters']:,} parameters) was"
            f" trained on {results.train_count:,} images of {data} for {epochs(train['epochs'])}"
            f" with {params['training.optimizer']} and batches of {params['training.batch_size']},"
            f" then scored once on {test['n']:,} test images."
        ),
        sections=SECTIONS,
        headline=headline(train, test, results.validation_count, results.means),
        spread=seeds_sentence(results),
        ranges=ranges_sentence(results.means),
        choice=selection_advice(train),
        figures={
            section: [_shown(drawing) for drawing in drawings if drawing.entry.section == section]
            for section in SECTIONS
        },
        classes=class_rows(
            results.confusion, results.classes, results.manifest["train"]["per_class"]
        ),
        calibration=calibration_sentence(results.calibration),
        errors=METRICS["errors"].shown(test),
        shifted_images=f"{min(params['evaluate.shifted'], test['n']):,}",
        similar=results.mistakes.neighbours.shape[1],
        params={key: value for key, value in params.items() if is_read(key, results)},
        arguments=" ".join(map(quote, results.arguments)),
        hashes=results.hashes,
        **_galleries(results),
    )


def is_read(key: str, results: Results) -> bool:
    """Whether the data set and the network of an experiment read a param."""
    if key in FOLDER_PARAMS:
        return bool(results.params["data.name"] == "folder")
    section, _, name = key.partition(".")
    known = results.config.model_fields
    # The base class stands for a network that is not known here, which may read any.
    return section != "model" or results.config is configs.NetworkConfig or name in known


def _shown(drawing: Drawing) -> dict[str, Any]:
    """A figure as the template shows it."""
    return {
        "source": embedded(drawing.png),
        "narrow": embedded(drawing.narrow) if drawing.narrow else "",
        "width": shown_width(drawing.png),
        "alt": drawing.alt,
        "caption": drawing.caption,
        "chart": drawing.entry.chart,
    }


def _galleries(results: Results) -> dict[str, list[galleries.Tile]]:
    chosen, classes = results.selection, results.classes
    images, labels, logits = results.images, results.labels, results.logits
    return {
        "samples": galleries.samples(results.train_images, results.train_labels, classes),
        "predictions": galleries.predictions(
            images[chosen], labels[chosen], logits[chosen], classes
        ),
        "mistakes": galleries.mistakes(results),
    }


def headline(
    train: dict[str, float], test: dict[str, float], validated: int, means: Mapping[str, Mean]
) -> list[dict[str, Any]]:
    """The numbers that stand first, each with what puts it into proportion.

    Args:
        train: what metrics/train.json holds.
        test: what metrics/test.json holds.
        validated: how many images the validation part has.
        means: over seeds, by the name of the number.
    """
    n = int(test["n"])
    tiles = []
    if "val_accuracy" in train:
        right = round(train["val_accuracy"] * validated)
        tiles.append(
            ("validation accuracy", percent(train["val_accuracy"]), interval(right, validated))
        )
    tiles += [
        ("test accuracy", percent(test["accuracy"]), interval(round(test["accuracy"] * n), n)),
        ("test errors", METRICS["errors"].shown(test), f"of {n:,} images"),
        (
            "training accuracy",
            percent(train["train_accuracy"]),
            f"after {epochs(train.get('kept_epoch', train['epochs']))}",
        ),
        *((metric.label, metric.shown(test), metric.note) for metric in others(test)),
        ("parameters", f"{train['parameters']:,}", "numbers that training changes"),
    ]
    return [
        {"name": name, "value": value, "note": note, "seeds": seeds_note(means.get(name))}
        for name, value, note in tiles
    ]


def seeds_note(mean: Mean | None) -> list[str]:
    """A mean over seeds with its interval, in short lines; none without several seeds."""
    if mean is None:
        return []
    return [f"over {plural(mean.n, 'seed')}:", mean_sd(mean), f"({mean_interval(mean)})"]


def seeds_sentence(results: Results) -> str:
    """What the seed draws, and how far the accuracies vary with it, or how to find out."""
    draws = ["the first weights", "the order of the batches", "the augmentation"]
    is_fixed = results.params["data.split_seed"] != "auto"
    if results.validation_count and not is_fixed:
        draws.insert(0, "the validation set")
    fixed = "the validation set"
    if results.params["data.per_class"]:
        fixed += " and the training images"
        if not is_fixed:
            draws.insert(-3, "the training images")
    drawn = f"The seed draws {', '.join(draws[:-1])} and {draws[-1]}"
    drawn += f"; data.split_seed fixes {fixed}." if is_fixed else "."
    if not results.means:
        return (
            f"{drawn} These are the results of one seed; `striate repeat` trains others, and this"
            " page then shows how far the results vary."
        )
    said = ", ".join(
        f"{name} {mean_sd(mean)} ({mean_interval(mean)})" for name, mean in results.means.items()
    )
    return (
        f"{drawn} Mean ± standard deviation over {plural(len(results.seeds), 'seed')}, with the 95%"
        f" interval of the mean: {said}."
    )


def ranges_sentence(means: Mapping[str, Mean]) -> str:
    """What the ranges of the headline are."""
    if not means:
        return "Ranges are 95% confidence intervals (Wilson) for other images of the same kind."
    return (
        "Ranges are 95% confidence intervals: of this network for other images of the same kind"
        " (Wilson), and in brackets of the mean over seeds for other seeds (Student's t)."
    )


def selection_advice(train: dict[str, float]) -> str:
    """By which accuracy to choose among experiments, in a sentence or two."""
    how = (
        "Choose among experiments by validation accuracy"
        if "val_accuracy" in train
        else "To choose among experiments, hold out a validation set (data.val_size)"
    )
    return f"{how}: the highest of several test accuracies is partly luck."


def class_rows(
    confusion: NDArray[np.integer], classes: Sequence[str], stored: Sequence[int]
) -> list[dict[str, Any]]:
    """The table of classes: what `scores.per_class_scores` gives, with hits and intervals.

    Args:
        confusion: what `scores.confusion_matrix` gives.
        classes: the names.
        stored: training images of each class, before any is held out.
    """
    scores = per_class_scores(confusion)
    return [
        row
        | {"name": name, "stored": count, "hits": int(hits)}
        | {"interval": interval(int(hits), int(row["support"]))}
        for row, hits, name, count in zip(scores, np.diag(confusion), classes, stored, strict=True)
    ]


def calibration_sentence(rows: Sequence[dict[str, float]]) -> str:
    """How confidence compares with accuracy, from the rows of `scores.calibration`."""
    total = sum(row["count"] for row in rows)
    error = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / total
    gap = sum(row["count"] * (row["accuracy"] - row["confidence"]) for row in rows) / total
    lean = "underconfident" if gap > 0 else "overconfident"
    return (
        f"On average, confidence is {percent(error)} from accuracy (expected calibration error,"
        f" 15 bins); overall, the network is {lean} by {percent(abs(gap))}."
    )
