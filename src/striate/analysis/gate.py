"""Compare two sets of metrics: is any of them worse than chance or its tolerance explains?"""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from striate.config.params import Loader, flatten, read_yaml
from striate.data.json_csv import finite, parse_json, read_json
from striate.errors import UserError, one_line
from striate.tracking import records
from striate.tracking.git import commit_of, git

NOISE = "noise"
DEVIATIONS = 1.645  # of a normal distribution, beyond which 1 in 20 lies on one side
COUNT = "n"  # the metric that says how many images a file's proportions are of


class Rule(BaseModel):
    """How one metric is judged.

    The tolerance is in the metric's own unit, or `noise` for a proportion of images.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    better: Literal["higher", "lower", "equal"]
    tolerance: Annotated[float, Field(ge=0)] | Literal["noise"]


class Verdict(NamedTuple):
    """One metric of one file, before and now; None where it is missing."""

    file: str
    metric: str
    before: float | None
    now: float | None
    allowed: float | None  # by how much it may be worse; None where nothing is judged
    status: str  # one of FAILURES, or better, equal, within tolerance or noise, new, not judged

    @property
    def failed(self) -> bool:
        """Whether this metric alone fails the gate."""
        return self.status in FAILURES


class Source(NamedTuple):
    """What metrics were measured on and with, as dvc.lock has it.

    Attributes:
        test_set: the hash of the test images; None where dvc.lock does not say.
        params: flat, of all stages.
        hashes: of the metrics files, by path.
    """

    test_set: str | None
    params: dict[str, Any]
    hashes: dict[str, str]


FAILURES = {  # status → how it is said
    "worse": "is worse",
    "differs": "differs",
    "missing": "is missing",
    "not a number": "is not a number",
}
PATTERN = "metrics/*.json"
MAIN = "origin/main"

Rules = dict[str, dict[str, Rule]]
Metrics = dict[str, dict[str, Any]]


def load_rules(path: Path) -> Rules:
    """Read gate.yaml: metrics file → metric → rule.

    Raises:
        UserError: the file is missing or holds something else.
    """
    try:
        return TypeAdapter(Rules).validate_python(read_yaml(path))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"][:3])  # file, metric, key
        raise UserError(
            f"{path}: {place}: {fault['msg']}; it must be a file of metrics, and for each metric"
        ) from None


def metrics_now(files: Iterable[str], folder: Path) -> Metrics:
    """The metrics files as they are in a working tree: those of metrics/, and `files`.

    Raises:
        UserError: a file is not a JSON object; a missing one is left out.
    """
    here = {path.relative_to(folder).as_posix() for path in folder.glob(PATTERN)}
    return {
        file: read_json(folder / file)
        for file in sorted(here.union(files))
        if (folder / file).exists()
    }


def metrics_at(files: Iterable[str], revision: str, folder: Path) -> Metrics:
    """The metrics files as they were committed: those of metrics/, and `files`.

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


def default_revision(rules: Rules, folder: Path) -> tuple[str, str]:
    """What the metrics in a working tree are compared with, and why, where that needs saying.

    That is the main branch of where the clone came from. Where HEAD is part of it already, the
    comparison would be one with itself or with what came later: then it is HEAD, or its first
    parent where nothing but results differs from HEAD.

    Raises:
        UserError: that commit is not here.
    """
    records.head(folder.absolute())
    held = metrics_at(rules, "HEAD", folder) == metrics_now(rules, folder)
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
    # What was computed anew from what HEAD holds is HEAD's, though processors round differently.
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
    """The branch that the remote gives to who clones it, such as origin/trunk."""
    if commit_of(folder, "origin/HEAD") is None:
        return None
    return (git(folder, "rev-parse", "--abbrev-ref", "origin/HEAD") or "").strip() or None


def _fetch(revision: str) -> str:
    """The command that brings a branch of origin also into a clone of a single branch."""
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
    """Where the metrics in a working tree come from; None where there is no dvc.lock.

    Raises:
        UserError: dvc.lock cannot be used, or is of other metrics.
    """
    path = folder / records.LOCK
    if not path.exists():
        return None
    source = _source(path.read_text(encoding="utf-8", errors="replace"), records.LOCK)
    for file, md5 in source.hashes.items():
        if (folder / file).is_file():
            _check_hash((folder / file).read_bytes(), md5, file, "`dvc repro` makes both anew")
    return source


