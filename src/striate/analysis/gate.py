"""Judge metrics against those of another commit, over seeds where both have them."""

import math
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from striate.analysis.gate_sources import Metrics, Side
from striate.config.yaml_loader import read_yaml
from striate.data.json_csv import MISSING, finite
from striate.errors import UserError
from striate.evaluation.metrics import METRICS
from striate.reporting import uncertainty
from striate.reporting.numbers import mean_sd, plural
from striate.reporting.uncertainty import Difference, Mean
from striate.tracking import records

NOISE = "noise"
Z_BOUND = uncertainty.one_sided(math.inf, uncertainty.LEVEL)  # standard errors, of the z-test
MEANS = ("balanced_accuracy",)  # of proportions, whose rarest classes vary most
COUNT = "n"  # the metric that says how many images a file's proportions are of


class Rule(BaseModel):
    """How one metric is judged.

    Attributes:
        better: which direction is better; a metric of metrics/test.json knows its own.
        tolerance: how much worse it may be, in its own unit: so much does not matter. What the
            seeds explain is allowed in any case, where a side has several. `noise` for a proportion
            of all images: that alone, or what other images explain where no side has several seeds.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    better: Literal["higher", "lower", "equal"] | None = None
    tolerance: Annotated[float, Field(ge=0)] | Literal["noise"]


class MetricCheck(NamedTuple):
    """One metric of one file, before and now; None where it is missing.

    Attributes:
        before, now: over the seeds of that side, or of its only one.
        allowed: by how much it may be worse; None where nothing is judged.
        status: one of FAILURES; or better, equal, within tolerance, within noise, new, not judged.
        test: over seeds, whose noise is allowed; None with one seed on each side.
    """

    file: str
    metric: str
    before: Mean | None
    now: Mean | None
    allowed: float | None
    status: str
    test: Difference | None = None

    @property
    def failed(self) -> bool:
        """Whether this metric alone fails the gate."""
        return self.status in FAILURES


NEW = "new"  # the status of a metric that was not there before
FAILURES = {  # status → the words for it
    "worse": "is worse",
    "differs": "differs",
    "missing": "is missing",
    "not a number": "is not a number",
}

Rules = dict[str, dict[str, Rule]]


def load_rules(path: Path) -> Rules:
    """Read gate.yaml: metrics file → metric → rule.

    Raises:
        UserError: the file is missing or holds something else, or the noise of a metric is unknown.
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
        if metric in MEANS and rule.tolerance == NOISE:
            raise UserError(
                f"{path}: {records.TEST}.{metric}.tolerance is {NOISE}, which is for proportions of"
                " all test images, and rare classes make this mean noisier; it must be a number,"
                " beside which the noise of several seeds is allowed in any case"
            )
    return rules


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
        if metric not in old and metric not in new and not _may_lack(file, metric):
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


def _may_lack(file: str, metric: str) -> bool:
    """Whether it is a metric that means something for some data sets only."""
    return file == records.TEST and metric in METRICS and METRICS[metric].where is not None


def compare(before: Side, now: Side, rules: Rules) -> list[MetricCheck]:
    """Judge every metric that has a rule, and list the others."""
    checks = []
    for file in dict.fromkeys([*rules, *before.metrics, *now.metrics]):
        old, new = (side.metrics.get(file, {}) for side in (before, now))
        for metric in dict.fromkeys([*rules.get(file, {}), *old, *new]):
            rule = rules.get(file, {}).get(metric)
            check = _check(file, metric, before, now, rule)
            if check.status == "missing" and metric in new:
                check = check._replace(status="not a number")
            elif check.status == "missing" and metric not in old:  # see `_may_lack`
                check = check._replace(status="not judged")
            if rule or check.before or check.now:
                checks.append(check)
    return checks


def _check(file: str, metric: str, before: Side, now: Side, rule: Rule | None) -> MetricCheck:
    """Judge one metric; list it where it has no rule."""
    # What must be equal is a fact about the results, not a score that another seed moves.
    fact = rule is not None and rule.better == "equal"
    old, new = (
        dict(enumerate(side.score(file, metric))) if fact else side.scores(file, metric)
        for side in (before, now)
    )
    means = _mean(old), _mean(new)
    if rule is None:
        return MetricCheck(file, metric, *means, None, "not judged")
    allowed = None if isinstance(rule.tolerance, str) else rule.tolerance
    test: Difference | None = None
    if old and new and not fact:
        counts = [*before.score(file, COUNT), *now.score(file, COUNT)]
        images = counts if len(counts) == 2 and min(counts) > 0 else None
        if max(len(old), len(new)) > 1:
            test = _test(old, new, _unit(rule, images))
            allowed = max(allowed or 0.0, _noise_of_seeds(test))
        elif allowed is None:
            allowed = _noise_of_images(old[0], new[0], images)
    return MetricCheck(file, metric, *means, allowed, _judge(*means, allowed, rule), test)


def _test(before: dict[int, float], now: dict[int, float], unit: float) -> Difference:
    """The test over seeds; equal scores do not tell how pairs would differ if something changed."""
    if before == now:
        return uncertainty.welch(list(before.values()), list(now.values()), unit)
    return uncertainty.compare(before, now, unit)


