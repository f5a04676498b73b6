"""Compare two sets of metrics: is any of them worse than chance or its tolerance explains?"""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from striate.config.yaml_loader import read_yaml
from striate.data.json_csv import MISSING, finite, parse_json, read_json
from striate.errors import UserError
from striate.evaluation.metrics import METRICS
from striate.tracking import dvc_lock, records
from striate.tracking.git import commit_of, git

NOISE = "noise"
DEVIATIONS = 1.645  # of a normal distribution, beyond which 1 in 20 lies on one side
COUNT = "n"  # the metric that says how many images a file's proportions are of


class Rule(BaseModel):
    """How one metric is judged.

    Attributes:
        better: which direction is better; a metric of metrics/test.json knows its own.
        tolerance: how much worse it may be, in its own unit, or `noise` for a proportion of images.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    better: Literal["higher", "lower", "equal"] | None = None
    tolerance: Annotated[float, Field(ge=0)] | Literal["noise"]


class MetricCheck(NamedTuple):
    """One metric of one file, before and now; None where it is missing.

    Attributes:
        allowed: by how much it may be worse; None where nothing is judged.
        status: one of FAILURES; or better, equal, within tolerance, within noise, new, not judged.
    """

    file: str
    metric: str
    before: float | None
    now: float | None
    allowed: float | None
    status: str

    @property
    def failed(self) -> bool:
        """Whether this metric alone fails the gate."""
        return self.status in FAILURES


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


NEW = "new"  # the status of a metric that was not there before
FAILURES = {  # status → the words for it
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
        rules = TypeAdapter(Rules).validate_python(read_yaml(path))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"][:3])  # file, metric, key
        raise UserError(
            f"{path}: {place}: {fault['msg']}; each file of metrics holds a rule for each metric"
        ) from None
    for metric, rule in rules.get(records.TEST, {}).items():
        if rule.better is None and metric in METRICS:
            rule.better = METRICS[metric].better or "equal"
    return rules


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


def default_revision(rules: Rules, folder: Path) -> tuple[str, str]:
    """Choose the revision to compare the working tree with.

    That is the main branch of the remote. Where it contains HEAD, that would compare HEAD with
    itself or with something newer: then it is HEAD if code or params have changed since, and its
    first parent if they have not.

    Returns:
        The revision, and the reason where it is not the main branch.

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
    pairs = [(key, before.params.get(key, MISSING), now.params.get(key, MISSING)) for key in keys]
    changes = [f"{key} {old} → {new}" for key, old, new in pairs if old != new]
    return f"Params that differ: {', '.join(changes)}." if changes else ""


def check_rules(rules: Rules, before: Metrics, now: Metrics, revision: str) -> None:
    """Check that there is something to compare.

    Raises:
        UserError: there is no rule; a rule has no direction or names a metric that is on neither
            side; a metric before is not a number; or none of the judged metrics existed before.
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
        if metric in new and rules[file][metric].better is None:
            raise UserError(
                f"gate.yaml does not say which direction of {metric} of {file} is better; it must"
                " be higher, lower or equal"
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


def compare(before: Metrics, now: Metrics, rules: Rules) -> list[MetricCheck]:
    """Judge every metric that has a rule, and list the others."""
    checks = []
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
                checks.append(MetricCheck(file, metric, *values, allowed, status))
            elif values != (None, None):
                checks.append(MetricCheck(file, metric, *values, None, "not judged"))
    return checks


def table(checks: list[MetricCheck]) -> str:
    """The checks as a Markdown table."""
    lines = [
        "| file | metric | before | now | difference | allowed | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for file, metric, before, now, allowed, status in checks:
        change = f"{now - before:+.6g}" if before is not None and now is not None else MISSING
        old, new = (f"{value:.6g}" if value is not None else MISSING for value in (before, now))
        limit = f"{allowed:.3g}" if allowed is not None else MISSING
        lines.append(f"| {file} | {metric} | {old} | {new} | {change} | {limit} | {status} |")
    return "\n".join(lines)


def outcome(checks: list[MetricCheck]) -> str:
    """The outcome in a few words."""
    failed = [f"{check.metric} {FAILURES[check.status]}" for check in checks if check.failed]
    new = [check.metric for check in checks if check.status == NEW]
    # A rule without a value to compare with must not pass silently.
    unjudged = f"; new, so not judged: {', '.join(new)}" if new else ""
    if failed:
        return f"FAILED: {', '.join(failed)}{unjudged}"
    changed = any(check.before != check.now for check in checks)
    return f"passed{unjudged}" if changed else "passed, no metric differs"


def noise_said(checks: list[MetricCheck], rules: Rules) -> str:
    """One sentence that explains a tolerance of `noise`; empty where no rule has one."""
    named = [
        check.metric
        for check in checks
        if check.allowed is not None and rules[check.file][check.metric].tolerance == NOISE
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
        return NEW
    if now == before:
        return "equal"
    gains = {"higher": now - before, "lower": before - now, "equal": -abs(now - before)}
    gain = gains[rule.better or "equal"]
    if gain > 0:
        return "better"
    # Without the number of images, noise excuses no drop.
    if allowed is None or -gain > allowed:
        return "differs" if rule.better == "equal" else "worse"
    return "within noise" if rule.tolerance == NOISE else "within tolerance"
