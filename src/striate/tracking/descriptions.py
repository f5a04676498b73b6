"""What MLflow's pages say of an experiment beside its params and metrics, as plain values.

Data sets, a description with the command that makes it again, a colour, and what its entry on the
Models page says. `striate.tracking.run_page` writes and verifies them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from striate.datasets.registry import DATASETS
from striate.models import configs
from striate.tracking import groups, mlmodel, points, records
from striate.tracking.points import Point
from striate.tracking.records import Record

NOTE, COLOUR, CONTEXT = "mlflow.note.content", "mlflow.runColor", "mlflow.data.context"  # tags
AGAIN = "Make it again: `"  # what the command in a description follows
IN_TREE = "dvc repro"  # the command of what no commit holds
DIGITS = 8  # of a digest: as many as those have that MLflow computes, and its columns show
MOST_CHANGES = 8  # params in a command; what changes more is named by its commit

# Okabe and Ito's colours that white and black paper show, and three between them.
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c564b", "#7b4fb5",
    "#8a8f00", "#5f7a8a",
)  # fmt: skip


class DataSet(NamedTuple):
    """A data set as MLflow lists it: one for each name and digest.

    Attributes:
        name: data set and part, such as `digits-train`.
        digest: the first digits of the hash of data/manifest.json; the tag `striate.data` has all.
        context: train, validation or test.
        source_type: `http` or `local`.
        source: where it comes from, as JSON.
        schema: the kinds of its images and labels, as JSON.
        profile: their shapes, as JSON.
    """

    name: str
    digest: str
    context: str
    source_type: str
    source: str
    schema: str
    profile: str


def data_sets(record: Record, manifest: Mapping[str, Any] | None = None) -> list[DataSet]:
    """The data sets of an experiment.

    The validation set has the digest of the data that it is held out of; `seed`, `data.val_size`
    and `data.fold` say which images these are.

    Args:
        record: of the experiment.
        manifest: data/manifest.json; None if it is not here.
    """
    name = record.params["data.name"]
    if name in DATASETS:
        origin = ("http", json.dumps({"url": DATASETS[name].page}))
    else:
        origin = ("local", json.dumps({"uri": str(record.params.get("data.path", ""))}))
    parts = [("train", "train"), ("validation", "val"), ("test", "test")]
    if records.VALIDATION not in record.train:
        del parts[1]
    return [
        DataSet(
            f"{name}-{context}", record.identity[records.DATA][:DIGITS], context, *origin,
            *_shapes(manifest, part),
        )
        for context, part in parts
    ]  # fmt: skip


def _shapes(manifest: Mapping[str, Any] | None, part: str) -> tuple[str, str]:
    """The schema and the profile of a part of a data set, as MLflow has them of arrays."""
    if manifest is None:
        return "", ""
    shape = list(manifest["shape"])
    tensors = {
        "features": mlmodel.tensor_spec("uint8", shape),
        "targets": mlmodel.tensor_spec("int64", []),
    }
    schema = {"mlflow_tensorspec": tensors}
    profile: dict[str, Any] = {"classes": len(manifest["classes"])}
    count = manifest.get(part, {}).get("count")
    if count:  # else it is held out of the training set
        profile |= {"features_shape": [count, *shape], "targets_shape": [count]}
    return json.dumps(schema), json.dumps(profile)


def about(record: Record) -> str:
    """What an experiment is, in one line of Markdown."""
    params, train = record.params, record.train
    size = "x".join(str(value) for value in configs.stated_size(params).values())
    network = " ".join(filter(None, [params.get("model.arch"), size]))
    seed = f"seed {params.get('seed', 0)}"
    epochs = f"{train['epochs']:g} epoch{'' if train['epochs'] == 1 else 's'}"
    parts = [network, f"{train.get('parameters', 0):,.0f} parameters", epochs, seed]
    line = f"{params['data.name']}: {', '.join(parts)}"
    if records.VALIDATION in train:
        line += f"; validation accuracy {train[records.VALIDATION]:.2%}"
    return line + "."


def note(record: Record, found: Iterable[Record]) -> str:
    """The description of an experiment: what it is, and the command that makes it again."""
    return f"{about(record)}\n\n{AGAIN}{command(record, found)}`"


def is_stale(text: str | None, record: Record, commits: Iterable[str]) -> bool:
    """Whether a run needs another description than `text`.

    One that a person has written or changed stays, and so does one whose commit still has the
    experiment.

    Args:
        text: of the run; None if it has none.
        record: of the experiment.
        commits: that have the experiment.
    """
    if not text:
        return True
    own = re.fullmatch(re.escape(f"{about(record)}\n\n{AGAIN}") + "([^`]*)`", text)
    if own is None:
        return False
    known = list(commits)
    named = re.match(r"git checkout (\w+) ", own[1])
    return bool(known) if named is None else not any(one.startswith(named[1]) for one in known)


def command(record: Record, found: Iterable[Record]) -> str:
    """The shell command that makes an experiment again, in a clone that has its commit."""
    named = [name for name in record.names if name.commit]
    if not named:
        return IN_TREE
    # Hydra's `-S` is what people type; what it cannot say, the commit of the experiment holds.
    name = next((name for name in named if name.baseline), named[0])
    base = next(
        (one for one in found if name.baseline in [own.commit for own in one.names]), None
    )  # fmt: skip
    if (
        name.baseline
        and base is not None
        and groups.code(base.hashes) == groups.code(record.hashes)
    ):
        changes = _changes(base.params, record.params)
        if changes:
            settings = " ".join(f"-S {shlex.quote(change)}" for change in changes)
            return f"git checkout {name.baseline[:10]} && dvc exp run {settings}"
    return f"git checkout {name.commit[:10]} && {IN_TREE}"


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The params that differ, as `KEY=VALUE`; none where that cannot be said so, or briefly."""
    changed = [key for key in new if old.get(key) != new[key]]
    simple = all(isinstance(new[key], (bool, int, float, str)) for key in changed)
    if old.keys() != new.keys() or not simple or len(changed) > MOST_CHANGES:
        return []
    # Hydra reads these characters, and backquotes end the command in the description.
    values = {key: configs.as_yaml(new[key]) for key in changed}
    if any(re.search(r"[^\w./+-]", value) for value in values.values()):
        return []
    return [f"{key}={value}" for key, value in values.items()]


def next_colour(used: Counter[str]) -> str:
    """The colour that the fewest runs have, of equals the first; counts it as used."""
    colour = min(COLOURS, key=lambda one: used[one])
    used[colour] += 1
    return colour


def model_name(run_name: str) -> str:
    """The name of an experiment's entry on the Models page, without what MLflow refuses there."""
    return re.sub(r"[/:.%\"']", "-", run_name)


def model_scores(record: Record, sets: Sequence[DataSet]) -> list[tuple[Point, DataSet]]:
    """The scores of a checkpoint, each with the data set that it was measured on."""
    by_context = {one.context: one for one in sets}
    kept = points.kept_epoch(record.train)
    of_train = [
        ((name, value, kept), by_context["validation" if name.startswith("val_") else "train"])
        for name, value in record.train.items()
        if name.startswith(("val_", "train_"))
    ]
    return of_train + [(point, by_context["test"]) for point in points.scores(record.test)]
