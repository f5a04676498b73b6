"""Compare two sets of metrics: is any of them worse than its tolerance allows?"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from striate.errors import UserError
from striate.git import git
from striate.params import read_yaml
from striate.results import parse_json, read_json


class Rule(BaseModel):
    """How one metric is judged; the tolerance is in the metric's own unit."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    better: Literal["higher", "lower", "equal"]
    tolerance: Annotated[float, Field(ge=0)]


class Verdict(NamedTuple):
    """One metric of one file, before and now; None where it is missing."""

    file: str
    metric: str
    before: float | None
    now: float | None
    status: str  # better, equal, within tolerance, worse, missing, new

    @property
    def failed(self) -> bool:
        """Whether this metric alone fails the gate."""
        return self.status in ("worse", "missing")


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
        place = ".".join(str(part) for part in fault["loc"])
        raise UserError(
            f"{path}: {place}: {fault['msg']}; it must be a file of metrics, and for each metric"
            " `better` (higher, lower or equal) and `tolerance` (a number)"
        ) from None


def metrics_now(files: list[str], folder: Path) -> Metrics:
    """The metrics files as they are in a working tree.

    Raises:
        UserError: a file is not a JSON object; a missing one is left out.
    """
    return {file: read_json(folder / file) for file in files if (folder / file).exists()}


def metrics_at(files: list[str], revision: str, folder: Path) -> Metrics:
    """The metrics files as they were committed.

    Raises:
        UserError: Git does not know the revision, or a file there is not a JSON object.
    """
    commit = git(
        folder, "rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}"
    )
    if commit is None:
        raise UserError(f"Git knows no revision {revision!r}; name a commit, a branch or a tag")
    texts = {file: git(folder, "show", f"{commit.strip()}:./{file}") for file in files}
    return {
        file: parse_json(text, f"{file} at {revision}")
        for file, text in texts.items()
        if text is not None
    }


def compare(before: Metrics, now: Metrics, rules: Rules) -> list[Verdict]:
    """Judge every metric that a rule names."""
    verdicts = []
    for file, metrics in rules.items():
        for metric, rule in metrics.items():
            old, new = (_number(values.get(file, {}).get(metric)) for values in (before, now))
            verdicts.append(Verdict(file, metric, old, new, _judge(old, new, rule)))
    return verdicts


def table(verdicts: list[Verdict]) -> str:
    """The verdicts as a Markdown table."""
    lines = ["| file | metric | before | now | difference | |", "|---|---|--:|--:|--:|---|"]
    for file, metric, before, now, status in verdicts:
        change = f"{now - before:+.6g}" if before is not None and now is not None else "–"
        old, new = (f"{value:.6g}" if value is not None else "–" for value in (before, now))
        lines.append(f"| {file} | {metric} | {old} | {new} | {change} | {status} |")
    return "\n".join(lines)


def _judge(before: float | None, now: float | None, rule: Rule) -> str:
    if now is None:
        return "missing"
    if before is None:
        return "new"
    if now == before:
        return "equal"
    gain = {"higher": now - before, "lower": before - now, "equal": -abs(now - before)}[rule.better]
    if gain > 0:
        return "better"
    return "within tolerance" if -gain <= rule.tolerance else "worse"


def _number(value: Any) -> float | None:
    """A finite number, or None: a metric that is no number counts as missing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
