"""Medians and paired ratios with intervals that hold for a handful of launches.

Times on shared machines are skewed and have outliers, and there are five to twenty of them, so
that everything here is based on ranks. There is no bootstrap: at n ≤ 10 its nominal 2.5% tails
hold 6 to 8%.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp

import numpy as np
from numpy.typing import NDArray

from ...loaders.base.errors import InputError

CONFIDENCE = 0.95
MIN_LAUNCHES = 6  # the fewest whose exact interval reaches 95% confidence
_STOPPING_ERRORS = (4.0, 3.2, 2.7)  # for one value, two, and more


def median(values: Sequence[float]) -> float:
    """The median; `InputError` for no values or one that is not finite."""
    return _middle(_finite("values", values))


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float
    confidence_attained: float
    """At least the requested confidence if n allows it, else the highest that n allows."""


@dataclass(frozen=True)
class Ratio:
    """How many times slower the first of two settings is; above 1 the first is slower."""

    estimate: float
    low: float
    high: float
    confidence: float
    """The confidence that the interval attains; less than requested if there are few pairs."""
    n: int
    """Number of pairs."""


def hodges_lehmann(differences: Sequence[float]) -> float:
    """The Hodges-Lehmann estimate of location: the median of all Walsh averages.

    Source: Hodges & Lehmann (1963), "Estimates of location based on rank tests", Annals of
    Mathematical Statistics 34(2), 598-611.
    """
    return _middle(_walsh_averages(_finite("differences", differences)))


def wilcoxon_interval(differences: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The signed-rank confidence interval for the centre of paired differences.

    Both ends are Walsh averages, as close together as the exact null distribution allows. If n is
    too small for `confidence`, the interval is the widest possible, from the smallest to the
    largest difference, with the confidence that it attains: 75% for n=3, 93.75% for n=5, none for
    n=1.
    With ties the true confidence is at least the attained one.

    Source: Hollander, Wolfe & Chicken, Nonparametric Statistical Methods, 3rd ed. (2014), section
    3.3 (Tukey's interval).

    Raises:
        InputError: no differences, one that is not finite, or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence!r}; it must lie between 0 and 1")
    averages = np.sort(_walsh_averages(_finite("differences", differences)))
    below = np.cumsum(signed_rank_distribution(len(differences)))  # P(T+ <= k) for k = 0, 1, …
    tail = (1 - confidence) / 2
    k = max(0, int(np.searchsorted(below, tail, side="right")) - 1)
    attained = max(0.0, 1 - 2 * float(below[k]))
    return Interval(float(averages[k]), float(averages[-1 - k]), attained)


def stopping_errors(n: int) -> float:
    """One-sided error bound of a mean, in standard errors, valid whenever measuring stops.

    With 95% probability, the mean of the first n normal values stays below the true mean plus this
    many of its standard errors, for all n up to 80 (the most launches) together. For a single look
    it would be 1.64. It is constant from the third value on, when a choice may be made.

    For one rival 2.532 would be enough. Since there are several, it is 2.7, which gives 97%: on 150
    synthetic landscapes with a peak the choice was within 5% of the best in 94.7% with 2.54, in 98%
    with 2.7.

    Source: Pocock (1977), "Group sequential methods in the design and analysis of clinical trials",
    Biometrika 64(2), 191-199; computed for 80 looks by the recursive integration of Armitage,
    McPherson & Rowe (1969), "Repeated significance tests on accumulating data", Journal of the
    Royal Statistical Society A 132(2), 235-244.

    >>> [stopping_errors(n) for n in (1, 2, 3, 80)]
    [4.0, 3.2, 2.7, 2.7]
    """
    return _STOPPING_ERRORS[min(n, len(_STOPPING_ERRORS)) - 1]


def signed_rank_distribution(n: int) -> NDArray[np.float64]:
    """P(T+ = k) for k = 0 … n(n+1)/2; T+ sums the ranks 1 … n that have a positive random sign.

    Each rank is in the sum or not, with probability 1/2 (Hollander, Wolfe & Chicken, section 3.1).
    """
    return _sum_distribution(tuple(range(1, n + 1)))


def signed_rank_p(differences: Sequence[float]) -> float:
    """The two-sided p-value of the Wilcoxon signed-rank test that differences centre on 0.

    Exact for any n, also with ties, which share their mean rank; differences of 0 are left out
    (Hollander, Wolfe & Chicken, section 3.1). If no others remain, it is 1.
    """
    data = _finite("differences", differences)
    data = data[data != 0]
    # Twice the rank, so that mean ranks are whole numbers.
    _, places, counts = np.unique(np.abs(data), return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(counts) - counts + 1)[places]
    positive = int(doubled[data > 0].sum())
    smaller = min(positive, int(doubled.sum()) - positive)
    chances = _sum_distribution(tuple(sorted(doubled.tolist())))
    return min(1.0, 2 * float(chances[: smaller + 1].sum()))


@lru_cache(maxsize=64)
def _sum_distribution(ranks: tuple[int, ...]) -> NDArray[np.float64]:
    """P(sum = k) for the sum of ranks that are each included with probability 1/2."""
    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1.0
    for rank in ranks:
        with_rank = np.zeros_like(chances)
        with_rank[rank:] = chances[:-rank]
        chances = (chances + with_rank) / 2
    chances.setflags(write=False)
    return chances


def unpaired_ratio(
    slower: Sequence[float], faster: Sequence[float], confidence: float = CONFIDENCE
) -> Ratio:
    """How many times slower the first is, from times that were not measured in pairs.

    The estimate is the median log ratio over all combinations of a first and a second time; the
    interval is that of the rank-sum test (Hollander, Wolfe & Chicken, sections 4.2 and 4.3). `n`
    is the smaller number of times.

    Raises:
        InputError: no times, or times that are not above 0.
    """
    first, second = _finite("times", slower), _finite("times", faster)
    lowest = min(first.min(), second.min())
    if lowest <= 0:
        raise InputError(f"a time is {lowest:g}; ratios need times above 0")
    logs = np.sort((np.log(first)[:, None] - np.log(second)[None, :]).ravel())
    below = np.cumsum(rank_sum_distribution(len(first), len(second)))
    tail = (1 - confidence) / 2
    k = max(0, int(np.searchsorted(below, tail, side="right")) - 1)
    return Ratio(
        estimate=exp(_middle(logs)),
        low=exp(float(logs[k])),
        high=exp(float(logs[-1 - k])),
        confidence=max(0.0, 1 - 2 * float(below[k])),
        n=min(len(first), len(second)),
    )


def rank_sum_p(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided p-value of the Wilcoxon rank-sum test of equal distributions.

    Exact without ties; a tie counts half (Mann & Whitney 1947).
    """
    rows, columns = _finite("values", first)[:, None], _finite("values", second)[None, :]
    larger = float((rows > columns).sum() + 0.5 * (rows == columns).sum())
    smaller = min(larger, rows.size * columns.size - larger)
    chances = rank_sum_distribution(rows.size, columns.size)
    return min(1.0, 2 * float(chances[: int(smaller) + 1].sum()))


