"""Compare experiments: params, metrics, curves and predictions, with McNemar's test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from striate.analysis import overview
from striate.console import columns
from striate.data import json_csv
from striate.data.arrays import load_manifest, map_split, scale_to_unit
from striate.data.json_csv import MISSING
from striate.evaluation import predictions
from striate.evaluation.metrics import METRICS
from striate.evaluation.scores import surest_mistakes
from striate.reporting import html, numbers
from striate.reporting.figures.curves import overlaid_curves
from striate.reporting.figures.style import png
from striate.tracking import records
from striate.tracking.records import Record

FILES = ("predictions", "metrics/history.csv", "data/manifest.json", records.TEST_SET)
SIGNIFICANT = 0.05
GALLERY = 36  # images on each side


class Side(NamedTuple):
    """One of the compared experiments.

    Attributes:
        name: as the user typed it.
        record: its params, metrics and hashes.
        history: the columns of metrics/history.csv.
        logits: (N, classes).
    """

    name: str
    record: Record
    history: dict[str, list[float]]
    logits: NDArray[np.float32]


class Scored(NamedTuple):
    """The test images: (N, C, H, W) in 0..1, and their labels, (N,)."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: list[str]


class McNemarResult(NamedTuple):
    """How two sets of predictions of the same images differ.

    Attributes:
        only_first, only_second: how many images only the first, and only the second, has right.
        p: the probability of so uneven a split, or a more uneven one, by chance.
    """

    only_first: int
    only_second: int
    p: float


def read(root: Path, name: str, scratch: Path) -> tuple[Side, Scored]:
    """Read an experiment and its test images.

    Args:
        root: the repository.
        name: a DVC experiment, `workspace`, a branch, tag or commit.
        scratch: an empty folder for its files.

    Raises:
        UserError: there is no such experiment, or its files are not in DVC's cache.
    """
    record = records.named(root, name)
    place = records.fetch(root, record, FILES, scratch)
    data = place / "data"
    manifest = load_manifest(data)
    pixels, labels = map_split(data, "test")
    shape = (len(labels), len(manifest["classes"]))
    side = Side(
        name,
        record,
        json_csv.read_history(place / "metrics/history.csv"),
        predictions.read_logits(place / "predictions", shape),
    )
    images = scale_to_unit(pixels, manifest["peak"])
    return side, Scored(images, labels, manifest["classes"])


def same_images(first: Side, other: Side) -> bool:
    """Whether both were scored on the same test images."""
    return first.record.hashes[records.TEST_SET] == other.record.hashes[records.TEST_SET]


