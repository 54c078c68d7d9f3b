"""Statistics of runs that are paired by their seed: mean and spread, differences to a control, and their intervals."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

from scipy import stats

LEVEL = 0.95
"""Confidence of the intervals; what is left of 1 is the share of false alarms that verdicts allow."""

ROUNDING = 1e-9
"""Deviations below this share of the largest value are those of float64: the differences are all the same."""


@dataclass(frozen=True)
class Spread:
    """Mean and spread of a figure over the runs that have it.

    Attributes:
        mean: of the values; None without any.
        deviation: sample standard deviation, with n − 1; None for fewer than two values.
        count: n, how many values there are.
    """

    mean: float | None
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """A figure's difference to the control's, taken seed by seed.

    Attributes:
        mean: of the differences.
        deviation: their sample standard deviation; None for one seed.
        low: lower end of the mean's confidence interval; None where no interval can be given: for one seed, and for
            differences that are all the same, which do not show their noise.
        high: its upper end.
        p_value: of Student's two-sided t-test that the mean is zero; None where there is no interval.
        seeds: of the pairs.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    p_value: float | None
    seeds: tuple[int, ...]


def spread(values: Sequence[float | None]) -> Spread:
    """Return mean and sample standard deviation of the values that are numbers.

    Args:
        values: None, NaN and infinities are left out.
    """
    known = [value for value in values if value is not None and isfinite(value)]
    if not known:
        return Spread(None, None, 0)
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def paired_difference(
    values: Mapping[int, float | None], control: Mapping[int, float | None], level: float = LEVEL
) -> Difference | None:
    """Return the mean difference to the control over the seeds that both have, with Student's t interval.

    Args:
        values: a figure by seed; None, NaN and infinities are none.
        control: the same of the control.
        level: confidence of the interval, in (0, 1).

    Returns:
        The difference, or None where there is no pair. Its interval is `mean ± t · deviation / √n`, with the quantile
        `t` of Student's distribution with n − 1 degrees of freedom.

    Source: Student: The probable error of a mean, Biometrika 6, 1908.
    """
    pairs = {
        seed: (value, other)
        for seed, value in sorted(values.items())
        if value is not None and (other := control.get(seed)) is not None and isfinite(value) and isfinite(other)
    }
    if not pairs:
        return None
    seeds, differences = tuple(pairs), [value - other for value, other in pairs.values()]
    mean, largest = statistics.fmean(differences), max(abs(value) for pair in pairs.values() for value in pair)
    deviation = statistics.stdev(differences) if len(differences) > 1 else None
    if deviation is None or deviation <= ROUNDING * largest:
        return Difference(mean, deviation, None, None, None, seeds)
    error, freedom = deviation / sqrt(len(differences)), len(differences) - 1
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, deviation, mean - half, mean + half, p_value, seeds)


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Return the p-values of several comparisons, adjusted so that a false alarm is as rare for all as for one.

    Args:
        p_values: in 0 … 1, one a comparison; None where there is none, which counts as a comparison nevertheless.

    Returns:
        The adjusted values in the same order, in 0 … 1: the i-th smallest of m times m − i + 1, and at least that of
        any smaller one.

    Source: Holm: A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    known = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(p_values) - rank) * value))
        adjusted[place] = largest
    return tuple(adjusted)
