"""What DVC's files say of an experiment: the truth that MLflow's runs are a view of.

An experiment is known by what went into it and came out of it, as `dvc.lock` has it: the params,
and DVC's own hashes of the data's manifest, of the checkpoint and of the test scores. Two
experiments with equal hashes are one, whatever their names.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from striate.errors import UserError
from striate.files import md5
from striate.git import git
from striate.params import Loader, flatten
from striate.results import check_metrics, one_line, parse_json

# What identifies an experiment, and the tags by which its run is found.
PARAMS, DATA, CHECKPOINT = "striate.params", "striate.data", "striate.checkpoint"
EVALUATION = "striate.evaluation"

TRAINED_BY = ("seed", "data", "augment", "model", "training")  # the sections that train reads
MANIFEST, MODELS = "data/manifest.json", "models"
PAGES = {  # what visualize writes, and the folders for it in a run
    "reports/figures": "figures",
    "reports/index.html": "report",
    "reports/model_card.md": "card",
}
TRAIN, TEST = "metrics/train.json", "metrics/test.json"
COUNTS = ("parameters", "epochs", "kept_epoch")  # in TRAIN; the last came later than the others
TABLES = ("metrics/history.csv", "metrics/steps.csv")
EXPERIMENT_REF = re.compile(r"(?P<commit>\S+) refs/exps/(?P<a>\w{2})/(?P<b>\w{38})/(?P<name>\S+)")

WORKSPACE = "workspace"  # how the working tree is called

Point = tuple[str, float, int]  # metric, value, step


@dataclass(frozen=True)
class Name:
    """One way in which an experiment is called."""

    name: str
    commit: str = ""  # where DVC keeps it; none for the workspace
    baseline: str = ""  # the commit that it started from


@dataclass
class Record:
    """An experiment as DVC keeps it.

    Attributes:
        names: what it is called; the first is the one to show.
        identity: its hashes, by tag.
        params: flat, of training and evaluation.
        train: what metrics/train.json holds.
        test: what metrics/test.json holds.
        revision: the commit to read its files from; None for the working tree.
        pages: those of PAGES that it has; they came one after the other.
    """

    names: list[Name]
    identity: dict[str, str]
    params: dict[str, Any]
    train: dict[str, float]
    test: dict[str, float]
    revision: str | None
    pages: list[str]


def trained_by(params: dict[str, Any]) -> dict[str, Any]:
    """Those of the flat params that train reads."""
    return {key: value for key, value in params.items() if key.split(".")[0] in TRAINED_BY}


def training_identity(params: dict[str, Any], folder: Path) -> dict[str, str]:
    """The identity of a training, from flat params and the files that it left in a working tree."""
    return _training_identity(params, lambda path: md5(folder / path))


def evaluation_identity(params: dict[str, Any], folder: Path) -> dict[str, str]:
    """The identity of an evaluation, from flat params and the scores in a working tree."""
    return _evaluation_identity(params, lambda path: md5(folder / path))


def _training_identity(params: dict[str, Any], hash_of: Callable[[str], str]) -> dict[str, str]:
    return {
        PARAMS: hash_values(trained_by(params)),
        DATA: hash_of(MANIFEST),
        CHECKPOINT: hash_of(MODELS),
    }


def _evaluation_identity(params: dict[str, Any], hash_of: Callable[[str], str]) -> dict[str, str]:
    own = {key: value for key, value in params.items() if key.startswith("evaluate.")}
    return {EVALUATION: hash_values(own | {TEST: hash_of(TEST)})}


def hash_values(values: dict[str, Any]) -> str:
    """One hash of plain values, whatever their order."""
    return hashlib.md5(
        json.dumps(values, sort_keys=True).encode(), usedforsecurity=False
    ).hexdigest()


def head(root: Path) -> str:
    """The commit that HEAD stands at.

    Raises:
        UserError: there is none.
    """
    commit = git(root, "rev-parse", "--verify", "HEAD")
    if commit is None:
        raise UserError(
            f"{root} is not a Git repository with a commit; experiments live in commits"
        )
    return commit.strip()


def find(root: Path) -> list[Record]:
    """Every experiment that DVC knows here: the working tree, HEAD, and all of `dvc exp list -A`.

    Experiments with equal identities come as one record with several names. What has not been
    evaluated yet is no experiment and is left out.

    Raises:
        UserError: this is no Git repository.
    """
    found = [_record(name, _reader(root, name.commit), name.commit) for name in _listed(root)]
    found.append(_record(Name(WORKSPACE), _working_tree(root), None))

    records: dict[str, Record] = {}
    for record in found:
        if record is None:
            continue
        # Scores that were edited by hand differ although dvc.lock, which is identical, does not.
        key = hash_values(record.identity | {TRAIN: record.train, TEST: record.test})
        if key not in records:
            records[key] = record
        elif record.revision is not None:
            records[key].names += record.names
    return list(records.values())


def _listed(root: Path) -> list[Name]:
    """HEAD, and the experiments of DVC, evaluated or not."""
    commit = head(root)
    branch = (git(root, "symbolic-ref", "--short", "-q", "HEAD") or commit[:7]).strip()
    listed = [Name(branch, commit)]
    refs = git(root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or ""
    for match in EXPERIMENT_REF.finditer(refs):
        listed.append(Name(match["name"], match["commit"], match["a"] + match["b"]))
    return listed


def named(root: Path, name: str) -> Record:
    """The experiment of this name: DVC's, `workspace`, or what a branch, tag or commit holds.

    Raises:
        UserError: there is none.
    """
    found = find(root)
    for record in found:
        if name in {own.name for own in record.names}:
            return record
    if name in {own.name for own in _listed(root)}:
        there = None
    elif name == WORKSPACE:
        there = _record(Name(name), _working_tree(root), None)
    else:
        asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", name + "^{commit}")
        commit = (git(root, *asked) or "").strip()
        if not commit:
            known = ", ".join(own.name for record in found for own in record.names)
            raise UserError(
                f"there is no experiment, branch or commit {name!r}; known here: {known}"
            )
        there = _record(Name(name, commit), _reader(root, commit), commit)
    if there is None:
        raise UserError(f"{name} holds no experiment that was evaluated")
    return there


def fetch(root: Path, record: Record, paths: Sequence[str], scratch: Path) -> Path | None:
    """A folder with files or folders of a record, or None where DVC does not have all of them."""
    if record.revision is None:
        return root if all((root / path).exists() for path in paths) else None
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError

    files = DVCFileSystem(str(root), rev=record.revision)
    try:
        for path in paths:
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            files.get(f"/{path}", str(scratch / path), recursive=True)
    except (OSError, DvcException, DataIndexDirError):
        return None
    return scratch


def curves(table: str, text: str) -> list[Point]:
    """The points of metrics/history.csv or metrics/steps.csv, whose first column is the step."""
    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    try:
        return [
            (name, float(row[column]), int(row[0]))
            for row in rows
            for column, name in enumerate(header)
            if column
        ]
    except (ValueError, IndexError) as error:
        raise UserError(f"{table} is not a table of numbers: {error}") from None


def best(points: list[Point]) -> list[Point]:
    """The best value of each curve that has a direction, as `best/NAME`.

    MLflow draws a metric whose only step is 0 as bars, one a run.
    """
    found: list[Point] = []
    for name in dict.fromkeys(name for name, _, _ in points):
        values = [value for other, value, _ in points if other == name]
        if name.endswith("_accuracy"):
            found.append((f"best/{name}", max(values), 0))
        elif name.endswith("_loss") and name != "step_loss":
            found.append((f"best/{name}", min(values), 0))
    return found


def final(train: dict[str, float]) -> list[Point]:
    """What metrics/train.json holds beyond points of the curves."""
    return [(name, train[name], 0) for name in COUNTS if name in train]


def kept_epoch(train: dict[str, float]) -> int:
    """The epoch that the scores in metrics/train.json are of."""
    return int(train.get("kept_epoch", train["epochs"]))


def scored(test: dict[str, float]) -> list[Point]:
    """What metrics/test.json holds, under the names that it has in a run."""
    return [(f"test_{name}", value, 0) for name, value in test.items()]


def _record(name: Name, read: Callable[[str], str | None], revision: str | None) -> Record | None:
    """A record from dvc.lock and metrics/; None where there is no finished experiment."""
    texts = {path: read(path) for path in ("dvc.lock", TRAIN, TEST)}
    if any(text is None for text in texts.values()):
        return None
    try:
        lock = yaml.load(texts["dvc.lock"] or "", Loader)["stages"]  # noqa: S506
        train, evaluate = lock["train"], lock["evaluate"]
        trained, evaluated = (
            flatten(stage["params"]["params.yaml"]) for stage in (train, evaluate)
        )
        hashes = {entry["path"]: entry["md5"] for entry in train["deps"] + train["outs"]}
        if not _is_of(evaluate, hashes[MODELS]):
            return None  # after a `dvc repro train`, the scores are those of another network
        hashes |= {entry["path"]: entry["md5"] for entry in evaluate["outs"]}
        drawn = lock.get("visualize", {"deps": [], "outs": []})
        pages = [entry["path"] for entry in drawn["outs"] if entry["path"] in PAGES]
        if not _is_of(drawn, hashes[MODELS]):
            pages = []
        params = trained | evaluated
        identity = _training_identity(params, hashes.__getitem__)
        identity |= _evaluation_identity(params, hashes.__getitem__)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"dvc.lock of {name.name} cannot be used: {one_line(error)}") from None
    scores = {}
    for path in (TRAIN, TEST):
        called = path if name.name == WORKSPACE else f"{path} of {name.name}"
        values = parse_json(texts[path] or "", called)
        scores[path] = check_metrics(values, called, Path(path).name)
    return Record([name], identity, params, scores[TRAIN], scores[TEST], revision, pages)


def _is_of(stage: dict[str, Any], models: str) -> bool:
    """Whether a stage, as dvc.lock has it, has read the network with this hash."""
    return any(entry["path"] == MODELS and entry["md5"] == models for entry in stage["deps"])


def _working_tree(root: Path) -> Callable[[str], str | None]:
    def read(path: str) -> str | None:
        return (root / path).read_text() if (root / path).exists() else None

    return read


def _reader(root: Path, commit: str) -> Callable[[str], str | None]:
    return lambda path: git(root, "show", f"{commit}:./{path}")
