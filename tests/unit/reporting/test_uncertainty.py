"""What several seeds say: against SciPy's tests, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from striate.reporting import uncertainty

FIRST = [0.9722, 0.9708, 0.9653, 0.9736, 0.9681]
SECOND = [0.9764, 0.9778, 0.9708, 0.9806, 0.9750, 0.9694, 0.9792]


def test_a_mean_has_student_s_interval():
    found = uncertainty.summarize(FIRST)
    low, high = stats.t.interval(0.95, 4, np.mean(FIRST), stats.sem(FIRST))
    assert found == pytest.approx((5, np.mean(FIRST), np.std(FIRST, ddof=1), low, high))
    assert uncertainty.summarize([0.5]) == (1, 0.5, None, None, None)
    assert uncertainty.summarize([0.5, 0.5]) == (2, 0.5, 0, None, None)
    with pytest.raises(ValueError, match="no score"):
        uncertainty.summarize([])


@pytest.mark.parametrize(("first", "second"), [(FIRST, SECOND), (SECOND, FIRST), (FIRST, FIRST)])
def test_welch_is_scipy_s(first, second):
    found = uncertainty.welch(first, second)
    expected = stats.ttest_ind(second, first, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.df == pytest.approx(expected.df)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.value == pytest.approx(np.mean(second) - np.mean(first))
    assert found.value / found.error == pytest.approx(expected.statistic)


def test_one_score_against_several_is_the_t_test_of_pooled_variance():
    # With one score on a side, all of the pooled variance is the other side's.
    found = uncertainty.welch([0.99], FIRST)
    expected = stats.ttest_ind(FIRST, [0.99])
    assert (found.p, found.df) == pytest.approx((expected.pvalue, 4))
    turned = uncertainty.welch(FIRST, [0.99])
    assert (turned.p, turned.value) == pytest.approx((found.p, -found.value))
    for sides in (([0.9], [0.8]), ([], FIRST), (FIRST, [])):
        with pytest.raises(ValueError, match="two seeds"):
            uncertainty.welch(*sides)


def test_equal_scores_are_rounded_ones():
    assert uncertainty.welch([0.5, 0.5], [0.6, 0.6]).p == 0
    assert uncertainty.welch([0.5, 0.5], [0.5, 0.5]).p == 1
    found = uncertainty.welch([0.5] * 5, [0.6] * 5, unit=0.1)
    assert found.error == pytest.approx(math.sqrt(2 * 0.1**2 / 12 / 5))
    assert 0 < found.p < 0.05


def test_holm_s_values():
    # Holm (1979) by hand: 4 × 0.01, then 3 × 0.02, then no less than before.
    assert uncertainty.holm([0.02, 0.01, 0.03, 0.9]) == pytest.approx([0.06, 0.04, 0.06, 0.9])
    assert uncertainty.holm([0.04]) == [0.04]
    assert uncertainty.holm([0.6, 0.7]) == [1.0, 1.0]
    assert uncertainty.holm([]) == []


@pytest.mark.parametrize("n", [2, 5, 20])
def test_the_power_is_that_of_scipy_s_noncentral_t(n):
    shift = 1.0 / math.sqrt(2 / n)
    bound = stats.t.ppf(0.975, 2 * n - 2)
    expected = stats.nct.sf(bound, 2 * n - 2, shift) + stats.nct.cdf(-bound, 2 * n - 2, shift)
    assert uncertainty.power(0.02, (0.02, 0.02), n, n) == pytest.approx(expected, rel=1e-6)


def test_limits_of_the_power():
    assert uncertainty.power(0, (0.1, 0.1), 5, 5) == pytest.approx(uncertainty.LEVEL)
    assert uncertainty.power(1e6, (0.1, 0.1), 5, 5) == pytest.approx(1)
    assert uncertainty.power(-0.1, (0.1, 0.1), 5, 5) == uncertainty.power(0.1, (0.1, 0.1), 5, 5)
    assert uncertainty.power(0.1, (0, 0), 5, 5) == 1
    assert uncertainty.power(0, (0, 0), 5, 5) == uncertainty.LEVEL


@pytest.mark.parametrize("n", [5, 10, 20])
def test_the_detectable_difference_is_found_four_times_in_five(n):
    sds = (0.01, 0.02)
    difference = uncertainty.detectable(sds, n)
    assert uncertainty.power(difference, sds, n, n) == pytest.approx(0.8)
    assert uncertainty.seeds_needed(difference * 1.0001, sds) == n
    assert uncertainty.seeds_needed(difference * 0.9999, sds) == n + 1


def test_the_number_of_seeds_that_a_difference_needs_has_a_limit():
    assert uncertainty.seeds_needed(0.0, (0.01, 0.01)) is None
    assert uncertainty.seeds_needed(1e-5, (0.01, 0.01)) is None
    assert uncertainty.seeds_needed(10, (0.01, 0.01)) == 2


def test_equal_seeds_are_paired():
    first, second = dict(enumerate(FIRST)), dict(enumerate(SECOND[:5]))
    found = uncertainty.compare(first, dict(reversed(second.items())))
    expected = stats.ttest_rel(SECOND[:5], FIRST)
    assert (found.p, found.df, found.paired) == (pytest.approx(expected.pvalue), 4, True)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    others = {seed + 1: score for seed, score in second.items()}
    assert uncertainty.compare(first, others) == uncertainty.welch(FIRST, SECOND[:5])
    assert uncertainty.compare({0: 0.5, 1: 0.6}, {0: 0.55}).paired is False
    rounded = uncertainty.compare({0: 0.5, 1: 0.5}, {0: 0.6, 1: 0.6}, unit=0.1)
    assert rounded.error == pytest.approx(0.1 / 12**0.5)


def test_the_power_of_pairs_is_that_of_their_differences():
    assert uncertainty.power(0.02, [0.02], 5, 5) == pytest.approx(
        stats.nct.sf(stats.t.ppf(0.975, 4), 4, 5**0.5)
        + stats.nct.cdf(-stats.t.ppf(0.975, 4), 4, 5**0.5), rel=1e-6
    )  # fmt: skip


def test_the_detectable_drop_is_found_four_times_in_five():
    found = uncertainty.welch(FIRST, SECOND)
    shift = uncertainty.detectable_drop(found) / found.error
    missed = stats.nct.cdf(stats.t.ppf(0.975, found.df), found.df, shift)
    assert missed == pytest.approx(0.2, abs=1e-4)
    images_only = found._replace(df=math.inf)
    shift = uncertainty.detectable_drop(images_only) / found.error
    assert shift == pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))


# --- by simulation -------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(5, 5), (5, 10), (1, 6)])
def test_of_equal_settings_one_in_twenty_differs(n, m):
    random = np.random.default_rng(0)
    draws = [uncertainty.welch(*np.split(random.normal(size=n + m), [n])) for _ in range(3000)]
    assert np.mean([found.p < 0.05 for found in draws]) == pytest.approx(0.05, abs=0.012)
    assert np.mean([found.low <= 0 <= found.high for found in draws]) == pytest.approx(
        0.95, abs=0.012
    )


def test_nineteen_in_twenty_intervals_hold_the_mean():
    random = np.random.default_rng(1)
    means = [uncertainty.summarize(list(random.normal(3, 2, size=5))) for _ in range(3000)]
    assert np.mean([mean.low <= 3 <= mean.high for mean in means]) == pytest.approx(0.95, abs=0.012)


def test_the_power_is_that_of_a_simulation():
    random = np.random.default_rng(2)
    found = [
        uncertainty.welch(random.normal(0, 1, 5), random.normal(2, 1, 5)).p < 0.05
        for _ in range(3000)
    ]
    # Welch's degrees of freedom are estimated, which costs three points of power.
    assert np.mean(found) == pytest.approx(uncertainty.power(2, (1, 1), 5, 5), abs=0.05)


def accuracies(random, n, images, spread=0.05):
    """Networks of a setting on images that are of unequal difficulty: bool (n, images)."""
    skill = random.normal(0, spread, (n, 1))
    return random.random((n, images.size)) < np.clip(images + skill, 0, 1)


def test_with_images_the_interval_holds_the_difference_on_all_images():
    # Two settings, of which one is better on some images; others seeds and images each time.
    random = np.random.default_rng(3)
    held = held_without = 0
    for _ in range(800):
        images = random.beta(4, 1, 200)
        gain = random.choice([-0.1, 0.16], 200)  # 0.03 on average
        first = accuracies(random, 5, np.clip(images, 0.1, 0.84))
        second = accuracies(random, 5, np.clip(images, 0.1, 0.84) + gain)
        seeds = uncertainty.welch(first.mean(1), second.mean(1))
        both = uncertainty.with_images(seeds, first, second)
        assert both.value == seeds.value
        assert both.error >= seeds.error
        held += both.low <= 0.03 <= both.high
        held_without += seeds.low <= 0.03 <= seeds.high
    assert held / 800 > 0.93
    assert held >= held_without


def test_networks_that_agree_on_all_images_add_nothing():
    same = np.ones((3, 10), bool)
    seeds = uncertainty.welch([0.9, 0.8, 0.7], [0.9, 0.8, 0.6])
    assert uncertainty.with_images(seeds, same, same)[:2] == pytest.approx(seeds[:2])