def _unit(rule: Rule, images: list[float] | None) -> float:
    """The step of a proportion of so many images; 0 for other metrics."""
    return 1 / min(images) if images and rule.tolerance == NOISE else 0.0


def _mean(scores: dict[int, float]) -> Mean | None:
    return uncertainty.summarize(list(scores.values())) if scores else None


def _noise_of_seeds(test: Difference) -> float:
    """How much worse the second mean may be if both groups are of one setting.

    The bound of the t-test, one-sided at 2.5 %: several metrics are judged at once, and together
    they shall fail one gate in 20 at most where nothing has changed. The test images add nothing:
    both groups are scored on the same ones (`check_sources` refuses others), and if the settings
    are equal, the seeds' spread on these images is all the noise there is.
    """
    return uncertainty.one_sided(test.df) * test.error


def _noise_of_images(before: float, now: float, images: list[float] | None) -> float | None:
    """How much lower the second proportion may be if both networks are equally good.

    The bound of the two-proportion z-test with a pooled variance, one-sided at 5 %; `images` says
    how many each is a proportion of.
    """
    if images is None:
        return None  # excuses no drop
    n, m = images
    pooled = min(max((before * n + now * m) / (n + m), 0.0), 1.0)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return Z_BOUND * error


def _judge(before: Mean | None, now: Mean | None, allowed: float | None, rule: Rule) -> str:
    if now is None:
        return "missing"
    if before is None:
        return NEW
    change = now.mean - before.mean
    if change == 0:
        return "equal"
    gain = {"higher": change, "lower": -change, "equal": -abs(change)}[rule.better or "equal"]
    if gain > 0:
        return "better"
    if allowed is None or -gain > allowed:
        return "differs" if rule.better == "equal" else "worse"
    return "within noise" if rule.tolerance == NOISE else "within tolerance"


def table(checks: list[MetricCheck]) -> str:
    """The checks as a Markdown table; over seeds, mean ± standard deviation and their number."""
    lines = [
        "| file | metric | before | now | difference | allowed | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for check in checks:
        old, new = check.before, check.now
        change = f"{new.mean - old.mean:+.6g}" if old and new else MISSING
        limit = f"{check.allowed:.3g}" if check.allowed is not None else MISSING
        cells = [check.file, check.metric, _shown(old), _shown(new), change, limit, check.status]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(mean: Mean | None) -> str:
    """A score, or the mean of several to the second digit of their spread."""
    if mean is None:
        return MISSING
    if mean.sd is None:
        return f"{mean.mean:.6g}"
    decimals = max(1 - math.floor(math.log10(mean.sd)), 0) if mean.sd else 0
    spec = f".{decimals}f" if mean.sd and decimals < 10 else ".6g"
    return f"{mean_sd(mean, spec)} ({plural(mean.n, 'seed')})"


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


def remarks(checks: list[MetricCheck], rules: Rules) -> list[str]:
    """What noise means in these checks, and what so few seeds cannot show: a line each."""
    noisy: dict[tuple[int, int], list[MetricCheck]] = {}  # by the seeds before and now
    for check in checks:
        rule = rules.get(check.file, {}).get(check.metric)
        if rule and rule.better != "equal" and check.before and check.now:
            of_these = noisy.setdefault((check.before.n, check.now.n), [])
            if rule.tolerance == NOISE and check.allowed is not None:
                of_these.append(check)
    return [line for seeds, found in noisy.items() for line in _remarks(seeds, found)]


def _remarks(seeds: tuple[int, int], noisy: list[MetricCheck]) -> list[str]:
    """The remarks on so many seeds before and now; `noisy` have a tolerance of noise."""
    lines = []
    if noisy:
        names = " and ".join(dict.fromkeys(check.metric for check in noisy))
        lines.append(f"{names} may be worse by {_noise_said(seeds)}")
    if seeds == (1, 1):
        lines.append(
            "One seed before and one now: another seed alone moves a score, which this comparison"
            " cannot tell from a change; `striate repeat` makes groups of seeds to compare."
        )
        return lines
    drops = [
        f"{uncertainty.detectable_drop(check.test):.2g} in {check.metric}"
        for check in noisy
        if check.test
    ]
    parts = [f"{plural(seeds[0], 'seed')} before and {seeds[1]} now are compared"]
    if drops:
        parts.append(
            f"they find a drop of {' or of '.join(drops)} with a probability of"
            f" {uncertainty.POWER:.0%}, a smaller one less often"
        )
    if 1 in seeds:
        parts.append("`striate repeat` adds seeds to the one")
    return [*lines, f"{'; '.join(parts)}."]


def _noise_said(seeds: tuple[int, int]) -> str:
    """What noise is where so many seeds are compared, and how often equal settings exceed it."""
    if seeds == (1, 1):
        return (
            f"the noise of the test images, {Z_BOUND:.4g} standard errors"
            " of the difference between two proportions of so many: of two equally good networks,"
            " one comparison in 20 shows more."
        )
    if 1 in seeds:
        return (
            "the noise of the seeds, as the group spreads: of a group and one more seed of its"
            " setting, one comparison in 40 shows more."
        )
    return (
        "the noise of the seeds, the one-sided 2.5% bound of a t-test on the means: of two groups"
        " of one setting, one comparison in 40 shows more. Other metrics may be worse by as much,"
        " where that is more than their tolerance."
    )
