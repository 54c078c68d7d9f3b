"""Statistics of paired runs: values worked by hand, and scipy's own tests as an independent oracle."""

from math import inf, nan, sqrt

import numpy as np
import pytest
from scipy import stats

from surgeon.operate.paired import holm, paired_difference, spread


def by_seed(*values: float | None) -> dict[int, float | None]:
    return dict(enumerate(values))


def test_mean_and_sample_deviation_by_hand() -> None:
    of_all = spread([2.0, 4.0, 6.0])
    assert (of_all.mean, of_all.deviation, of_all.count) == (4.0, 2.0, 3)


def test_a_single_value_has_no_deviation_and_none_has_no_mean() -> None:
    assert (spread([7.0]).mean, spread([7.0]).deviation, spread([7.0]).count) == (7.0, None, 1)
    assert (spread([]).mean, spread([]).deviation, spread([]).count) == (None, None, 0)


def test_what_is_no_number_is_left_out() -> None:
    assert spread([1.0, None, nan, 3.0, inf]) == spread([1.0, 3.0])


def test_the_interval_of_three_differences_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, and 4.302653 is the 97.5 % quantile for two degrees of freedom.
    found = paired_difference(by_seed(11.0, 22.0, 33.0), by_seed(10.0, 20.0, 30.0))
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert (found.mean, found.deviation, found.seeds) == (2.0, 1.0, (0, 1, 2))
    assert found.low == pytest.approx(2 - 4.302653 / sqrt(3), abs=1e-6)
    assert found.high == pytest.approx(2 + 4.302653 / sqrt(3), abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_interval_and_the_p_value_are_those_of_scipys_paired_test(count: int) -> None:
    generator = np.random.default_rng(count)
    values, control = generator.normal(80, 2, count), generator.normal(79, 2, count)
    found = paired_difference(by_seed(*values.tolist()), by_seed(*control.tolist()))
    expected = stats.ttest_rel(values, control)
    interval = expected.confidence_interval(0.95)
    assert found is not None
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_a_seed_that_one_of_the_two_lacks_is_no_pair() -> None:
    found = paired_difference(by_seed(11.0, None, 33.0, nan, 5.0), {0: 10.0, 1: 20.0, 2: 30.0, 3: 1.0, 9: 0.0})
    assert found == paired_difference({0: 11.0, 2: 33.0}, {0: 10.0, 2: 30.0})
    assert found is not None
    assert found.seeds == (0, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize("values", [by_seed(11.0), by_seed(11.0, 21.0, 31.0), by_seed(10.1, 20.1, 30.1)])
def test_one_seed_and_equal_differences_have_no_interval(values: dict[int, float | None]) -> None:
    found = paired_difference(values, by_seed(10.0, 20.0, 30.0))
    assert found is not None
    assert (found.low, found.high, found.p_value) == (None, None, None)


def test_holms_procedure_by_hand() -> None:
    # 4 · 0.01; 3 · 0.02; 2 · 0.025 would be less than that; 1 · 0.5.
    assert holm([0.5, 0.01, 0.025, 0.02]) == pytest.approx((0.5, 0.04, 0.06, 0.06))


def test_holm_keeps_a_single_value_and_stays_below_one() -> None:
    assert holm([0.03]) == (0.03,)
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


def test_a_comparison_without_a_p_value_counts() -> None:
    assert holm([0.02, None]) == (0.04, None)


def test_under_no_difference_the_adjusted_values_rarely_alarm() -> None:
    generator = np.random.default_rng(0)
    alarms = sum(
        min(holm(stats.ttest_1samp(generator.normal(size=(4, 5)), 0, axis=0).pvalue.tolist())) < 0.05
        for _ in range(400)
    )
    assert alarms <= 400 * 0.05 + 3 * sqrt(400 * 0.05 * 0.95)
