"""What several seeds say: means with intervals, Welch's t-test, power, and the images' part.

A score of one network holds two kinds of chance. The seed chose the validation split, the first
weights, the order of the batches and the augmentation; and the test images are some of many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05  # of a test; an interval holds the truth in 1 - LEVEL of all cases
POWER = 0.8  # with which a difference that exists should be found
MOST_SEEDS = 1000  # that `seeds_needed` tries


class Mean(NamedTuple):
    """The scores of some seeds in short.

    Attributes:
        n: number of seeds.
        mean: of their scores.
        sd: standard deviation, with n - 1; None for one seed.
        low, high: the 95 % interval of the mean (Student's t); None for one seed, and for equal
            scores, which do not prove that none would differ.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """The second mean minus the first.

    Attributes:
        value: the difference.
        error: its standard error.
        df: degrees of freedom of the error; infinite without seeds' part.
        low, high: its 95 % interval.
        p: two-sided probability of so large a difference, or a larger one, if there were none.
        paired: whether it is the mean of the differences of equal seeds.
    """

    value: float
    error: float
    df: float
    low: float
    high: float
    p: float
    paired: bool = False

    @property
    def test(self) -> str:
        """The name of the test."""
        return "paired t-test" if self.paired else "Welch's t-test"


def summarize(scores: Sequence[float]) -> Mean:
    """The mean of scores with its standard deviation and interval.

    Raises:
        ValueError: there is no score.
    """
    if not scores:
        raise ValueError("no score to take the mean of")
    values = np.asarray(scores, np.float64)
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Mean(1, mean, None, None, None)
    sd = float(values.std(ddof=1)) if np.ptp(values) else 0.0
    if not sd:
        return Mean(n, mean, 0.0, None, None)
    half = _quantile(1 - LEVEL / 2, n - 1) * sd / math.sqrt(n)
    return Mean(n, mean, sd, mean - half, mean + half)


def compare(
    first: Mapping[int, float], second: Mapping[int, float], unit: float = 0.0
) -> Difference:
    """Compare the scores of two groups of seeds, by a t-test that fits.

    Equal seeds draw the same validation split and order and, where shapes agree, the same weights,
    so their scores rise and fall together. If both groups have the same seeds, the test is of the
    differences between them (paired); else it is Welch's.

    Args:
        first: score by seed.
        second: likewise.
        unit: as in `welch`.

    Raises:
        ValueError: neither side has two scores, so no spread is known.
    """
    if len(first) < 2 or first.keys() != second.keys():
        return welch(list(first.values()), list(second.values()), unit)
    gains = np.array([second[seed] - first[seed] for seed in first])
    # Two scores are rounded.
    variance = max(float(gains.var(ddof=1)), unit**2 / 6) / len(gains)
    return _difference(float(gains.mean()), variance, len(gains) - 1, paired=True)


def welch(first: Sequence[float], second: Sequence[float], unit: float = 0.0) -> Difference:
    """Welch's t-test on the scores of two groups of seeds.

    B. L. Welch, "The generalization of Student's problem when several different population
    variances are involved", Biometrika 34 (1947). Where one side has a single score, its spread is
    taken to be the other side's (Crawford and Howell, The Clinical Neuropsychologist 12, 1998).

    Args:
        first: scores, one or more.
        second: likewise.
        unit: the smallest step of a score, such as 1/N for the accuracy on N images. No spread
            below that of rounding to it is believed: five equal scores do not have none.

    Raises:
        ValueError: neither side has two scores, so no spread is known.
    """
    n, m = len(first), len(second)
    variances = [_variance(first, unit), _variance(second, unit)]
    known = [variance for variance in variances if variance is not None]
    if not known or not n or not m:
        raise ValueError("a spread takes two seeds of one setting")
    parts = [(known[0] if v is None else v) / k for v, k in zip(variances, (n, m), strict=True)]
    if len(known) == 1:
        df = float(max(n, m) - 1)
    else:
        df = _satterthwaite([(parts[0], n - 1), (parts[1], m - 1)])
    value = float(np.mean(second) - np.mean(first))
    return _difference(value, sum(parts), df)


def with_images(
    seeds: Difference, first: NDArray[np.bool_], second: NDArray[np.bool_]
) -> Difference:
    """Widen the interval of a difference in accuracy: other seeds and other test images, too.

    The accuracy is a mean over seeds crossed with images. What seeds and images add to the variance
    of a difference is estimated from its rows and its columns; both estimates hold the part of
    their interaction, which is subtracted once. (A. B. Owen, "The pigeonhole bootstrap", Annals of
    Applied Statistics 1 (2007), on why resampling both would count it three times.)

    Args:
        seeds: what `compare` or `welch` gives for the accuracies of the same networks.
        first: whether each network of the first group classifies each image correctly, bool
            (seeds, N); in the same order as the second's if the seeds are paired.
        second: likewise for the second group on the same images, bool (seeds, N).
    """
    count = first.shape[1]
    gains = second.mean(axis=0) - first.mean(axis=0)
    images = float(gains.var(ddof=1)) / count if count > 1 else 0.0
    crossed = [second.astype(float) - first] if seeds.paired else [first, second]
    both = sum(_interaction(group) for group in crossed)
    # Seeds whose accuracies happen to agree would make the difference of the two negative.
    added = max(images - both, 0.0)
    total = seeds.error**2 + added
    df = _satterthwaite([(seeds.error**2, seeds.df), (added, count - 1)])
    found = _difference(seeds.value, total, df, seeds.paired)
    # A little more variance with more degrees of freedom would promise more than the seeds alone.
    return found if found.high - found.low > seeds.high - seeds.low else seeds


def _interaction(correct: NDArray[np.floating] | NDArray[np.bool_]) -> float:
    """What the interaction of seeds and images adds to the variance of their mean."""
    n, count = correct.shape
    if n == 1:
        # Nothing separates it from the images' part; it is left there.
        return 0.0
    values = correct.astype(np.float64)
    residuals = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return float((residuals**2).sum() / ((n - 1) * max(count - 1, 1)) / (n * count))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust the p values of several comparisons, each in its place.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979).
    """
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda k: ps[k])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


def power(difference: float, sds: Sequence[float], n: int, m: int) -> float:
    """The probability that a test finds a difference (p < 0.05), from the non-central t.

    Args:
        difference: of the two means.
        sds: standard deviations of the two groups' scores, for Welch's test; or one, of the
            differences between equal seeds, for the paired one.
        n: seeds of the first group, two or more.
        m: seeds of the second, likewise; equal to n for pairs.
    """
    from scipy.special import nctdtr

    parts = [(sd**2 / size, size - 1) for sd, size in zip(sds, (n, m), strict=False)]
    error = math.sqrt(sum(part for part, _ in parts))
    if error == 0:
        return 1.0 if difference else LEVEL
    df, shift = _satterthwaite(parts), abs(difference) / error
    bound = _quantile(1 - LEVEL / 2, df)
    # Far out, SciPy's distribution is not a number where it should be 0.
    missed, wrong_way = np.nan_to_num(nctdtr(df, shift, [bound, -bound]))
    return float(1 - missed + wrong_way)


def detectable(sds: Sequence[float], n: int) -> float:
    """The difference that `n` seeds each find with a probability of POWER.

    Args:
        sds: as in `power`.
        n: seeds of each group, two or more.
    """
    error = math.sqrt(sum(sd**2 for sd in sds) / n)
    low, high = 0.0, 100 * error
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, sds, n, n) >= POWER else (middle, high)
    return high


def one_sided(df: float, level: float = LEVEL / 2) -> float:
    """The number of standard errors that so much of Student's t exceeds, on one given side.

    Args:
        df: degrees of freedom; infinite for the normal distribution.
        level: the probability.
    """
    return _quantile(1 - level, df)


def detectable_drop(difference: Difference) -> float:
    """The drop that a one-sided test with this error finds with a probability of POWER.

    From the non-central t, whatever the two numbers of seeds: they are in the error and its `df`.
    """
    if math.isinf(difference.df):
        shift = one_sided(math.inf) + _quantile(POWER, math.inf)
    else:
        from scipy.special import nctdtrinc

        shift = float(nctdtrinc(difference.df, 1 - POWER, one_sided(difference.df)))
    return shift * difference.error


def seeds_needed(difference: float, sds: Sequence[float]) -> int | None:
    """How many seeds each group needs to find a difference with a probability of POWER.

    `sds` as in `power`; None where MOST_SEEDS would not do.
    """
    if power(difference, sds, MOST_SEEDS, MOST_SEEDS) < POWER:
        return None
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        if power(difference, sds, middle, middle) >= POWER:
            high = middle
        else:
            low = middle
    return high


def _variance(scores: Sequence[float], unit: float) -> float | None:
    if len(scores) < 2:
        return None
    return max(float(np.var(scores, ddof=1)), unit**2 / 12)


def _satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """The degrees of freedom of a sum of variances, each with its own."""
    total = sum(part for part, _ in parts)
    weights = sum(part**2 / df for part, df in parts if part)
    return total**2 / weights if weights else math.inf


def _difference(value: float, variance: float, df: float, paired: bool = False) -> Difference:
    from scipy.special import stdtr

    error = math.sqrt(variance)
    if error == 0:
        return Difference(value, 0.0, df, value, value, 0.0 if value else 1.0, paired)
    half = _quantile(1 - LEVEL / 2, df) * error
    p = 2 * float(stdtr(df, -abs(value) / error))
    return Difference(value, error, df, value - half, value + half, p, paired)


def _quantile(probability: float, df: float) -> float:
    """A quantile of Student's t."""
    if math.isinf(df):
        return NormalDist().inv_cdf(probability)  # without loading SciPy
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))
