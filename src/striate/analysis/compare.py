"""Compare experiments: params, metrics, curves and predictions, of networks and of settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from striate.analysis import overview, significance
from striate.analysis.significance import Trained
from striate.console import columns
from striate.data import json_csv
from striate.data.arrays import load_manifest, map_split, scale_to_unit
from striate.data.json_csv import MISSING
from striate.evaluation import predictions
from striate.evaluation.metrics import METRICS
from striate.evaluation.scores import surest_mistakes
from striate.reporting import html, numbers
from striate.reporting.figures.curves import overlaid_curves
from striate.reporting.figures.seeds import setting_scores
from striate.reporting.figures.style import png
from striate.reporting.numbers import mean_interval, mean_sd
from striate.reporting.uncertainty import Mean
from striate.tracking import groups, records
from striate.tracking.groups import Group
from striate.tracking.records import Record

OF_EACH = ("predictions", "metrics/history.csv")
OF_IMAGES = ("data/manifest.json", records.TEST_SET)
MOST_SEEDS = 50  # of each setting; more would tell little and take seconds to read
GALLERY = 36  # images on each side


class Side(NamedTuple):
    """One of the compared experiments.

    Attributes:
        name: as the user typed it.
        record: its params, metrics and hashes.
        group: the experiments that differ from it in the seed alone, with itself.
        histories: the columns of metrics/history.csv, of each member.
        logits: of each member, (seeds, N, classes).
    """

    name: str
    record: Record
    group: Group
    histories: list[dict[str, list[float]]]
    logits: NDArray[np.float32]

    @property
    def own(self) -> int:
        """The index of the record among the members."""
        return self.group.seeds.index(int(self.record.params["seed"]))


class Scored(NamedTuple):
    """The test images: (N, C, H, W) in 0..1, and their labels, (N,)."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: list[str]


def read(root: Path, name: str, record: Record, group: Group, scratch: Path) -> tuple[Side, Scored]:
    """Read an experiment with its group, and its test images.

    Args:
        root: the repository.
        name: as the user typed it.
        record: of that name.
        group: of the record, which is a member.
        scratch: an empty folder for their files.

    Raises:
        UserError: a file is not in DVC's cache.
    """
    places = [
        records.fetch(root, member, OF_EACH, scratch / str(seed))
        for seed, member in zip(group.seeds, group.members, strict=True)
    ]
    data = records.fetch(root, record, OF_IMAGES, scratch) / "data"
    manifest = load_manifest(data)
    pixels, labels = map_split(data, "test")
    shape = (len(labels), len(manifest["classes"]))
    side = Side(
        name,
        record,
        group,
        [json_csv.read_history(place / "metrics/history.csv") for place in places],
        np.stack([predictions.read_logits(place / "predictions", shape) for place in places]),
    )
    images = scale_to_unit(pixels, manifest["peak"])
    return side, Scored(images, labels, manifest["classes"])


def _first(group: Group, record: Record) -> Group:
    """The first MOST_SEEDS of a group, with the record's own: each takes time to read."""
    own = int(record.params["seed"])
    members = [one for one in group.members if int(one.params["seed"]) == own]
    others = [one for one in group.members if int(one.params["seed"]) != own]
    kept = [*members, *others[: MOST_SEEDS - 1]]
    return group._replace(members=sorted(kept, key=lambda one: int(one.params["seed"])))


def read_all(root: Path, names: Sequence[str], scratch: Path) -> tuple[list[Side], Scored]:
    """Read experiments with their groups, and the test images of the first.

    Of several seeds of one setting, each stands for itself.

    Args:
        root: the repository.
        names: DVC experiments, `workspace`, branches, tags or commits.
        scratch: an empty folder for their files.

    Raises:
        UserError: there is no such experiment, or its files are not in DVC's cache.
    """
    found = records.find(root).records
    named = [records.named(root, name) for name in names]
    own = [groups.of(record, found) for record in named]
    keys = [group.key for group in own]
    own = [
        group._replace(members=[record], repeated=[])
        if keys.count(group.key) > 1
        else _first(group, record)
        for group, record in zip(own, named, strict=True)
    ]
    everything = [
        read(root, name, record, group, scratch / str(n))
        for n, (name, record, group) in enumerate(zip(names, named, own, strict=True))
    ]
    return [side for side, _ in everything], everything[0][1]


def same_images(first: Side, other: Side) -> bool:
    """Whether both were scored on the same test images."""
    return first.record.hashes[records.TEST_SET] == other.record.hashes[records.TEST_SET]


def params(sides: Sequence[Side]) -> list[list[str]]:
    """The params that differ, and the code: a row for each, `–` where there is none."""
    keys = dict.fromkeys(key for side in sides for key in side.record.params)
    rows = [[key, *(overview.param(side.group, key) for side in sides)] for key in keys]
    rows.append(
        ["code", *(records.hash_values(groups.code(side.record.hashes))[:6] for side in sides)]
    )
    return [row for row in rows if len(set(row[1:])) > 1]


