"""What differs between experiments, and whether the difference is more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from striate.analysis import overview
from striate.data import json_csv
from striate.data.arrays import load_manifest, map_split, scale_to_unit
from striate.evaluation import predictions
from striate.evaluation.scores import surest_mistakes
from striate.reporting import figures, report
from striate.tables import columns
from striate.tracking import records
from striate.tracking.records import Record

FILES = ("predictions", "metrics/history.csv", "data/manifest.json", records.TEST_SET)
WORDS = {"ece": "calibration error", "macro_f1": "macro F1", "n": "images"}  # of test.json
SIGNIFICANT = 0.05
GALLERY = 36  # images on each side


class Side(NamedTuple):
    """One of the experiments that are compared.

    Attributes:
        name: as it was asked for.
        record: what DVC's files say of it.
        history: the columns of metrics/history.csv.
        logits: (N, classes).
    """

    name: str
    record: Record
    history: dict[str, list[float]]
    logits: NDArray[np.float32]


class Scored(NamedTuple):
    """What the experiments were scored on: images (N, C, H, W) in 0..1, labels (N,)."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: list[str]


class Verdict(NamedTuple):
    """Two sets of predictions of the same images.

    Attributes:
        first, second: how many images only the first, and only the second, has right.
        p: the probability of so uneven a split, or a more uneven one, by chance.
    """

    first: int
    second: int
    p: float


def read(root: Path, name: str, scratch: Path) -> tuple[Side, Scored]:
    """An experiment and its test images.

    Args:
        root: the repository.
        name: a DVC experiment, `workspace`, a branch, tag or commit.
        scratch: an empty folder for its files.

    Raises:
        UserError: there is none, or DVC does not have its files.
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
    rows = [
        [key, *(str(side.record.params.get(key, overview.NONE)) for side in sides)] for key in keys
    ]
    return [row for row in rows if len(set(row[1:])) > 1]


def metrics(sides: Sequence[Side]) -> list[list[str]]:
    """A row for each metric, those of the validation set first, then those of the test set.

    Each value after the first comes with the difference to it, unless it was measured on other
    data.
    """
    named: dict[str, tuple[str, str]] = {}
    for part in ("train", "test"):
        for key in dict.fromkeys(key for side in sides for key in getattr(side.record, part)):
            words = WORDS.get(key, key.replace("val_", "validation ", 1).replace("_", " "))
            named[f"test {words}" if part == "test" else words] = part, key
    ranks = ("validation", "test", "train")
    order = sorted(named, key=lambda name: [*map(name.startswith, ranks), True].index(True))
    # Of the accuracy and the loss, the accuracy comes first, as it does in the test set's file.
    order.sort(key=lambda name: name != "validation accuracy")
    rows = []
    for name in order:
        part, key = named[name]
        first, *others = (getattr(side.record, part).get(key) for side in sides)
        cells = [
            _with_change(value, first) if same_images(sides[0], side) else _value(value)
            for value, side in zip(others, sides[1:], strict=True)
        ]
        rows.append([name, _value(first), *cells])
    return rows


def _value(value: float | None) -> str:
    if value is None:
        return overview.NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _with_change(value: float | None, first: float | None) -> str:
    if value is None or first is None or value == first:
        return _value(value)
    change = value - first
    size = _value(abs(change))
    if float(size.replace(",", "")) == 0:  # a difference that four digits do not show
        size = f"{abs(change):.0e}"
    return f"{_value(value)} ({'+' if change > 0 else '−'}{size})"


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Verdict:
    """Whether two networks that saw the same images differ by more than chance.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 12 (1947), in its exact form: of the images that only one of them has right, each
    half should be one's, as with a fair coin.

    Args:
        first: whether each image is right, shape (N,).
        second: likewise.
    """
    from scipy.stats import binomtest

    ours, theirs = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0
    return Verdict(ours, theirs, p)


def right(side: Side, scored: Scored) -> NDArray[np.bool_]:
    """Whether each test image is right."""
    found: NDArray[np.bool_] = side.logits.argmax(axis=1) == scored.labels
    return found


def said(first: str, second: str, verdict: Verdict) -> str:
    """A verdict in words."""
    if not verdict.first and not verdict.second:
        return f"{first} and {second} have the same images right."
    p = f"{verdict.p:.2g}"
    counts = (
        f"Only {second} has {verdict.second:,} image{'s' if verdict.second != 1 else ''} right,"
        f" only {first} {verdict.first:,} (McNemar's test, p = {p}):"
    )
    if verdict.p >= SIGNIFICANT:
        return f"{counts} chance may explain the difference."
    better, worse = (second, first) if verdict.second > verdict.first else (first, second)
    return f"{counts} {better} is better than {worse}, and not by chance."


def sentences(sides: Sequence[Side], scored: Scored) -> list[str]:
    """What is said of each experiment after the first.

    Args:
        sides: the first is what the others are compared with.
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
            verdict = mcnemar(right(first, scored), right(other, scored))
            lines.append(said(first.name, other.name, verdict))
    keys = overview.validation_sets_differ([side.record for side in sides])
    if keys:
        lines.append(f"Their validation sets differ ({' and '.join(keys)}).")
    return lines


def text(sides: Sequence[Side], said: Sequence[str]) -> str:
    """The comparison for a terminal."""
    names = [side.name for side in sides]
    differ = params(sides)
    parts = [
        columns([["param", *names], *differ]) if differ else "no param differs",
        columns([["metric", *names], *metrics(sides)]),
        *said,
    ]
    return "\n\n".join(parts)


def only(winner: Side, loser: Side, scored: Scored) -> list[report.Tile]:
    """Images that one has right and the other wrong, the other's surest mistakes first."""
    chosen = np.flatnonzero(right(winner, scored))
    where, sure = surest_mistakes(loser.logits[chosen], scored.labels[chosen])
    guesses = loser.logits.argmax(axis=1)
    tiles = []
    for index, p in zip(chosen[where][:GALLERY], sure, strict=False):
        true, guess = scored.classes[scored.labels[index]], scored.classes[guesses[index]]
        tiles.append(report.tile(scored.images[index], f"{true}, not {guess} ({p:.0%})"))
    return tiles


def page(sides: Sequence[Side], said: Sequence[str], scored: Scored) -> str:
    """The comparison as an HTML page.

    Args:
        sides: the first is what the others are compared with.
        said: what `sentences` gives.
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
            tiles = only(winner, loser, scored)
            galleries.append({"title": title, "tiles": tiles, "count": count})
    return report.render(
        "compare.html.j2",
        title=" against ".join([" and ".join(names[1:]), names[0]]),
        names=names,
        sentences=said,
        params=params(sides),
        metrics=metrics(sides),
        intervals=[report.interval(int(t["n"] - t["errors"]), int(t["n"])) for t in tests],
        **{
            name: report.embedded(figures.png(figures.overlaid_curves(histories, stacked)))
            for name, stacked in (("curves", False), ("curves_stacked", True))
        },
        galleries=galleries,
    )
