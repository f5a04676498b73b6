"""What DVC's files say of an experiment: the truth that MLflow's runs are a view of.

An experiment is known by what went into it and came out of it, as `dvc.lock` has it: the params,
and DVC's own hashes of the data's manifest, of the checkpoint and of the test scores. Two
experiments with equal hashes are one, whatever their names. One whose files nobody has here, or
that another pipeline made, is left out and named: nothing is ever said of it as if it were whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from striate.config.params import Loader, flatten
from striate.data.files import md5, write
from striate.data.json_csv import parse_json
from striate.errors import UserError, one_line
from striate.evaluation.metrics import check_metrics
from striate.tracking.git import blobs, commit_of, git, trees

# What identifies an experiment, and the tags by which its run is found.
PARAMS, DATA, CHECKPOINT = "striate.params", "striate.data", "striate.checkpoint"
EVALUATION = "striate.evaluation"

TRAINED_BY = ("seed", "data", "augment", "model", "training")  # the sections that train reads
SPLIT_BY = ("seed", "data.val_size")  # the params that say which images are held out
VALIDATION = "val_accuracy"  # in TRAIN
LOCK = "dvc.lock"
MANIFEST, TEST_SET, MODELS = "data/manifest.json", "data/test", "models"
PAGES = {  # what visualize writes, and the folders for it in a run
    "reports/figures": "figures",
    "reports/index.html": "report",
    "reports/model_card.md": "card",
}
TRAIN, TEST = "metrics/train.json", "metrics/test.json"
COUNTS = ("parameters", "epochs", "kept_epoch")  # in TRAIN; the last came later than the others
TABLES = ("metrics/history.csv", "metrics/steps.csv")
NEEDED = (MODELS, *TABLES, "predictions")  # without these in reach, an experiment is not whole
MEMORY = ".dvc/tmp/striate-records.json"  # of what commits say; may be deleted
MOST_NAMED = 10  # experiments in a message
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
        revision: the commit that it is read from; None for the working tree.
        hashes: path → DVC's hash of each file and folder that its stages read or wrote.
        pages: those of PAGES that are here.
    """

    names: list[Name]
    identity: dict[str, str]
    params: dict[str, Any]
    train: dict[str, float]
    test: dict[str, float]
    revision: str | None
    hashes: dict[str, str]
    pages: list[str]

    @property
    def key(self) -> str:
        """Equal for two names of one experiment: hashes and scores."""
        return hash_values(self.identity | {TRAIN: self.train, TEST: self.test})


class Parsed(NamedTuple):
    """What dvc.lock and the metrics of an experiment say, wherever its files are."""

    identity: dict[str, str]
    params: dict[str, Any]
    train: dict[str, float]
    test: dict[str, float]
    hashes: dict[str, str]


class LeftOut(NamedTuple):
    """An experiment that nothing can be said of, and why."""

    name: str
    reason: str


class Found(NamedTuple):
    """Every experiment that is whole, those that are not, and that of the working tree."""

    records: list[Record]
    left_out: list[LeftOut]
    workspace: Record | None


class NotWholeError(UserError):
    """Why an experiment cannot be used, as a clause without its name."""


class NotEvaluatedError(NotWholeError):
    """It has no scores, or they are those of another network."""


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


def head(root: Path) -> str | None:
    """The commit that HEAD stands at; None before the first one.

    Raises:
        UserError: this is no Git repository.
    """
    commit = git(root, "rev-parse", "--verify", "HEAD")
    if commit is None and git(root, "rev-parse", "--git-dir") is None:
        raise UserError(
            f"{root} is not in a Git repository, and experiments live in its commits:"
            ' git init && git add -A && git commit -m "Start."'
        )
    return commit and commit.strip()


def find(root: Path) -> Found:
    """Every experiment that DVC knows here: the working tree, HEAD, and all of `dvc exp list -A`.

    Experiments with equal identities come as one record with several names.

    Raises:
        UserError: this is no Git repository.
    """
    records: dict[str, Record] = {}
    left_out = []
    workspace = None
    listed = _listed(root)
    parsed = _parsed(root, [name.commit for name in listed])
    for name in [*listed, Name(WORKSPACE)]:
        try:
            record = _record(root, name, NEEDED, parsed)
        except UserError as error:
            # Before the first `dvc repro`, neither is an experiment that anybody asked for.
            if name.baseline or not isinstance(error, NotEvaluatedError):
                left_out.append(LeftOut(name.name, str(error)))
            continue
        # Scores that were edited by hand differ although dvc.lock, which is identical, does not.
        key = record.key
        if key not in records:
            records[key] = record
        elif record.revision is not None:
            records[key].names += record.names
        if record.revision is None:
            workspace = records[key]
    return Found(list(records.values()), left_out, workspace)


