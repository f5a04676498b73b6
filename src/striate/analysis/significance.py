"""Is a difference more than chance, and which chance? Networks by images, settings by seeds.

McNemar's test compares two networks on the same images; it says nothing about how either would have
come out with another seed. A t-test compares two settings by the scores of their seeds: Welch's, or
the paired one if both have the same seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from striate.reporting import uncertainty
from striate.reporting.numbers import plural, points, points_range
from striate.reporting.uncertainty import LEVEL, POWER, Difference

FEW_SEEDS = 100  # up to which a command to run them is shown


class Trained(NamedTuple):
    """The networks of one setting, one for each seed.

    Attributes:
        name: of the setting.
        seeds: ascending, each once.
        correct: whether each network classifies each test image correctly, bool (seeds, N).
    """

    name: str
    seeds: Sequence[int]
    correct: NDArray[np.bool_]

    @property
    def accuracies(self) -> dict[int, float]:
        """The test accuracy of each seed."""
        scores = self.correct.mean(axis=1)
        return {seed: float(score) for seed, score in zip(self.seeds, scores, strict=True)}


class McNemarResult(NamedTuple):
    """How two sets of predictions of the same images differ.

    Attributes:
        only_first, only_second: how many images only the first, and only the second, has right.
        p: the probability of so uneven a split, or a more uneven one, by the choice of images.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemarResult:
    """McNemar's exact test: do two networks differ by more than the choice of images explains?

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 12 (1947). If both were equally good, an image that only one of them classifies
    correctly would be either's with a probability of one half.

    Args:
        first: whether the first network classifies each image correctly, (N,).
        second: likewise for the second.
    """
    from scipy.stats import binomtest

    ours, theirs = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0
    return McNemarResult(ours, theirs, p)


def network_sentence(first: str, second: str, result: McNemarResult) -> str:
    """What McNemar's test says of two networks, and of these alone."""
    if not result.only_first and not result.only_second:
        return f"The networks {first} and {second} have the same images right."
    counts = (
        f"Two networks: only {second} has {plural(result.only_second, 'image')} right, only {first}"
        f" {result.only_first:,} (McNemar's test over images, p = {result.p:.2g})"
    )
    if result.p >= LEVEL:
        return f"{counts}; the choice of test images may explain that."
    return f"{counts}; these two differ by more than the choice of test images explains."


def differences(first: Trained, others: Sequence[Trained]) -> list[Difference | None]:
    """The test accuracy of other settings minus that of the first, over seeds.

    By `uncertainty.compare`. The p values are Holm's where there are several. None stands where
    both settings have one seed, so that nobody knows how it spreads.

    Args:
        first: the setting that the others are compared with.
        others: scored on the same images.
    """
    unit = 1 / first.correct.shape[1]
    found = [
        uncertainty.compare(first.accuracies, other.accuracies, unit)
        if max(len(first.correct), len(other.correct)) > 1
        else None
        for other in others
    ]
    adjusted = iter(uncertainty.holm([one.p for one in found if one]))
    return [one and one._replace(p=next(adjusted)) for one in found]


def setting_sentences(first: Trained, others: Sequence[Trained]) -> list[str]:
    """What the seeds say of each of the other settings, compared with the first."""
    found = differences(first, others)
    compared = sum(one is not None for one in found)
    holm = f", Holm's for {compared} comparisons" if compared > 1 else ""
    return [_sentence(first, other, one, holm) for other, one in zip(others, found, strict=True)]


def _sentence(first: Trained, other: Trained, found: Difference | None, holm: str) -> str:
    n, m = len(first.correct), len(other.correct)
    if found is None:
        return (
            f"One seed each compares two networks. Whether the setting {other.name} is better or"
            f" worse than {first.name} takes more seeds: striate repeat {other.name} --seeds 5"
        )
    differ = found.p < LEVEL
    test = f"p = {found.p:.2g}{holm}"
    alone = " of this comparison alone" * bool(holm)
    gain = (
        f"{points(found.value)} points of test accuracy, 95% interval{alone}"
        f" {points_range(found.low, found.high)}"
    )
    if min(n, m) == 1:
        single, several = (other, first) if m == 1 else (first, other)
        explains = "more than" if differ else "no more than"
        return (
            f"{other.name} against {first.name}, {m} and {plural(n, 'seed')}: {gain}, if one more"
            f" seed of {single.name} spreads as those of {several.name} (t-test over seeds,"
            f" {test}): {explains} the seed explains. To be sure: striate repeat {single.name}"
            f" --seeds {max(n, m)}"
        )
    wider = uncertainty.with_images(found, first.correct, other.correct)
    counts = f"the same {plural(n, 'seed')}" if found.paired else f"{m} and {plural(n, 'seed')}"
    head = f"{other.name} against {first.name}, {counts}: {gain} ({found.test}, {test})."
    images = f"With other test images, too, the interval is {points_range(wider.low, wider.high)}"
    if differ:
        better, worse = (other, first) if found.value > 0 else (first, other)
        holds = ", which holds 0: other images may undo it." if wider.low < 0 < wider.high else "."
        return (
            f"{head} The setting {better.name} is better than {worse.name} on these images, and the"
            f" choice of seeds does not explain it. {images}{holds}"
        )
    return f"{head} The choice of seeds may explain that. {images}. {_advice(first, other, found)}"


def _advice(first: Trained, other: Trained, found: Difference) -> str:
    """What so many seeds can show, and how many the observed difference takes."""
    scores = [np.array(list(one.accuracies.values())) for one in (first, other)]
    if found.paired:
        scores = [scores[1] - scores[0]]
    sds = [float(one.std(ddof=1)) for one in scores]
    n = min(len(first.correct), len(other.correct))
    if not any(sds):
        return ""
    shown = 100 * uncertainty.detectable(sds, n)
    needed = uncertainty.seeds_needed(found.value, sds)
    seen = f"{n} seeds each show {shown:.2g} points ({POWER:.0%} power)"
    if needed is None:
        return (
            f"{seen}; the observed difference would take more than {uncertainty.MOST_SEEDS:,} each."
        )
    needed = max(needed, n + 1)
    command = "."
    if needed <= FEW_SEEDS:
        command = f": striate repeat {other.name} --seeds {needed}, likewise {first.name}"
    return f"{seen}; the observed difference would take {needed} each{command}"