def metrics(sides: Sequence[Side]) -> list[list[str]]:
    """A row for each metric: of the validation set, then of the test set, then of training.

    Of several seeds, it is the mean with its standard deviation, and below an accuracy the interval
    of the mean. A value comes with its difference to the first experiment's, unless their test
    images differ; – stands for a metric that an experiment lacks.
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
    several = any(len(side.group.members) > 1 for side in sides)
    rows = [["seeds", *(str(len(side.group.members)) for side in sides)]] if several else []
    for part, key in order:
        label, spec = _presentation(part, key)
        first, *others = (side.group.mean(part, key) for side in sides)
        cells = [
            _with_change(value, first, spec) if same_images(sides[0], side) else _value(value, spec)
            for value, side in zip(others, sides[1:], strict=True)
        ]
        rows.append([label, _value(first, spec), *cells])
        if several and key in (records.VALIDATION, "accuracy"):
            means = [MISSING if m is None else mean_interval(m) for m in (first, *others)]
            rows.append([f"{label}, 95% interval of the mean", *means])
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


def _value(mean: Mean | None, spec: str) -> str:
    if mean is None:
        return MISSING
    if not mean.sd:
        mean = mean._replace(sd=None)  # counts of all seeds are often equal
    return mean_sd(mean, _spec(mean, spec))


def _spec(mean: Mean, spec: str) -> str:
    """A format that fits: counts are whole numbers, unless a mean of them is not."""
    if spec not in ("", ","):
        return spec
    whole = mean.mean.is_integer() and not mean.sd
    return ",.0f" if whole else ",.1f" if spec else ".4f"


def _with_change(mean: Mean | None, first: Mean | None, spec: str) -> str:
    if mean is None or first is None or mean.mean == first.mean:
        return _value(mean, spec)
    change = mean.mean - first.mean
    finer = max(_spec(mean, spec), _spec(first, spec))  # of whole numbers and tenths, tenths
    size = format(abs(change), finer)
    if size == format(0.0, finer):  # a difference that so many digits do not show
        size = f"{100 * abs(change):.0e}%" if finer.endswith("%") else f"{abs(change):.0e}"
    return f"{_value(mean, spec)} ({'+' if change > 0 else '−'}{size})"


def right(side: Side, scored: Scored) -> NDArray[np.bool_]:
    """Whether each test image is classified correctly, (N,)."""
    correct: NDArray[np.bool_] = side.logits[side.own].argmax(axis=1) == scored.labels
    return correct


def trained(side: Side, scored: Scored) -> Trained:
    """The networks of a side's setting, and which test images each has right."""
    return Trained(side.name, side.group.seeds, side.logits.argmax(axis=2) == scored.labels)


def sentences(sides: Sequence[Side], scored: Scored) -> list[str]:
    """What the comparison says: of settings, then of the networks that were named.

    Args:
        sides: the experiments; the others are compared with the first.
        scored: the test images of the first.
    """
    first, *others = sides
    lines, compared = [], []
    for other in others:
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
        elif first.group.key == other.group.key:
            lines.append(
                f"{first.name} and {other.name} are two seeds of one setting; `striate repeat"
                f" {first.name}` shows all of them."
            )
        else:
            compared.append(other)
    lines += significance.setting_sentences(
        trained(first, scored), [trained(other, scored) for other in compared]
    )
    for other in others:
        if same_images(first, other) and first.record.key != other.record.key:
            result = significance.mcnemar(right(first, scored), right(other, scored))
            lines.append(significance.network_sentence(first.name, other.name, result))
    single = [side.record for side in sides if len(side.group.members) == 1]
    keys = overview.validation_sets_differ(single)
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
    logits = loser.logits[loser.own]
    mistakes, confidence = surest_mistakes(logits[chosen], scored.labels[chosen])
    guesses = logits.argmax(axis=1)
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
    histories = {side.name: mean_history(side.histories) for side in sides}
    several = any(len(side.group.members) > 1 for side in sides)
    scores = {side.name: side.group.scores("test", "accuracy") for side in sides}
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
        seeds=_shown(png(setting_scores(scores))) if several else None,
        spread=several,
        galleries=galleries,
    )


def _shown(picture: bytes) -> dict[str, Any]:
    return {"source": html.embedded(picture), "width": html.shown_width(picture)}


def mean_history(histories: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    """The mean of each column over seeds, and as `NAME_sd` its standard deviation.

    A training that was stopped early ends the mean.
    """
    if len(histories) == 1:
        return histories[0]
    length = min(len(history["epoch"]) for history in histories)
    columns: dict[str, list[float]] = {"epoch": histories[0]["epoch"][:length]}
    for name in histories[0]:
        if name != "epoch" and all(name in history for history in histories):
            values = np.array([history[name][:length] for history in histories])
            columns[name] = values.mean(axis=0).tolist()
            columns[f"{name}_sd"] = values.std(axis=0, ddof=1).tolist()
    return columns