def _listed(root: Path) -> list[Name]:
    """HEAD, and the experiments of DVC, evaluated or not."""
    commit = head(root)
    if commit is None:
        return []
    branch = (git(root, "symbolic-ref", "--short", "-q", "HEAD") or commit[:7]).strip()
    listed = [Name(branch, commit)]
    refs = git(root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or ""
    found = [
        Name(match["name"], match["commit"], match["a"] + match["b"])
        for match in EXPERIMENT_REF.finditer(refs)
    ]
    prefix = (git(root, "rev-parse", "--show-prefix") or "").strip() if found else ""
    if prefix:
        # Several projects share this Git repository, and an experiment changes one of them.
        tree = trees(root, {commit for name in found for commit in (name.commit, name.baseline)})
        found = [name for name in found if tree[name.commit] != tree[name.baseline]]
    return listed + found


def named(root: Path, name: str, needed: Sequence[str] = NEEDED) -> Record:
    """The experiment of this name: DVC's, `workspace`, or what a branch, tag or commit holds.

    Args:
        root: the repository.
        name: of the experiment.
        needed: the files and folders that must be here.

    Raises:
        UserError: there is none, there are several, or it is not whole.
    """
    listed = _listed(root)
    asked = [own for own in listed if own.name == name] or [Name(name)] * (name == WORKSPACE)
    if len(asked) > 1:
        # As DVC does: that of HEAD, if there is one.
        asked = [own for own in asked if own.baseline in ("", head(root))] or asked
    if len(asked) > 1:
        commits = ", ".join(own.commit[:7] for own in asked)
        raise UserError(f"several experiments are called {name}; name the commit: {commits}")
    if not asked:
        commit = commit_of(root, name)
        if commit is None:
            known = list(dict.fromkeys([WORKSPACE, *(own.name for own in listed)]))
            raise UserError(
                f"there is no experiment, branch or commit {name!r}; known here: {_some(known)}"
            )
        asked = [Name(name, commit)]
    try:
        return _record(root, asked[0], needed, _parsed(root, [own.commit for own in asked]))
    except NotWholeError as error:
        raise UserError(f"{name} cannot be used: {error}") from None


def in_words(left_out: Iterable[LeftOut]) -> list[str]:
    """A line for each reason, with the names that it is true of."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out:
        by_reason.setdefault(reason, []).append(name)
    return [f"{_some(names)}: {reason}" for reason, names in by_reason.items()]


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def fetch(root: Path, record: Record, paths: Sequence[str], scratch: Path) -> Path:
    """A folder with files or folders of a record: copies in `scratch`, or the working tree.

    Raises:
        UserError: one of them is not here, or is damaged.
    """
    name = record.names[0]
    for path in paths:
        digest = record.hashes.get(path)
        if digest is None or not _has(root, name, path, digest):
            raise UserError(f"{path} of {name.name} is not here; `dvc pull`, or run it once more")
        if record.revision is None:
            continue
        for inside, content in _cached(root, digest):
            target = scratch / path / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(content, target)
            if md5(target) != "".join(Path(content).parts[-2:]):
                raise UserError(
                    f"{Path(path, inside)} of {name.name} is damaged in DVC's cache: delete"
                    f" {content}, then `dvc pull`, or run it once more"
                )
    return root if record.revision is None else scratch


def changed_params(record: Record, params: dict[str, Any]) -> list[str]:
    """The params, flat, that are no longer those that an experiment was made with."""
    return [
        f"{key} {record.params.get(key, '–')} → {value}"
        for key, value in params.items()
        if record.params.get(key) != value
    ]


def is_recorded(root: Path, path: str) -> bool:
    """Whether a file or folder of the working tree is what dvc.lock names; True without one."""
    try:
        lock = yaml.load((root / LOCK).read_text(), Loader)["stages"]  # noqa: S506
        outs = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return True
    return path not in outs or _has(root, Name(WORKSPACE), path, outs[path])


def is_here(root: Path, digest: str) -> bool:
    """Whether DVC's cache holds all of a file or folder."""
    try:
        return all(os.path.exists(content) for _, content in _cached(root, digest))
    except FileNotFoundError:
        return False


def read(root: Path, record: Record, path: str) -> str:
    """The text of one of a record's files.

    Raises:
        UserError: it is not here.
    """
    if record.revision is None:
        return (root / path).read_text()
    ((_, content),) = _cached(root, record.hashes[path])
    try:
        return Path(content).read_text()
    except FileNotFoundError:
        name = record.names[0].name
        raise UserError(f"{path} of {name} is not here; `dvc pull`, or run it once more") from None


def _cached(root: Path, digest: str) -> Iterator[tuple[str, str]]:
    """The files of a hash in DVC's cache: their path in the folder (none for a file), and place.

    Raises:
        FileNotFoundError: the list of a folder's files is not there, or is damaged.
    """
    place = f"{_cache(root)}/{digest[:2]}/{digest[2:]}"
    if not digest.endswith(".dir"):
        yield "", place
        return
    try:
        with open(place, encoding="utf-8") as stream:
            entries = {entry["relpath"]: entry["md5"] for entry in json.load(stream)}
    except (ValueError, KeyError, TypeError):
        raise FileNotFoundError(place) from None
    for path, inside in entries.items():
        yield path, f"{_cache(root)}/{inside[:2]}/{inside[2:]}"


@cache
def _cache(root: Path) -> str:
    """Where DVC keeps files by their hash, which its configuration may say."""
    from dvc.config import Config

    folder = Config(str(root / ".dvc"))["cache"].get("dir") or root / ".dvc" / "cache"
    return str(Path(folder, "files", "md5"))


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


def summary(folder: Path) -> list[Point]:
    """What is logged of a training in a working tree beside its curves."""
    points = [point for table in TABLES for point in curves(table, (folder / table).read_text())]
    return best(points) + final(json.loads((folder / TRAIN).read_text()))


def kept_epoch(train: dict[str, float]) -> int:
    """The epoch that the scores in metrics/train.json are of."""
    return int(train.get("kept_epoch", train["epochs"]))


def scored(test: dict[str, float]) -> list[Point]:
    """What metrics/test.json holds, under the names that it has in a run."""
    return [(f"test_{name}", value, 0) for name, value in test.items()]


def _parsed(root: Path, commits: Sequence[str]) -> dict[str, Parsed | NotWholeError]:
    """What each commit says of its experiment, or why it says nothing.

    A commit never changes, so what was read once is remembered.
    """
    path = root / MEMORY
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        kept = json.loads(path.read_text())
        if kept["code"] == _code():
            known = {commit: values for commit, values in kept["commits"].items() if values[0]}
    new = [commit for commit in dict.fromkeys(commits) if commit and commit not in known]
    unreadable: dict[str, Parsed | NotWholeError] = {}
    try:
        texts = _texts(root, new)
    except UserError:
        # An object is damaged: find out of which experiment.
        texts = {}
        for commit in new:
            try:
                texts |= _texts(root, [commit])
            except UserError as error:
                unreadable[commit] = NotWholeError(str(error))
    for commit, content in texts.items():
        try:
            known[commit] = _parse(*content)
        except NotWholeError as error:
            kind = NotEvaluatedError if type(error) is NotEvaluatedError else NotWholeError
            known[commit] = [kind.__name__, str(error)]
    if new:
        listed = {commit: known[commit] for commit in commits if commit in known}
        # One that was asked for by its name is no reason to forget the others.
        kept = listed if len(commits) > 1 else known
        with suppress(OSError):
            write(path, json.dumps({"code": _code(), "commits": kept}).encode())
    return unreadable | {commit: _revived(known[commit]) for commit in commits if commit in known}


def _texts(root: Path, commits: Sequence[str]) -> dict[str, Sequence[str | None]]:
    """What dvc.lock, metrics/train.json and metrics/test.json hold in each commit."""
    names = [f"{commit}:./{file}" for commit in commits for file in (LOCK, TRAIN, TEST)]
    texts = blobs(root, names)
    return {commit: texts[3 * k : 3 * k + 3] for k, commit in enumerate(commits)}


def _revived(values: list[Any]) -> Parsed | NotWholeError:
    if len(values) == len(Parsed._fields):
        return Parsed(*values)
    kind, text = values
    return NotEvaluatedError(text) if kind == NotEvaluatedError.__name__ else NotWholeError(text)


@cache
def _code() -> str:
    """Changes with the code that says what a commit says."""
    package = Path(__file__).parents[1]
    sources = ("tracking/git.py", "tracking/records.py", "config/params.py", "data/json_csv.py")
    return "".join(md5(package / source) for source in sources)


def _parse(text: str | None, *scores: str | None, cure: str = "") -> Parsed:
    """What the texts of dvc.lock, metrics/train.json and metrics/test.json say.

    Raises:
        NotWholeError: something of it is missing, or is not what this pipeline makes.
    """
    if text is None:
        raise NotEvaluatedError("it was not evaluated")
    try:
        lock = yaml.load(text, Loader)["stages"]  # noqa: S506
        missing = [stage for stage in ("train", "evaluate") if stage not in lock]
        if missing:
            raise NotWholeError(f"its dvc.lock has no stage {missing[0]}")
        train, evaluate = lock["train"], lock["evaluate"]
        trained, evaluated = (
            flatten(stage["params"]["params.yaml"]) for stage in (train, evaluate)
        )
        hashes = {entry["path"]: entry["md5"] for entry in train["deps"] + train["outs"]}
        if not _is_of(evaluate, hashes[MODELS]):
            # After a `dvc repro train`, the scores are those of another network.
            raise NotEvaluatedError("its network was not evaluated")
        hashes |= {entry["path"]: entry["md5"] for entry in evaluate["deps"] + evaluate["outs"]}
        drawn = lock.get("visualize", {"deps": [], "outs": []})
        if _is_of(drawn, hashes[MODELS]):
            hashes |= {entry["path"]: entry["md5"] for entry in drawn["outs"]}
        params = trained | evaluated
        identity = _training_identity(params, hashes.__getitem__)
        identity |= _evaluation_identity(params, hashes.__getitem__)
        _ = [hashes[path] for path in NEEDED]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise NotWholeError(f"its dvc.lock cannot be used: {one_line(error)}") from None
    made = {}
    for path, content in zip((TRAIN, TEST), scores, strict=True):
        if content is None:
            raise NotWholeError(f"{path} is missing{cure}")
        try:
            made[path] = check_metrics(parse_json(content, path), path, Path(path).name)
        except UserError as error:
            raise NotWholeError(str(error)) from None
        if hashlib.md5(content.encode(), usedforsecurity=False).hexdigest() != hashes[path]:
            raise NotWholeError(
                f"{path} is not the one that dvc.lock names; `dvc repro` makes both anew"
            )
    return Parsed(identity, params, made[TRAIN], made[TEST], hashes)


def _record(
    root: Path,
    name: Name,
    needed: Sequence[str],
    parsed: dict[str, Parsed | NotWholeError],
) -> Record:
    """An experiment from its dvc.lock and metrics.

    Args:
        root: the repository.
        name: of a commit, or of the working tree.
        needed: the files and folders that must be here.
        parsed: what commits say.

    Raises:
        NotWholeError: something of it is missing, or is not what this pipeline makes.
    """
    if name.commit:
        found = parsed[name.commit]
        if isinstance(found, NotWholeError):
            raise found
    else:
        texts = [_text(root / path) for path in (LOCK, TRAIN, TEST)]
        found = _parse(*texts, cure="; `dvc repro` makes it")
    identity, params, train, test, hashes = found
    _check_here(root, name, {path: hashes[path] for path in needed})
    pages = [path for path in PAGES if path in hashes and _has(root, name, path, hashes[path])]
    return Record([name], identity, params, train, test, name.commit or None, hashes, pages)


def _check_here(root: Path, name: Name, wanted: dict[str, str]) -> None:
    """Refuse an experiment whose files are not here, or are another's.

    Raises:
        NotWholeError: says how to bring them.
    """
    for path, digest in wanted.items():
        if _has(root, name, path, digest):
            continue
        if not name.commit and not (root / path).exists():
            raise NotEvaluatedError("its results are not here; `dvc repro` makes them")
        if not name.commit:
            raise NotWholeError(
                f"{path} is not what dvc.lock names; `dvc repro` makes it, or brings it back"
            )
        if name.baseline:
            raise NotWholeError(
                "its files are not in DVC's cache here; `dvc exp pull` brings them from a remote"
            )
        said = "its files are not in DVC's cache here; "
        if name.commit != head(root):
            raise NotWholeError(said + "`dvc fetch --all-commits` brings them from a remote")
        raise NotWholeError(
            said + "`dvc pull` brings them if a remote has them; or `dvc repro` makes yours, and"
            " `git commit -m Baseline dvc.lock metrics` keeps those"
        )


def _has(root: Path, name: Name, path: str, digest: str) -> bool:
    if name.commit:
        return is_here(root, digest)
    return (root / path).exists() and md5(root / path) == digest


def _is_of(stage: dict[str, Any], models: str) -> bool:
    """Whether a stage, as dvc.lock has it, has read the network with this hash."""
    return any(entry["path"] == MODELS and entry["md5"] == models for entry in stage["deps"])


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
