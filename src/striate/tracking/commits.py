"""What the dvc.lock and the metrics in a commit say of its experiment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from striate.data.files import md5, write
from striate.data.json_csv import check_metrics, parse_json
from striate.errors import UserError
from striate.tracking import dvc_lock
from striate.tracking.dvc_lock import LOCK
from striate.tracking.git import blobs
from striate.tracking.points import TABLES

MANIFEST, MODELS = "data/manifest.json", "models"
TRAIN, TEST = "metrics/train.json", "metrics/test.json"
NEEDED = (MODELS, *TABLES, "predictions")  # an experiment without one of these is left out
CACHE = ".dvc/tmp/striate-records.json"  # of parsed commits; safe to delete
PARSED_BY = ("config", "data", "evaluation", "tracking")  # packages whose code parses a commit


class Outcome(NamedTuple):
    """The params, scores and hashes of an experiment, whether or not its files are here."""

    params: dict[str, Any]  # flat, of training and evaluation
    train: dict[str, float]
    test: dict[str, float]
    hashes: dict[str, str]  # path → DVC's hash, of what its stages read and wrote


class NotWholeError(UserError):
    """Why an experiment cannot be used, as a clause without its name."""


class NotEvaluatedError(NotWholeError):
    """It has no scores, or those of another network."""


def outcomes(
    root: Path, commits: Sequence[str], cache: str = CACHE
) -> dict[str, Outcome | NotWholeError]:
    """The outcome in each commit, or why there is none.

    Commits never change, so each is parsed once and cached.

    Args:
        root: the repository.
        commits: their hashes; empty strings are skipped.
        cache: the file of what was parsed, in the repository.
    """
    path = root / cache
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        cached = json.loads(path.read_text())
        if cached["code"] == code_hash():
            known = {commit: values for commit, values in cached["commits"].items() if values[0]}
    new = [commit for commit in dict.fromkeys(commits) if commit and commit not in known]
    texts, unreadable = _read(root, new)
    for commit, (lock, train, test) in texts.items():
        try:
            known[commit] = parse(lock, train, test)
        except NotWholeError as error:
            kind = NotEvaluatedError if type(error) is NotEvaluatedError else NotWholeError
            known[commit] = [kind.__name__, str(error)]
    if new:
        listed = {commit: known[commit] for commit in commits if commit in known}
        # A look-up of one experiment must not evict the others.
        kept = listed if len(commits) > 1 else known
        with suppress(OSError):
            write(path, json.dumps({"code": code_hash(), "commits": kept}).encode())
    return unreadable | {c: _from_cache(known[c]) for c in commits if c in known}


def _read(
    root: Path, commits: Sequence[str]
) -> tuple[dict[str, Sequence[str | None]], dict[str, Outcome | NotWholeError]]:
    """The texts of dvc.lock and the metrics in each commit; and why some cannot be read."""
    try:
        return _texts(root, commits), {}
    except UserError:
        pass
    # An object is damaged: find out which experiment it belongs to.
    texts: dict[str, Sequence[str | None]] = {}
    unreadable: dict[str, Outcome | NotWholeError] = {}
    for commit in commits:
        try:
            texts |= _texts(root, [commit])
        except UserError as error:
            unreadable[commit] = NotWholeError(str(error))
    return texts, unreadable


def _texts(root: Path, commits: Sequence[str]) -> dict[str, Sequence[str | None]]:
    names = [f"{commit}:./{file}" for commit in commits for file in (LOCK, TRAIN, TEST)]
    texts = blobs(root, names)
    return {commit: texts[3 * k : 3 * k + 3] for k, commit in enumerate(commits)}


def _from_cache(values: list[Any]) -> Outcome | NotWholeError:
    if len(values) == len(Outcome._fields):
        return Outcome(*values)
    kind, text = values
    return NotEvaluatedError(text) if kind == NotEvaluatedError.__name__ else NotWholeError(text)


@cache
def code_hash() -> str:
    """Changes with the code that parses a commit, and so invalidates the cache."""
    package = Path(__file__).parents[1]
    sources = (path for name in PARSED_BY for path in sorted((package / name).rglob("*.py")))
    hashes = "".join(md5(path) for path in sources)
    return hashlib.md5(hashes.encode(), usedforsecurity=False).hexdigest()


def parse(lock: str | None, train: str | None, test: str | None, cure: str = "") -> Outcome:
    """The outcome of an experiment.

    Args:
        lock: the text of dvc.lock; None where there is none.
        train: that of metrics/train.json.
        test: that of metrics/test.json.
        cure: what to do about missing metrics, for the message.

    Raises:
        NotWholeError: something is missing, or another pipeline made it.
    """
    params, hashes = _parse_lock(lock)
    scores = {}
    for path, content in ((TRAIN, train), (TEST, test)):
        if content is None:
            raise NotWholeError(f"{path} is missing{cure}")
        try:
            scores[path] = check_metrics(parse_json(content, path), path, Path(path).name)
        except UserError as error:
            raise NotWholeError(str(error)) from None
        if hashlib.md5(content.encode(), usedforsecurity=False).hexdigest() != hashes[path]:
            raise NotWholeError(
                f"{path} is not the one that dvc.lock names; `dvc repro` recreates both"
            )
    return Outcome(params, scores[TRAIN], scores[TEST], hashes)


def _parse_lock(text: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The params and the hashes in a dvc.lock.

    Raises:
        NotWholeError: one of them is missing.
    """
    if text is None:
        raise NotEvaluatedError("it was not evaluated")
    try:
        stages = dvc_lock.parse(text)
    except ValueError as error:
        raise NotWholeError(f"its dvc.lock cannot be used: {error}") from None
    for name in ("train", "evaluate"):
        if name not in stages:
            raise NotWholeError(f"its dvc.lock has no stage {name}")
    train, evaluate = stages["train"], stages["evaluate"]
    hashes = train.deps | train.outs
    if evaluate.deps.get(MODELS) != hashes.get(MODELS):
        # After a `dvc repro train`, the scores are those of another network.
        raise NotEvaluatedError("its network was not evaluated")
    hashes |= evaluate.deps | evaluate.outs
    visualize = stages.get("visualize")
    if visualize is not None and visualize.deps.get(MODELS) == hashes.get(MODELS):
        hashes |= visualize.outs
    for path in (MANIFEST, *NEEDED, TRAIN, TEST):
        if path not in hashes:
            raise NotWholeError(f"its dvc.lock cannot be used: it has no hash of {path}")
    for name, stage in (("train", train), ("evaluate", evaluate)):
        if not stage.params:
            raise NotWholeError(f"its dvc.lock cannot be used: stage {name} has no params")
    if not isinstance(train.params.get("seed", 0), int):
        raise NotWholeError("its dvc.lock cannot be used: its seed is not an integer")
    return train.params | evaluate.params, hashes
