"""The gate's rule: when a difference between two revisions fails, passes or is inconclusive.

Comparisons are screened leniently on a few pairs of launches. Those that look slower or are
inconclusive are measured again in twice as many fresh pairs and judged by those alone: pairs that
selected a comparison for looking slow would bias its verdict. A comparison fails only if the
slowdown is beyond its threshold and significant after Holm's correction over all confirmed
comparisons. If the slowdown is beyond the threshold but not significant, or the interval is too
wide, as many pairs again are added for a second and last look.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, inf, isfinite, log, sqrt
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...loaders.base.errors import InputError
from ..record.statistics import (
    CONFIDENCE,
    Ratio,
    hodges_lehmann,
    holm,
    median,
    paired_ratio,
    rank_sum_p,
    signed_rank_p,
    unpaired_ratio,
)

GateVerdict = Literal["pass", "regression", "failed", "inconclusive"]
"""`failed`: the cell does not run on head; `regression`: it is slower, or delivers other rows."""
K = TypeVar("K", bound=Hashable)

# If the log ratio of a pair has a standard deviation of 0.11, as on two shared CPUs: 10 pairs
# detect a slowdown of 10% in 40% of runs, 20 pairs in 80%; with 10 pairs, 96% of equal revisions
# stay below 1.15.
SCREEN_PAIRS = 10
CONFIRM_PAIRS = 20
THRESHOLD = 1.05
TOLERATE = 1.15
# Two-sided: half of it is for slowdowns. Four consecutive pairs are forked from the same two
# servers and may vary together: standard deviations of 0.02 of a server (`race.SERVER_SD`) and 0.11
# of a pair give an intraclass correlation of 0.06 and standard errors 1.09 times as large. So the
# tests use the TESTED_ levels, whose quantiles are 1.09 times as far out.
ALPHA = 0.01
LOOKS = 2
# The level of each of two looks, together ALPHA (Pocock 1977); computed from the bivariate normal
# distribution with the correlation sqrt(1/2) between a sum and its first half.
LOOK_ALPHA = 0.00557
TESTED_ALPHA, TESTED_LOOK_ALPHA = 0.0050, 0.0025

MEMORY_PAIRS = 3  # of launches that measure memory, at each look
MEMORY_SD = 0.02  # of the log ratio of a pair: 0.010 to 0.021 in pairs of 6 and 12 launches
USUAL_WEIGHT = 8  # the usual spread counts as this many measured differences

# In screening, a comparison is suspicious if its ratio is above the first (or above the root of its
# threshold, if that is less) and its p-value is below the second.
SUSPICIOUS, SUSPICIOUS_P = 1.025, 0.3

_Z_ALPHA, _Z_POWER, _Z_INTERVAL = 2.576, 0.842, 1.96  # for alpha 0.01, power 80%, 95% interval
_EFFICIENCY = 0.955  # of the signed-rank test versus the t-test, for normal differences: 3 / pi


@dataclass(frozen=True)
class Rule:
    """The limits that a comparison is judged by.

    Attributes:
        threshold: the ratio of head to base beyond which a slowdown fails.
        tolerate: the ratio that the interval must stay below to pass.
    """

    threshold: float = THRESHOLD
    tolerate: float = TOLERATE

    @classmethod
    def of(cls, threshold: float | None = None, tolerate: float | None = None) -> Rule:
        """Return a rule with defaults for None; the default `tolerate` is at least `threshold`.

        Raises:
            InputError: not 1 <= threshold <= tolerate < infinity.
        """
        limit = THRESHOLD if threshold is None else threshold
        return cls(limit, max(TOLERATE, limit) if tolerate is None else tolerate)

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.tolerate < inf:
            raise InputError(
                f"threshold is {self.threshold:g} and tolerate {self.tolerate:g}; both are ratios "
                "of head to base from 1 on, such as 1.05 and 1.15, and tolerate is the larger"
            )

    @property
    def suspicious(self) -> float:
        """The ratio beyond which a comparison in screening is suspicious."""
        return min(SUSPICIOUS, sqrt(self.threshold))

    def is_met(self, compared: Compared) -> bool:
        """Whether a slowdown beyond `tolerate` is ruled out."""
        ratio = compared.ratio
        return ratio.high < self.tolerate and ratio.confidence >= CONFIDENCE


@dataclass(frozen=True)
class Compared:
    """Head against base.

    Attributes:
        base: the median of base.
        head: the median of head.
        ratio: head to base, with its interval; above 1, head is slower.
        p: the p-value of the two-sided test of no difference.
        sd: standard deviation of the log ratio of one launch of head to one of base.
        of: the unit of `ratio.n`: a pair of launches, or a run if base was measured earlier.
    """

    base: float
    head: float
    ratio: Ratio
    p: float
    sd: float
    of: str = "pair"

    def detectable_effect(self, rule: Rule) -> float:
        """The minimum detectable effect of as many pairs at 80% power, as a ratio."""
        return smallest_effect(self.sd, self.ratio.n, rule.threshold)

    @property
    def is_faster(self) -> bool:
        """Whether head is significantly faster."""
        return self.ratio.high < 1 and self.p < ALPHA

    def pairs_needed(self, rule: Rule) -> float:
        """About how many pairs would decide with 80% power; infinite if no number would."""
        estimate = log(self.ratio.estimate)
        if self.ratio.estimate > rule.threshold:
            distance, errors = estimate, _Z_ALPHA + _Z_POWER
        else:
            distance, errors = log(rule.tolerate) - estimate, _Z_INTERVAL + _Z_POWER
        if distance <= 0 or not isfinite(self.sd):  # one pair has no spread
            return inf
        return ceil((errors * self.sd / distance) ** 2 / _EFFICIENCY)


def smallest_effect(sd: float, pairs: int, threshold: float = THRESHOLD) -> float:
    """The minimum detectable effect, as a ratio, of the last look alone at 80% power.

    A detected slowdown is significant, and its estimate is beyond the threshold.

    Args:
        sd: standard deviation of the log ratio of a pair.
        pairs: the number of pairs.
        threshold: the ratio beyond which a slowdown fails.
    """
    error = sd / sqrt(_EFFICIENCY * pairs)
    return exp(max(_Z_ALPHA * error, log(threshold)) + _Z_POWER * error)


def compare_pairs(base: Mapping[int, float], head: Mapping[int, float]) -> Compared | None:
    """Compare two sides in pairs, by round; None without a common round.

    Less is better. The test is the signed-rank test.

    Raises:
        InputError: values that are not above 0.
    """
    common = sorted(base.keys() & head.keys())
    if not common:
        return None
    sides = [base[turn] for turn in common], [head[turn] for turn in common]
    ratio = paired_ratio(sides[1], sides[0])
    logs = np.log(sides[1]) - np.log(sides[0])
    return Compared(
        median(sides[0]), median(sides[1]), ratio, signed_rank_p(logs.tolist()), _spread(logs)
    )


def compare_unpaired(base: Mapping[int, float], head: Mapping[int, float]) -> Compared | None:
    """Compare sides measured at different times; None if either has no values.

    Less is better. The test is the rank-sum test.

    Raises:
        InputError: values that are not above 0.
    """
    sides = list(base.values()), list(head.values())
    if not all(sides):
        return None
    ratio = unpaired_ratio(sides[1], sides[0])
    sd = sqrt(sum(_spread(np.log(side)) ** 2 for side in sides))
    p = rank_sum_p(sides[1], sides[0])
    return Compared(median(sides[0]), median(sides[1]), ratio, p, sd, "run")


def compare_steady(
    base: Mapping[int, float], head: Mapping[int, float], *, paired: bool = True
) -> Compared | None:
    """Compare memory peaks, which hardly vary, by a few launches of each side.

    Less is better. The interval and the test are Student's. The prior of their standard deviation
    is `MEMORY_SD`, which counts as `USUAL_WEIGHT` measured differences.

    Args:
        base: values by round.
        head: values by round.
        paired: whether both sides were measured in the same rounds, not at different times.

    Raises:
        InputError: values that are not above 0.
    """
    rounds = sorted(base.keys() & head.keys())
    sides = [
        [side[turn] for turn in rounds] if paired else list(side.values()) for side in (base, head)
    ]
    if not all(sides):
        return None
    if min(map(min, sides)) <= 0:
        raise InputError(f"a value is {min(map(min, sides)):g}; ratios need values above 0")
    if paired:
        logs = np.log(sides[1]) - np.log(sides[0])
        return compare_with_prior(sides, logs.tolist(), MEMORY_SD)
    launches = [np.log(side) for side in sides]
    log_ratio = float(np.median(launches[1]) - np.median(launches[0]))
    # A launch has half the variance of a pair.
    squares = 2 * sum(float(np.sum((side - np.median(side)) ** 2)) for side in launches)
    freedom = sum(map(len, sides)) - len(sides)
    pairs = 2 / sum(1 / len(side) for side in launches)
    return _compare_by_student(sides, log_ratio, squares, freedom, pairs, MEMORY_SD, "run")


def compare_with_prior(
    sides: Sequence[Sequence[float]], logs: Sequence[float], usual_sd: float
) -> Compared:
    """Compare two sides by a few log ratios, with the usual spread as a prior.

    Args:
        sides: the values of base and of head, in pairs.
        logs: log ratios of the pairs.
        usual_sd: their usual standard deviation, which counts as `USUAL_WEIGHT` log ratios.
    """
    log_ratio = hodges_lehmann(list(logs))
    squares = sum((one - log_ratio) ** 2 for one in logs)
    pairs = len(logs)
    return _compare_by_student(sides, log_ratio, squares, pairs - 1, pairs, usual_sd, "pair")


def _compare_by_student(
    sides: Sequence[Sequence[float]],
    log_ratio: float,
    squares: float,
    freedom: int,
    pairs: float,
    usual_sd: float,
    unit: str,
) -> Compared:
    """Compare by Student's interval and test of a log ratio, with a prior of its spread.

    Args:
        sides: the values of base and of head.
        log_ratio: the log ratio of head to base.
        squares: the sum of squares of the pairs' log ratios around it.
        freedom: degrees of freedom of that sum.
        pairs: the (effective) number of pairs.
        usual_sd: as in `compare_with_prior`.
        unit: as `of` in `Compared`.
    """
    from scipy.stats import t

    freedom += USUAL_WEIGHT
    sd = sqrt((squares + USUAL_WEIGHT * usual_sd**2) / freedom)
    error = sd / sqrt(pairs)
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    low, high = exp(log_ratio - half), exp(log_ratio + half)
    ratio = Ratio(exp(log_ratio), low, high, CONFIDENCE, min(map(len, sides)))
    p = 2 * float(t.sf(abs(log_ratio) / error, freedom))
    return Compared(median(sides[0]), median(sides[1]), ratio, p, sd, unit)


def _spread(logs: NDArray[np.float64]) -> float:
    return float(np.std(logs, ddof=1)) if len(logs) > 1 else inf


def needs_confirming(screened: Compared, rule: Rule) -> bool:
    """Whether screening suggests a slowdown, or cannot rule out one beyond `tolerate`."""
    suspicious = screened.ratio.estimate > rule.suspicious and screened.p < SUSPICIOUS_P
    return suspicious or not rule.is_met(screened)


def seems_shifted(screened: Compared, rule: Rule) -> bool:
    """Whether a control looks slower or faster in screening by more than its threshold."""
    return is_shifted(screened, rule) and screened.p < SUSPICIOUS_P


def is_shifted(control: Compared, rule: Rule) -> bool:
    """Whether a control is slower or faster by more than its threshold."""
    ratio = control.ratio.estimate
    return max(ratio, 1 / ratio) > rule.threshold


def differs(confirmed: Compared, rule: Rule) -> bool:
    """Whether a control is significantly slower or faster by more than its threshold."""
    return is_shifted(confirmed, rule) and confirmed.p < TESTED_LOOK_ALPHA


@dataclass(frozen=True)
class Judged:
    """A verdict and its p-value, corrected for the family."""

    verdict: GateVerdict
    p: float


def judge(
    confirmed: Mapping[K, Compared], rules: Mapping[K, Rule], alpha: float = TESTED_LOOK_ALPHA
) -> dict[K, Judged]:
    """Return the verdicts at one look.

    Args:
        confirmed: the comparisons, by confirming pairs alone.
        rules: the rule of each comparison.
        alpha: the level of the whole family at this look.
    """
    adjusted = holm([one.p for one in confirmed.values()])
    judged: dict[K, Judged] = {}
    for (key, compared), p in zip(confirmed.items(), adjusted, strict=True):
        rule = rules[key]
        verdict: GateVerdict = "pass" if rule.is_met(compared) else "inconclusive"
        if compared.ratio.estimate > rule.threshold and p < alpha:
            verdict = "regression"
        judged[key] = Judged(verdict, p)
    return judged


def needs_another_look(verdict: GateVerdict, confirmed: Compared, rule: Rule) -> bool:
    """Whether the verdict of the first look is open, so that more pairs may change it."""
    beyond = confirmed.ratio.estimate > rule.threshold
    return verdict == "inconclusive" or (verdict == "pass" and beyond)