@lru_cache(maxsize=64)
def rank_sum_distribution(m: int, n: int) -> NDArray[np.float64]:
    """P(U = k) for k = 0 … mn; U counts the pairs whose value of the first sample is larger.

    The coefficients of the Gaussian binomial (Hollander, Wolfe & Chicken, section 4.1).
    """
    ways = np.zeros(m * n + 1)
    ways[0] = 1.0
    for i in range(1, m + 1):
        # Multiply by (1 - q^(n + i)), divide by (1 - q^i).
        if n + i <= m * n:
            ways[n + i :] -= ways[: len(ways) - n - i].copy()
        for start in range(i):
            ways[start::i] = np.cumsum(ways[start::i])
    chances: NDArray[np.float64] = ways / ways.sum()
    chances.setflags(write=False)
    return chances


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, adjusted for multiple comparisons (Holm 1979), in the given order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda position: p_values[position])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted


def paired_ratio(
    slower: Sequence[float], faster: Sequence[float], confidence: float = CONFIDENCE
) -> Ratio:
    """How many times slower the first is, from times measured pairwise in the same rounds.

    Hodges-Lehmann estimate and signed-rank interval of the log ratios, converted back to ratios.
    Swapping the arguments gives the inverse.

    Args:
        slower: times of the side expected to be slower, in seconds or any other unit.
        faster: times of the other, in the same rounds and order.
        confidence: of the interval.

    Raises:
        InputError: lists of different length, empty ones, or times that are not above 0.
    """
    if len(slower) != len(faster):
        raise InputError(
            f"{len(slower)} times against {len(faster)}; pair them by round, without rounds that "
            "only one side finished"
        )
    first, second = _finite("times", slower), _finite("times", faster)
    lowest = min(first.min(), second.min())
    if lowest <= 0:
        raise InputError(f"a time is {lowest:g}; ratios need times above 0")
    logs = (np.log(first) - np.log(second)).tolist()
    interval = wilcoxon_interval(logs, confidence)
    return Ratio(
        estimate=exp(hodges_lehmann(logs)),
        low=exp(interval.low),
        high=exp(interval.high),
        confidence=interval.confidence_attained,
        n=len(logs),
    )


def _walsh_averages(data: NDArray[np.float64]) -> NDArray[np.float64]:
    """(d_i + d_j) / 2 for all i ≤ j, n(n+1)/2 of them; halved first, so that no sum overflows."""
    i, j = _pairs(len(data))
    averages: NDArray[np.float64] = data[i] / 2 + data[j] / 2
    return averages


@lru_cache(maxsize=64)  # a race needs the same few n thousands of times
def _pairs(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    pairs = np.triu_indices(n)
    for indices in pairs:
        indices.setflags(write=False)
    return pairs


def _middle(data: NDArray[np.float64]) -> float:
    """The median; `numpy.median` takes ten times as long for so few values."""
    ordered = np.sort(data)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[half])
    return float((ordered[half - 1] + ordered[half]) / 2)


def _finite(label: str, values: Sequence[float]) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise InputError(f"no {label}; at least one is needed")
    if not np.isfinite(data).all():
        raise InputError(f"{label} hold {data[~np.isfinite(data)][0]}; leave out failed samples")
    return data
