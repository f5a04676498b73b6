"""What the gate compares: metrics, their seeds and their source, here and in a commit."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import yaml

from striate.config.params import meant
from striate.config.yaml_loader import Loader
from striate.data.json_csv import MISSING, finite, parse_json, read_json
from striate.errors import UserError
from striate.reporting import seeds
from striate.reporting.seeds import Row
from striate.tracking import dvc_lock, records
from striate.tracking.git import commit_of, git

PATTERN = "metrics/*.json"
MAIN = "origin/main"
PARTS = {records.TRAIN: "train", records.TEST: "test"}  # the files whose metrics seeds.csv holds

Metrics = dict[str, dict[str, Any]]


class Source(NamedTuple):
    """The data and params that metrics come from, as dvc.lock names them.

    Attributes:
        test_set: the hash of the test images; None where dvc.lock does not say.
        params: flat, of all stages.
        hashes: of the metrics files, by path.
    """

    test_set: str | None
    params: dict[str, Any]
    hashes: dict[str, str]


class Side(NamedTuple):
    """One of the two sets of results that are compared.

    Attributes:
        name: `here`, or `at REVISION`.
        metrics: of each file in metrics/.
        source: None where there is no dvc.lock.
        group: the rows of metrics/seeds.csv, by seed, if they are two or more and of these results;
            else none.
        stale: whether that file has two rows or more of other results.
    """

    name: str
    metrics: Metrics
    source: Source | None = None
    group: Sequence[Row] = ()
    stale: bool = False

    def score(self, file: str, metric: str) -> list[float]:
        """A metric of the results; empty where it is missing or not a finite number."""
        value = finite(self.metrics.get(file, {}).get(metric))
        return [] if value is None else [value]

    def scores(self, file: str, metric: str) -> dict[int, float]:
        """A metric by seed; where the seeds do not hold it, that of the results alone."""
        column = seeds.column(PARTS[file], metric) if file in PARTS else ""
        over_seeds = {int(row[seeds.SEED]): row[column] for row in self.group if column in row}
        return over_seeds or dict(enumerate(self.score(file, metric)))


def here(files: Iterable[str], folder: Path) -> Side:
    """The results in a working tree.

    Args:
        files: metrics files besides those in metrics/.
        folder: the root of the repository.

    Raises:
        UserError: a file is unusable, or dvc.lock names other metrics.
    """
    params = folder / "params.yaml"
    text = params.read_text(encoding="utf-8", errors="replace") if params.is_file() else ""
    metrics, source = metrics_now(files, folder), source_now(folder)
    return _side("here", metrics, source, seeds.read(folder / seeds.FILE), text)


def at(revision: str, files: Iterable[str], folder: Path) -> Side:
    """The results in a commit.

    Args:
        revision: names the commit.
        files: metrics files besides those in metrics/.
        folder: the root of the repository.

    Raises:
        UserError: Git does not know the revision, a file there is unusable, or dvc.lock there names
            other metrics.
    """
    metrics, source = metrics_at(files, revision, folder), source_at(revision, folder)
    commit = resolved(folder, revision)
    table, params = (
        git(folder, "show", f"{commit}:./{file}") or "" for file in (seeds.FILE, "params.yaml")
    )
    rows = seeds.parse(table, f"{seeds.FILE} at {revision}")
    return _side(f"at {revision}", metrics, source, rows, params)


def _side(name: str, metrics: Metrics, source: Source | None, rows: list[Row], params: str) -> Side:
    """A side; `rows` of its metrics/seeds.csv count if they are of its results.

    Its params.yaml, the text `params`, says the seed where there is no dvc.lock.
    """
    if len(rows) < 2:
        return Side(name, metrics, source)
    seed = source.params.get("seed") if source else _seed(params)
    train, test = (metrics.get(file, {}) for file in PARTS)
    # A seed that nothing names is that of no row.
    own = seeds.row(-1 if seed is None else seed, train, test)
    group = sorted(seeds.of_results(rows, own), key=lambda row: row[seeds.SEED])
    return Side(name, metrics, source, group, stale=not group)


def _seed(text: str) -> int | None:
    try:
        values = yaml.load(text, Loader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return values.get("seed") if isinstance(values, dict) else None


def stale_said(side: Side) -> str:
    """One line that says that metrics/seeds.csv does not count; empty where it does."""
    if not side.stale:
        return ""
    cure = "; `striate repeat`, then `dvc repro`, renews it" if side.name == "here" else ""
    return (
        f"{seeds.FILE} {side.name} is stale: no row holds the seed and the scores of the results"
        f" {side.name}, so only their own seed counts{cure}."
    )


def metrics_now(files: Iterable[str], folder: Path) -> Metrics:
    """The metrics in a working tree: of the files in metrics/, and of `files` where they exist.

    Raises:
        UserError: a file is not a JSON object.
    """
    here = {path.relative_to(folder).as_posix() for path in folder.glob(PATTERN)}
    return {
        file: read_json(folder / file)
        for file in sorted(here.union(files))
        if (folder / file).exists()
    }


def metrics_at(files: Iterable[str], revision: str, folder: Path) -> Metrics:
    """The metrics in a commit: of the files in metrics/, and of `files` where they exist.

    Raises:
        UserError: Git does not know the revision, or a file there is not a JSON object.
    """
    commit = resolved(folder, revision)
    listed = git(folder, "ls-tree", "--name-only", commit, "--", "metrics/") or ""
    there = {name for name in listed.splitlines() if PurePath(name).match(PATTERN)}
    texts = {file: git(folder, "show", f"{commit}:./{file}") for file in there.union(files)}
    return {
        file: parse_json(text, f"{file} at {revision}")
        for file, text in sorted(texts.items())
        if text is not None
    }


def default_revision(files: Iterable[str], folder: Path) -> tuple[str, str]:
    """Choose the revision to compare the working tree with.

    That is the main branch of the remote. Where it contains HEAD, that would compare HEAD with
    itself or with something newer: then it is HEAD if code or params have changed since, and its
    first parent if they have not.

    Args:
        files: metrics files besides those in metrics/.
        folder: the root of the repository.

    Returns:
        The revision, and the reason where it is not the main branch.

    Raises:
        UserError: that commit is not here.
    """
    records.head(folder.absolute())
    held = metrics_at(files, "HEAD", folder) == metrics_now(files, folder)
    main = MAIN if commit_of(folder, MAIN) else _default_branch(folder)
    if main is None:
        remotes = (git(folder, "remote") or "").split()
        if "origin" in remotes:
            raise UserError(
                f"there is no {MAIN} here to compare with;"
                f" `{_fetch(MAIN)}`, or name another revision: --against REV"
            )
        if remotes or held:
            other = f"{remotes[0]}/main" if remotes else "HEAD~1"
            raise UserError(
                f"there is no {MAIN} here to compare with; name a revision, such as"
                f" --against {other}"
            )
        return "HEAD", "there is no remote"
    if git(folder, "merge-base", "--is-ancestor", "HEAD", main) is None:
        return main, ""
    # Metrics alone are no change: another processor rounds the same results differently.
    inputs = ("--", ".", ":!metrics", f":!{records.LOCK}")
    if not held and git(folder, "diff", "--quiet", "HEAD", *inputs) is None:
        return "HEAD", f"HEAD is in {main}"
    if commit_of(folder, "HEAD~1") is None:
        shallow = (git(folder, "rev-parse", "--is-shallow-repository") or "").strip() == "true"
        cure = "`git fetch --unshallow`, or name" if shallow else "name"
        raise UserError(
            f"HEAD is in {main} and has no commit before it here, so there is nothing to compare"
            f" with; {cure} a revision: --against REV"
        )
    return "HEAD~1", f"HEAD is in {main}"


def _default_branch(folder: Path) -> str | None:
    """The default branch of the remote, such as origin/trunk."""
    if commit_of(folder, "origin/HEAD") is None:
        return None
    return (git(folder, "rev-parse", "--abbrev-ref", "origin/HEAD") or "").strip() or None


def _fetch(revision: str) -> str:
    """The command that fetches a branch of origin, even into a single-branch clone."""
    branch = revision.removeprefix("origin/")
    return f"git fetch origin {branch}:refs/remotes/origin/{branch}"


def resolved(folder: Path, revision: str) -> str:
    """The commit that a revision names.

    Raises:
        UserError: Git does not know it.
    """
    commit = commit_of(folder, revision)
    if commit is None:
        cure = f", or `{_fetch(revision)}`" if revision.startswith("origin/") else ""
        raise UserError(
            f"Git knows no revision {revision!r}; name a commit, a branch or a tag{cure}"
        )
    return commit


def source_now(folder: Path) -> Source | None:
    """The source of the metrics in a working tree; None where there is no dvc.lock.

    Raises:
        UserError: dvc.lock is unusable, or names other metrics.
    """
    path = folder / records.LOCK
    if not path.exists():
        return None
    source = _source(path.read_text(encoding="utf-8", errors="replace"), records.LOCK)
    for file, md5 in source.hashes.items():
        if (folder / file).is_file():
            _check_hash((folder / file).read_bytes(), md5, file, "`dvc repro` recreates both")
    return source


def source_at(revision: str, folder: Path) -> Source | None:
    """The source of the metrics in a commit; None where no dvc.lock was committed.

    Raises:
        UserError: dvc.lock is unusable, or names other metrics.
    """
    commit = resolved(folder, revision)
    text = git(folder, "show", f"{commit}:./{records.LOCK}")
    if text is None:
        return None
    source = _source(text, f"{records.LOCK} at {revision}")
    for file, md5 in source.hashes.items():
        content = git(folder, "show", f"{commit}:./{file}")
        if content is not None:
            _check_hash(
                content.encode(),
                md5,
                f"{file} at {revision}",
                "name another revision: --against REV",
            )
    return source


def _source(text: str, name: str) -> Source:
    try:
        stages = dvc_lock.parse(text)
    except ValueError as error:
        raise UserError(f"{name} cannot be used: {error}") from None
    params: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    for stage in stages.values():
        params |= stage.params
        hashes |= {path: md5 for path, md5 in stage.outs.items() if PurePath(path).match(PATTERN)}
    test_set = stages["evaluate"].deps.get(records.TEST_SET) if "evaluate" in stages else None
    return Source(test_set, params, hashes)


def _check_hash(content: bytes, md5: str, name: str, cure: str) -> None:
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise UserError(f"{name} is not the one that {records.LOCK} names; {cure}")


def check_sources(before: Source | None, now: Source | None, revision: str) -> None:
    """Check that both sets of metrics were measured on the same test images.

    Raises:
        UserError: they were not.
    """
    if before and now and before.test_set and now.test_set and before.test_set != now.test_set:
        names = [source.params.get("data.name", MISSING) for source in (before, now)]
        what = f" ({names[0]} there, {names[1]} here)" if names[0] != names[1] else ""
        raise UserError(
            f"the metrics of {revision} were measured on other test images{what}, so they cannot be"
            " compared; name a revision with the same data: --against REV"
        )


def params_said(before: Source | None, now: Source | None) -> str:
    """One line that lists the params that differ; empty where none does or dvc.lock is missing."""
    if before is None or now is None:
        return ""
    keys = dict.fromkeys([*before.params, *now.params])
    pairs = [
        (key, meant(before.params, key, MISSING), meant(now.params, key, MISSING)) for key in keys
    ]
    changes = [f"{key} {old} → {new}" for key, old, new in pairs if old != new]
    return f"Params that differ: {', '.join(changes)}." if changes else ""