def params(sides: Sequence[Side]) -> list[list[str]]:
    """The params that differ: a row for each with its values, `–` where there is none."""
    keys = dict.fromkeys(key for side in sides for key in side.record.params)
    rows = [[key, *(str(side.record.params.get(key, MISSING)) for side in sides)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def metrics(sides: Sequence[Side]) -> list[list[str]]:
    """A row for each metric: of the validation set, then of the test set, then of training.

    A value comes with its difference to the first experiment's, unless their test images differ;
    – stands for a metric that an experiment lacks.
    """
    keys = {
        part: dict.fromkeys(key for side in sides for key in getattr(side.record, part))
        for part in ("train", "test")
    }
    validation = [("train", key) for key in keys["train"] if key.startswith("val_")]
    # Of the accuracy and the loss, the accuracy comes first, as it does in the test set's file.
    validation.sort(key=lambda named: named[1] != records.VALIDATION)
    order = validation + [("test", key) for key in keys["test"]]
    order += [("train", key) for key in keys["train"] if not key.startswith("val_")]
    rows = []
    for part, key in order:
        label, spec = _presentation(part, key)
        first, *others = (getattr(side.record, part).get(key) for side in sides)
        cells = [
            _with_change(value, first, spec) if same_images(sides[0], side) else _value(value, spec)
            for value, side in zip(others, sides[1:], strict=True)
        ]
        rows.append([label, _value(first, spec), *cells])
    return rows


def _presentation(part: str, key: str) -> tuple[str, str]:
    """The label and the format of a metric; those of the test set know their own.

    An empty format is for whatever the value is.
    """
    if part == "test" and key in METRICS:
        return METRICS[key].label, METRICS[key].format_spec
    words = key.replace("val_", "validation ", 1).replace("train_", "training ", 1)
    label = words.replace("_", " ")
    return f"test {label}" * (part == "test") or label, ".2%" * key.endswith("accuracy")


def _value(value: float | None, spec: str) -> str:
    if value is None:
        return MISSING
    return format(value, spec or ("," if isinstance(value, int) else ".4f"))


def _with_change(value: float | None, first: float | None, spec: str) -> str:
    if value is None or first is None or value == first:
        return _value(value, spec)
    change = abs(value - first)
    size = _value(change, spec)
    if size == _value(type(change)(0), spec):  # a difference that so many digits do not show
        size = f"{100 * change:.0e}%" if spec.endswith("%") else f"{change:.0e}"
    return f"{_value(value, spec)} ({'+' if value > first else '−'}{size})"


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemarResult:
    """McNemar's exact test: do two networks differ on the same images by more than chance?

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 12 (1947). If both were equally good, an image that only one of them classifies
    correctly would be either's with a probability of one half.

    Args:
        first: whether the first network classifies each image correctly, (N,).
        second: likewise for the second.
    """
    from scipy.stats import binomtest

    ours, theirs = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0
    return McNemarResult(ours, theirs, p)


def right(side: Side, scored: Scored) -> NDArray[np.bool_]:
    """Whether each test image is classified correctly, (N,)."""
    correct: NDArray[np.bool_] = side.logits.argmax(axis=1) == scored.labels
    return correct


def sentence(first: str, second: str, result: McNemarResult) -> str:
    """The result of the test in words."""
    if not result.only_first and not result.only_second:
        return f"{first} and {second} have the same images right."
    p = f"{result.p:.2g}"
    counts = (
        f"Only {second} has {result.only_second:,} image{'s' if result.only_second != 1 else ''}"
        f" right, only {first} {result.only_first:,} (McNemar's test, p = {p}):"
    )
    if result.p >= SIGNIFICANT:
        return f"{counts} chance may explain the difference."
    better, worse = (second, first) if result.only_second > result.only_first else (first, second)
    return f"{counts} {better} is better than {worse}, and not by chance."


def sentences(sides: Sequence[Side], scored: Scored) -> list[str]:
    """A sentence for each experiment after the first, and one where validation sets differ.

    Args:
        sides: the experiments; the others are compared with the first.
        scored: the test images of the first.
    """
    first = sides[0]
    lines = []
    for other in sides[1:]:
        if first.record.key == other.record.key:
            lines.append(
                f"{first.name} and {other.name} are the same experiment: equal params, data,"
                " weights and scores."
            )
        elif not same_images(first, other):
            lines.append(
                f"{first.name} and {other.name} were scored on different test images, so no"
                " difference between them can be tested."
            )
        else:
            result = mcnemar(right(first, scored), right(other, scored))
            lines.append(sentence(first.name, other.name, result))
    keys = overview.validation_sets_differ([side.record for side in sides])
    if keys:
        lines.append(f"Their validation sets differ ({' and '.join(keys)}).")
    return lines


def text(sides: Sequence[Side], lines: Sequence[str]) -> str:
    """The comparison for a terminal."""
    names = [side.name for side in sides]
    differ = params(sides)
    parts = [
        columns([["param", *names], *differ]) if differ else "no param differs",
        columns([["metric", *names], *metrics(sides)]),
        *lines,
    ]
    return "\n\n".join(parts)


def right_only_in(winner: Side, loser: Side, scored: Scored) -> list[html.Tile]:
    """Tiles of the images that only the winner has right, the loser's surest mistakes first."""
    chosen = np.flatnonzero(right(winner, scored))
    mistakes, confidence = surest_mistakes(loser.logits[chosen], scored.labels[chosen])
    guesses = loser.logits.argmax(axis=1)
    tiles = []
    for index, p in zip(chosen[mistakes][:GALLERY], confidence, strict=False):
        true, guess = scored.classes[scored.labels[index]], scored.classes[guesses[index]]
        tiles.append(html.tile(scored.images[index], f"{true}, not {guess} ({p:.0%})"))
    return tiles


def page(sides: Sequence[Side], lines: Sequence[str], scored: Scored) -> str:
    """The comparison as an HTML page.

    Args:
        sides: the experiments; the others are compared with the first.
        lines: what `sentences` returns.
        scored: the test images of the first.
    """
    names = [side.name for side in sides]
    tests = [side.record.test for side in sides]
    histories = {side.name: side.history for side in sides}
    galleries: list[dict[str, Any]] = []
    for other in sides[1:]:
        if not same_images(sides[0], other) or sides[0].record.key == other.record.key:
            continue
        for winner, loser in ((other, sides[0]), (sides[0], other)):
            title = f"Right in {winner.name}, wrong in {loser.name}"
            count = int((right(winner, scored) & ~right(loser, scored)).sum())
            tiles = right_only_in(winner, loser, scored)
            galleries.append({"title": title, "tiles": tiles, "count": count})
    return html.render(
        "compare.html.j2",
        title=" against ".join([" and ".join(names[1:]), names[0]]),
        names=names,
        sentences=lines,
        params=params(sides),
        metrics=metrics(sides),
        intervals=[numbers.interval(round(t["accuracy"] * t["n"]), int(t["n"])) for t in tests],
        **{
            name: html.embedded(png(overlaid_curves(histories, stacked)))
            for name, stacked in (("curves", False), ("curves_stacked", True))
        },
        galleries=galleries,
    )
