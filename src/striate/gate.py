"""Compare two sets of metrics: is any of them worse than chance or its tolerance explains?"""

import math
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from striate.errors import UserError
from striate.git import git
from striate.params import read_yaml
from striate.results import parse_json, read_json

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
    status: str  # better, equal, within tolerance, within noise, worse, missing, new, not judged

    @property
    def failed(self) -> bool:
        """Whether this metric alone fails the gate."""
        return self.status in ("worse", "missing")


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
    commit = _commit(folder, revision)
    if commit is None:
        raise UserError(f"Git knows no revision {revision!r}; name a commit, a branch or a tag")
    listed = git(folder, "ls-tree", "--name-only", commit, "--", "metrics/") or ""
    there = {name for name in listed.splitlines() if PurePath(name).match(PATTERN)}
    texts = {file: git(folder, "show", f"{commit}:./{file}") for file in there.union(files)}
    return {
        file: parse_json(text, f"{file} at {revision}")
        for file, text in sorted(texts.items())
        if text is not None
    }


def default_revision(folder: Path) -> str:
    """What a change is compared with: the main branch of where the clone came from, or HEAD."""
    return MAIN if _commit(folder, MAIN) else "HEAD"


def _commit(folder: Path, revision: str) -> str | None:
    asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
    found = git(folder, *asked)
    return found.strip() if found else None


def compare(before: Metrics, now: Metrics, rules: Rules) -> list[Verdict]:
    """Judge every metric that a rule names, and list the others."""
    verdicts = []
    for file in dict.fromkeys([*rules, *before, *now]):
        old, new = (metrics.get(file, {}) for metrics in (before, now))
        judged = rules.get(file, {})
        for metric in dict.fromkeys([*judged, *old, *new]):
            values = _number(old.get(metric)), _number(new.get(metric))
            if metric in judged:
                counts = _number(old.get(COUNT)), _number(new.get(COUNT))
                allowed = _allowed(*values, *counts, judged[metric])
                status = _judge(*values, allowed, judged[metric])
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
        return "worse"
    return "within noise" if rule.tolerance == NOISE else "within tolerance"


def _number(value: Any) -> float | None:
    """A finite number, or None: a metric that is no number counts as missing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
