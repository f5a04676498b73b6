"""The experiments of a repository, as DVC's files describe them. MLflow's runs are a view of these.

An experiment is identified by its inputs and outputs as dvc.lock has them: the params, and DVC's
hashes of the data's manifest, the checkpoint and the test scores. Two experiments with equal hashes
are one, whatever their names. One whose files are not on this machine, or that another pipeline
made, is left out and named.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from striate.config.params import meant
from striate.data.files import md5
from striate.data.json_csv import MISSING
from striate.errors import UserError
from striate.tracking import commits, dvc_cache, dvc_lock
from striate.tracking.commits import (
    MANIFEST,
    MODELS,
    NEEDED,
    TEST,
    TRAIN,
    NotEvaluatedError,
    NotWholeError,
    Outcome,
)
from striate.tracking.dvc_lock import LOCK
from striate.tracking.git import commit_of, git, trees

# The tags by which MLflow's run of an experiment is found.
PARAMS, DATA, CHECKPOINT = "striate.params", "striate.data", "striate.checkpoint"
EVALUATION = "striate.evaluation"

TRAINED_BY = ("seed", "data", "augment", "model", "training")  # the sections that train reads
VALIDATION = "val_accuracy"  # in TRAIN
NOTHING_FINISHED = "no experiment has finished here yet; `dvc repro` runs one"
TEST_SET = "data/test"
PAGES = {  # outputs of visualize → their folders among a run's artifacts
    "reports/figures": "figures",
    "reports/index.html": "report",
    "reports/model_card.md": "card",
}
MOST_NAMED = 10  # experiments in a message
EXPERIMENTS = "refs/exps"  # where DVC keeps the refs of experiments
EXPERIMENT_REF = re.compile(r"(?P<commit>\S+) (?P<a>\w{2})/(?P<b>\w{38})/(?P<name>\S+)")

WORKSPACE = "workspace"  # the name of the experiment in the working tree


@dataclass(frozen=True)
class Name:
    """One of the names of an experiment."""

    name: str
    commit: str = ""  # empty for the workspace
    baseline: str = ""  # the commit that it started from; empty for a branch


@dataclass
class Record:
    """An experiment as DVC keeps it.

    Attributes:
        names: the first is the one to show.
        identity: its hashes, by tag.
        params: flat, of training and evaluation.
        train: what metrics/train.json holds.
        test: what metrics/test.json holds.
        revision: the commit that it is read from; None for the working tree.
        hashes: path → DVC's hash of each file and folder that its stages read or wrote.
        pages: those of PAGES that are here.
        twins: the `hashes` under its other names, where other code came to the same results.
    """

    names: list[Name]
    identity: dict[str, str]
    params: dict[str, Any]
    train: dict[str, float]
    test: dict[str, float]
    revision: str | None
    hashes: dict[str, str]
    pages: list[str]
    twins: list[dict[str, str]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Equal for two names of one experiment: hashes and scores."""
        return hash_values(self.identity | {TRAIN: self.train, TEST: self.test})


class LeftOut(NamedTuple):
    """An experiment that cannot be used, and why."""

    name: str
    reason: str


class Found(NamedTuple):
    """The usable experiments, the others, and the one in the working tree."""

    records: list[Record]
    left_out: list[LeftOut]
    workspace: Record | None


def validation_split(params: dict[str, Any]) -> dict[str, Any]:
    """What decides which of the training images are held out: a seed, and how many or which."""
    own = meant(params, "data.split_seed")
    seed = params.get("seed") if own == "auto" else own
    fold = meant(params, "data.fold")
    size = params.get("data.val_size") if fold == "none" else None
    return {"seed": seed, "data.val_size": size, "data.fold": fold}


def training_params(params: dict[str, Any]) -> dict[str, Any]:
    """Those of the flat params that train reads."""
    return {key: value for key, value in params.items() if key.split(".")[0] in TRAINED_BY}