def source_at(revision: str, folder: Path) -> Source | None:
    """Where the committed metrics come from; None where no dvc.lock was committed.

    Raises:
        UserError: dvc.lock cannot be used, or is of other metrics.
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
        stages = yaml.load(text, Loader)["stages"]  # noqa: S506
        params: dict[str, Any] = {}
        hashes: dict[str, str] = {}
        for stage in stages.values():
            params |= flatten(stage.get("params", {}).get("params.yaml", {}))
            outs = {out["path"]: out["md5"] for out in stage.get("outs", [])}
            hashes |= {path: md5 for path, md5 in outs.items() if PurePath(path).match(PATTERN)}
        read = {dep["path"]: dep["md5"] for dep in stages.get("evaluate", {}).get("deps", [])}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{name} cannot be used: {one_line(error)}") from None
    return Source(read.get(records.TEST_SET), params, hashes)


def _check_hash(content: bytes, md5: str, name: str, cure: str) -> None:
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise UserError(f"{name} is not the one that {records.LOCK} names; {cure}")


def check_sources(before: Source | None, now: Source | None, revision: str) -> None:
    """Check that both sets of metrics were measured on the same test images.

    Raises:
        UserError: they were not.
    """
    if before and now and before.test_set and now.test_set and before.test_set != now.test_set:
        names = [source.params.get("data.name", "–") for source in (before, now)]
        what = f" ({names[0]} there, {names[1]} here)" if names[0] != names[1] else ""
        raise UserError(
            f"the metrics of {revision} were measured on other test images{what}, so they cannot be"
            " compared; name a revision with the same data: --against REV"
        )


def params_said(before: Source | None, now: Source | None) -> str:
    """The params that differ, in a line; nothing where none does, or nobody knows."""
    if before is None or now is None:
        return ""
    keys = dict.fromkeys([*before.params, *now.params])
    pairs = [(key, before.params.get(key, "–"), now.params.get(key, "–")) for key in keys]
    changes = [f"{key} {old} → {new}" for key, old, new in pairs if old != new]
    return f"Params that differ: {', '.join(changes)}." if changes else ""


def check_rules(rules: Rules, before: Metrics, now: Metrics, revision: str) -> None:
    """Check that the rules and the metrics before allow a comparison.

    Raises:
        UserError: there is no rule, or one for what is on neither side; a metric before is no
            number; or there is none of those that are judged.
    """
    judged = [(file, metric) for file, metrics in rules.items() for metric in metrics]
    if not judged:
        raise UserError("gate.yaml has no rule for any metric, so nothing would be compared")
    for file, metric in judged:
        old, new = before.get(file, {}), now.get(file, {})
        if metric not in old and metric not in new:
            there = dict.fromkeys([*old, *new] or [*before, *now])
            names = f"there are {', '.join(there)}" if there else "there are no metrics"
            raise UserError(
                f"gate.yaml has a rule for {metric} of {file}, which is neither here nor at"
                f" {revision}; {names}"
            )
        if metric in old and finite(old[metric]) is None:
            raise UserError(
                f"{file} at {revision}: {metric} is {old[metric]!r:.60}, not a number to compare"
                " with; name another revision: --against REV"
            )
    if not any(metric in before.get(file, {}) for file, metric in judged):
        raise UserError(
            f"{revision} has none of the metrics that gate.yaml judges, so nothing would be"
            " compared; name another revision: --against REV"
        )


def compare(before: Metrics, now: Metrics, rules: Rules) -> list[Verdict]:
    """Judge every metric that a rule names, and list the others."""
    verdicts = []
    for file in dict.fromkeys([*rules, *before, *now]):
        old, new = (metrics.get(file, {}) for metrics in (before, now))
        judged = rules.get(file, {})
        for metric in dict.fromkeys([*judged, *old, *new]):
            values = finite(old.get(metric)), finite(new.get(metric))
            if metric in judged:
                counts = finite(old.get(COUNT)), finite(new.get(COUNT))
                allowed = _allowed(*values, *counts, judged[metric])
                status = _judge(*values, allowed, judged[metric])
                if status == "missing" and metric in new:
                    status = "not a number"
                verdicts.append(Verdict(file, metric, *values, allowed, status))
            elif values != (None, None):
                verdicts.append(Verdict(file, metric, *values, None, "not judged"))
    return verdicts


def table(verdicts: list[Verdict]) -> str:
    """The verdicts as a Markdown table."""
    lines = [
        "| file | metric | before | now | difference | allowed | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for file, metric, before, now, allowed, status in verdicts:
        change = f"{now - before:+.6g}" if before is not None and now is not None else "–"
        old, new = (f"{value:.6g}" if value is not None else "–" for value in (before, now))
        limit = f"{allowed:.3g}" if allowed is not None else "–"
        lines.append(f"| {file} | {metric} | {old} | {new} | {change} | {limit} | {status} |")
    return "\n".join(lines)


def outcome(verdicts: list[Verdict]) -> str:
    """The verdicts in a few words."""
    failed = [f"{verdict.metric} {FAILURES[verdict.status]}" for verdict in verdicts
              if verdict.failed]  # fmt: skip
    if failed:
        return f"FAILED: {', '.join(failed)}"
    changed = any(verdict.before != verdict.now for verdict in verdicts)
    return "passed" if changed else "passed, no metric differs"


def noise_said(verdicts: list[Verdict], rules: Rules) -> str:
    """What a tolerance of `noise` means, in a sentence; nothing where no rule has one."""
    named = [
        verdict.metric
        for verdict in verdicts
        if verdict.allowed is not None and rules[verdict.file][verdict.metric].tolerance == NOISE
    ]
    if not named:
        return ""
    return (
        f"{' and '.join(dict.fromkeys(named))} may fall by {DEVIATIONS} standard errors of the"
        " difference between two proportions of so many test images: of two equally good"
        " networks, one comparison in 20 shows more."
    )


def _allowed(
    before: float | None, now: float | None, n: float | None, m: float | None, rule: Rule
) -> float | None:
    """By how much a metric may be worse; None where it cannot be judged.

    For noise: the two-proportion z-test with a pooled variance, one-sided at 5 %, before `n`
    images and now `m`.
    """
    if not isinstance(rule.tolerance, str):
        return rule.tolerance
    if before is None or now is None or not n or not m or min(n, m) < 0:
        return None
    pooled = min(max((before * n + now * m) / (n + m), 0.0), 1.0)
    return DEVIATIONS * math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))


def _judge(before: float | None, now: float | None, allowed: float | None, rule: Rule) -> str:
    if now is None:
        return "missing"
    if before is None:
        return "new"
    if now == before:
        return "equal"
    gain = {"higher": now - before, "lower": before - now, "equal": -abs(now - before)}[rule.better]
    if gain > 0:
        return "better"
    # A proportion of nobody knows how many images has no noise that would excuse it.
    if allowed is None or -gain > allowed:
        return "differs" if rule.better == "equal" else "worse"
    return "within noise" if rule.tolerance == NOISE else "within tolerance"