def training_identity(params: dict[str, Any], folder: Path) -> dict[str, str]:
    """The identity of a training, from flat params and its outputs in a working tree."""
    return _training_identity(params, lambda path: md5(folder / path))


def evaluation_identity(params: dict[str, Any], folder: Path) -> dict[str, str]:
    """The identity of an evaluation, from flat params and the scores in a working tree."""
    return _evaluation_identity(params, lambda path: md5(folder / path))


def _training_identity(params: dict[str, Any], hash_of: Callable[[str], str]) -> dict[str, str]:
    return {
        PARAMS: hash_values(training_params(params)),
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
    """The commit of HEAD; None before the first commit.

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
    return read_all(root, [*listed(root), Name(WORKSPACE)], NEEDED)


def read_all(
    root: Path, names: Sequence[Name], needed: Sequence[str] = (), cache: str = commits.CACHE
) -> Found:
    """The experiments of these names, as `find` returns them.

    Args:
        root: the repository.
        names: of commits, or of the working tree.
        needed: the files and folders that must be here.
        cache: of parsed commits, in the repository; one for each list that is asked for again.
    """
    records: dict[str, Record] = {}
    left_out = []
    workspace = None
    outcomes = commits.outcomes(root, [name.commit for name in names], cache)
    for name in names:
        try:
            record = _record(root, name, needed, outcomes)
        except UserError as error:
            # Before the first `dvc repro`, HEAD and the workspace are no experiments to report.
            if name.baseline or not isinstance(error, NotEvaluatedError):
                left_out.append(LeftOut(name.name, str(error)))
            continue
        # The key includes the scores: they may be edited by hand, with an unchanged dvc.lock.
        key = record.key
        if key not in records:
            records[key] = record
        else:
            if record.revision is not None:
                records[key].names += record.names
            if record.hashes not in [records[key].hashes, *records[key].twins]:
                records[key].twins.append(record.hashes)
        if record.revision is None:
            workspace = records[key]
    return Found(list(records.values()), left_out, workspace)


def listed(root: Path) -> list[Name]:
    """HEAD, and the experiments of DVC, evaluated or not."""
    commit = head(root)
    if commit is None:
        return []
    branch = (git(root, "symbolic-ref", "--short", "-q", "HEAD") or commit[:7]).strip()
    return [Name(branch, commit), *experiments(root)]


def experiments(root: Path, folder: str = EXPERIMENTS) -> list[Name]:
    """The experiments whose refs are in a folder of refs, evaluated or not."""
    depth = folder.count("/") + 1
    form = f"--format=%(objectname) %(refname:lstrip={depth})"
    refs = git(root, "for-each-ref", form, folder) or ""
    found = [
        Name(match["name"], match["commit"], match["a"] + match["b"])
        for match in EXPERIMENT_REF.finditer(refs)
    ]
    prefix = (git(root, "rev-parse", "--show-prefix") or "").strip() if found else ""
    if prefix:
        # Several projects share this Git repository; keep the experiments that change this one.
        tree = trees(root, {commit for name in found for commit in (name.commit, name.baseline)})
        found = [name for name in found if tree[name.commit] != tree[name.baseline]]
    return found


def named(root: Path, name: str, needed: Sequence[str] = NEEDED) -> Record:
    """The experiment of this name: DVC's, `workspace`, or what a branch, tag or commit holds.

    Args:
        root: the repository.
        name: of the experiment.
        needed: the files and folders that must be here.

    Raises:
        UserError: there is none, there are several, or it is not whole.
    """
    known = listed(root)
    matches = [own for own in known if own.name == name] or [Name(name)] * (name == WORKSPACE)
    if len(matches) > 1:
        # Like DVC, prefer the one based on HEAD.
        matches = [own for own in matches if own.baseline in ("", head(root))] or matches
    if len(matches) > 1:
        hashes = ", ".join(own.commit[:7] for own in matches)
        raise UserError(f"several experiments are called {name}; name the commit: {hashes}")
    if not matches:
        commit = commit_of(root, name)
        if commit is None:
            names = list(dict.fromkeys([WORKSPACE, *(own.name for own in known)]))
            raise UserError(
                f"there is no experiment, branch or commit {name!r}; known here: {_some(names)}"
            )
        matches = [Name(name, commit)]
    try:
        outcomes = commits.outcomes(root, [matches[0].commit])
        return _record(root, matches[0], needed, outcomes)
    except NotWholeError as error:
        raise UserError(f"{name} cannot be used: {error}") from None


def in_words(left_out: Iterable[LeftOut]) -> list[str]:
    """A line for each reason, with the names of its experiments."""
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
        for inside, content in dvc_cache.contents(root, digest):
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
    """The flat params that differ from those of an experiment, as `KEY OLD → NEW`."""
    return [
        f"{key} {record.params.get(key, MISSING)} → {value}"
        for key, value in params.items()
        if record.params.get(key) != value
    ]


def is_recorded(root: Path, path: str) -> bool:
    """Whether a file or folder of the working tree is the one in dvc.lock; True without a hash."""
    try:
        stages = dvc_lock.parse((root / LOCK).read_text())
    except (OSError, ValueError):
        return True
    recorded = [stage.outs[path] for stage in stages.values() if path in stage.outs]
    return not recorded or _has(root, Name(WORKSPACE), path, recorded[0])


def read(root: Path, record: Record, path: str) -> str:
    """The text of one of a record's files.

    Raises:
        UserError: it is not here.
    """
    if record.revision is None:
        return (root / path).read_text()
    ((_, content),) = dvc_cache.contents(root, record.hashes[path])
    try:
        return Path(content).read_text()
    except FileNotFoundError:
        name = record.names[0].name
        raise UserError(f"{path} of {name} is not here; `dvc pull`, or run it once more") from None


def _record(
    root: Path,
    name: Name,
    needed: Sequence[str],
    outcomes: dict[str, Outcome | NotWholeError],
) -> Record:
    """An experiment from its dvc.lock and metrics.

    Args:
        root: the repository.
        name: of a commit, or of the working tree.
        needed: the files and folders that must be here.
        outcomes: by commit.

    Raises:
        NotWholeError: something is missing, or another pipeline made it.
    """
    if name.commit:
        outcome = outcomes[name.commit]
        if isinstance(outcome, NotWholeError):
            raise outcome
    else:
        lock, train, test = (_text(root / path) for path in (LOCK, TRAIN, TEST))
        outcome = commits.parse(lock, train, test, cure="; `dvc repro` makes it")
    params, train_scores, test_scores, hashes = outcome
    identity = _training_identity(params, hashes.__getitem__)
    identity |= _evaluation_identity(params, hashes.__getitem__)
    _check_here(root, name, {path: hashes[path] for path in needed})
    pages = [path for path in PAGES if path in hashes and _has(root, name, path, hashes[path])]
    return Record(
        [name], identity, params, train_scores, test_scores, name.commit or None, hashes, pages
    )


def _check_here(root: Path, name: Name, wanted: dict[str, str]) -> None:
    """Refuse an experiment whose files are not here, or are those of another.

    Raises:
        NotWholeError: says how to get them.
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
        missing = "its files are not in DVC's cache here; "
        if name.commit != head(root):
            raise NotWholeError(missing + "`dvc fetch --all-commits` brings them from a remote")
        raise NotWholeError(
            missing + "`dvc pull` brings them if a remote has them; or `dvc repro` makes yours, and"
            " `git commit -m Baseline dvc.lock metrics` keeps those"
        )


def _has(root: Path, name: Name, path: str, digest: str) -> bool:
    if name.commit:
        return dvc_cache.is_complete(root, digest)
    return (root / path).exists() and md5(root / path) == digest


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
