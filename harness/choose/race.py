"""A race of settings: which one leads, which are clearly slower or tied, and whether it is over.

Everything is compared in pairs, round by round, so that a slow minute of the machine affects both
sides. Tests only decide whether to go on. The estimate decides ties, since "not significantly
different" may just mean weak evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from math import exp, hypot, inf, log, sqrt

import numpy as np

from ..record.objectives import THROUGHPUT, TIE, Objective
from ..record.statistics import Ratio, hodges_lehmann, median, stopping_errors
from ..record.summary import Summary, paired_by_round, simplest

SETTLED = 1.05  # a choice that is at most this much slower than any other is settled
NEAR = 1.15  # a choice at most this much slower is a tie; the open rivals are named

USUAL_WEIGHT = 8  # an objective's usual spread counts as this many measured differences

# Three standard errors: among 46 equal settings the leader's estimate is about two standard errors
# too good, and fewer than one in a hundred of the others is then wrongly called slower.
CLEARLY = 3.0
# A rival with fewer workers is dropped when it lags by more than this many standard errors. It is
# checked after every round, against a leader that is the luckiest of several: of the synthetic
# landscapes without any difference, one in 13 lost its simplest setting with 3.5, one in 33 with
# 4.5.
LAGGING = 4.5

# At the usual spread, two equal settings are shown to be within 5% of each other after about 37
# launches of each; settings of two backends after 44.
MAX_LAUNCHES = 80
LARGEST_SHARE = 0.9  # of a job's budget, for the race with the most files

# Launches forked from one server may vary together. In 204 pairs from two servers at the same time,
# the standard deviation of log ratios was 0.101 within pairs of servers; each server added 0.017,
# at most 0.032 (benchmarks/LAUNCHES.md). Within one backend this cancels out.
PER_SERVER = 4
SERVER_SD = 0.02

FEWEST_ROUNDS = 3  # that a setting must run in to be chosen or dropped, if others did


class Race:
    """Settings that have run in the same rounds.

    Args:
        summaries: of one job, number of files and phase; those without any cost are left out.
        objective: the costs to compare.
        tie: the estimated ratio up to which settings are tied.
        raced: whether they were launched to find the best by this objective. If so, settings
            that dropped out early are known to be slower; else they may be the best.
    """

    def __init__(
        self,
        summaries: Iterable[Summary],
        objective: Objective = THROUGHPUT,
        tie: float = TIE,
        *,
        raced: bool = True,
    ) -> None:
        self.tie = tie
        self._objective, self._raced = objective, raced
        self._costs: dict[str, dict[int, float]] = {}
        self._summaries: dict[str, Summary] = {}
        for summary in summaries:
            costs = {turn: cost for turn, cost in objective.costs(summary).items() if cost > 0}
            if costs:
                self._costs[summary.trial] = costs
                self._summaries[summary.trial] = summary

    def __len__(self) -> int:
        return len(self._costs)

    def __contains__(self, trial: str) -> bool:
        return trial in self._costs

    def rounds(self, trial: str) -> int:
        """The number of rounds that a setting has run in."""
        return len(self._costs.get(trial, ()))

    @cached_property
    def ranking(self) -> list[Summary]:
        """The settings, best estimate first."""
        ranked = sorted(self._standing, key=lambda trial: self._standing[trial])
        return [self._summaries[trial] for trial in ranked]

    @cached_property
    def leader(self) -> Summary:
        """The best of the settings that have run in enough rounds."""
        return next(one for one in self.ranking if self._is_known(one.trial))

    @cached_property
    def pair_sd(self) -> float:
        """The standard deviation of a log ratio in one round, pooled over all settings."""
        squares, count = USUAL_WEIGHT * self._objective.pair_sd**2, float(USUAL_WEIGHT)
        for trial in self._costs:
            differences = self._differences(trial, self._reference)
            if trial != self._reference and len(differences) > 1:
                squares += float(np.var(differences)) * len(differences)
                count += len(differences) - 1
        return sqrt(squares / count)

    @cached_property
    def _most_rounds(self) -> int:
        return max(map(self.rounds, self._costs))

    @cached_property
    def _best(self) -> float:
        """The lowest estimate of the settings that may be chosen."""
        return min(at for trial, at in self._estimates.items() if self._is_known(trial))

    @cached_property
    def _latest(self) -> int:
        """The latest round that any setting ran in."""
        return max(turn for costs in self._costs.values() for turn in costs)

    @cached_property
    def _reference(self) -> str:
        """The setting that ran in the most rounds; of several, that with the lowest median cost."""
        medians = {trial: median(list(costs.values())) for trial, costs in self._costs.items()}
        return min(self._costs, key=lambda trial: (-self.rounds(trial), medians[trial]))

    @cached_property
    def _standing(self) -> dict[str, float]:
        """The log ratio to the reference of each setting that shares a round with it."""
        return {
            trial: hodges_lehmann(differences)
            for trial in self._costs
            if (differences := self._differences(trial, self._reference))
        }

    @cached_property
    def _estimates(self) -> dict[str, float]:
        """The log ratios to the reference; those of possible winners are shrunk to their mean.

        Winner's curse: the best of several is most often a lucky one, too good by about a standard
        error; among equal settings the simplest would seldom be tied with it. Shrinking removes the
        part of their variance that chance explains (empirical Bayes: Efron and Morris 1973): all of
        it if there is no difference, hardly any if there is one.
        """
        near = [t for t in self._standing if self._is_known(t) and not self.is_clearly_slower(t)]
        values = np.array([self._standing[trial] for trial in near])
        chance = np.array([self.pair_sd**2 / 2 / self.rounds(trial) for trial in near])
        shrunk = values
        if self._objective.has_winners_curse and (others := len(near) - 1) > 0:
            # A variance of so few values has a relative error of sqrt(2 / others).
            by_chance = float(chance.mean()) * (1 + sqrt(2 / others))
            real = max(0.0, float(np.var(values, ddof=1)) - by_chance)
            shrunk = values.mean() + real / (real + chance) * (values - values.mean())
        return self._standing | dict(zip(near, shrunk.tolist(), strict=True))

    def is_clearly_slower(self, trial: str) -> bool:
        """Whether a setting lags behind the leader by more than chance and a tie explain."""
        if trial == self.leader.trial:
            return False
        differences = self._differences(trial, self.leader.trial)
        if not differences:
            return False
        chance = CLEARLY * self.pair_sd / sqrt(len(differences))
        return hodges_lehmann(differences) - chance > log(self.tie)

    def ratio(self, slower: str, faster: str) -> Ratio | None:
        """The cost of `slower` over that of `faster`; None without common rounds."""
        return paired_by_round(self._costs[slower], self._costs[faster])

    def tied(self) -> list[Summary]:
        """The settings whose estimated ratio to the best is at most `tie`, including the best."""
        return [one for one in self.ranking if self._is_tied(one.trial)]

    @cached_property
    def choice(self) -> Summary:
        """The simplest of the tied settings: fewest workers, then least memory."""
        return simplest(self.tied())

    @property
    def runner_up(self) -> Summary | None:
        """The best except the choice, of those that ran in enough rounds if there are any."""
        others = [one for one in self.ranking if one.trial != self.choice.trial]
        eligible = [one for one in others if self._is_known(one.trial)]
        return next(iter(eligible or others), None)

    def open_rivals(self, *, running: bool = True) -> list[Summary]:
        """Rivals that more rounds could still show to be better, or make the choice.

        A rival is settled when the choice is shown to be at most `SETTLED` times as slow. If it
        has fewer workers than the choice, it must also be shown to lag behind the leader.

        Args:
            running: only those that ran in the latest round; the others were dropped or had no
                room.
        """
        if not self._costs:
            return []
        choice = self.choice
        return [
            rival
            for rival in self.ranking
            if rival.trial != choice.trial
            and not (running and self._latest not in self._costs[rival.trial])
            and not self.is_clearly_slower(rival.trial)
            and (
                self.log_ratio_bound(rival.trial) >= log(SETTLED)
                or (
                    rival.settings.num_workers < choice.settings.num_workers
                    and not self._lags(rival.trial)
                )
            )
        ]

    def worst_case_loss(self) -> float:
        """Upper bound of the choice's cost over that of the best, with 95% confidence."""
        choice = self.choice.trial
        others = (
            self.log_ratio_bound(one.trial)
            for one in self.ranking
            if one.trial != choice and not self.is_clearly_slower(one.trial)
        )
        return exp(max(0.0, max(others, default=0.0)))

    def _lags(self, trial: str) -> bool:
        """Whether a setting is shown to be behind the leader."""
        differences = self._differences(trial, self.leader.trial)
        if not differences:
            return False
        chance = LAGGING * self.pair_sd / sqrt(len(differences))
        return hodges_lehmann(differences) - chance > 0

    def rounds_to_settle(self, rival: str) -> float:
        """About how many rounds would show that the choice is within `SETTLED` of a rival.

        Infinite if by the estimate it is not.
        """
        differences = self._differences(self.choice.trial, rival)
        room = log(SETTLED) - hodges_lehmann(differences)
        if room <= 0:
            return inf
        errors = stopping_errors(FEWEST_ROUNDS) * self._sd(self.choice.trial, rival)
        return max(float(FEWEST_ROUNDS), (errors / room) ** 2)

    def log_ratio_bound(self, rival: str) -> float:
        """Upper bound of the log ratio of the choice to a rival, with 95% confidence."""
        return self._log_ratio_bound(self.choice.trial, rival)

    def _log_ratio_bound(self, slower: str, faster: str) -> float:
        """Upper bound of the log ratio, with 95% confidence after any number of rounds."""
        differences = self._differences(slower, faster)
        if not differences:
            return inf
        errors = stopping_errors(len(differences))
        chance = errors * self._sd(slower, faster) / sqrt(len(differences))
        return hodges_lehmann(differences) + chance

    def _sd(self, trial: str, other: str) -> float:
        """The standard deviation of the log ratio of two settings in one of many rounds.

        Several rounds share a server: if the backends differ, the variation of servers adds up.
        """
        same = self._summaries[trial].backend == self._summaries[other].backend
        if same or not self._objective.timed:
            return self.pair_sd
        return hypot(self.pair_sd, SERVER_SD * sqrt(2 * (PER_SERVER - 1)))

    def _is_tied(self, trial: str) -> bool:
        return self._is_known(trial) and self._estimates[trial] - self._best <= log(self.tie)

    def _is_known(self, trial: str) -> bool:
        """Whether it ran in enough rounds to be chosen: three, and if raced, half of the most."""
        most = self._most_rounds
        enough = max(FEWEST_ROUNDS, most / 2) if self._raced else FEWEST_ROUNDS
        return self.rounds(trial) >= min(most, enough)

    def _differences(self, trial: str, other: str) -> Sequence[float]:
        """The log ratios of the costs of two settings in their common rounds."""
        first, second = self._costs[trial], self._costs[other]
        return [log(first[turn] / second[turn]) for turn in sorted(first.keys() & second.keys())]


def contest(
    summaries: Iterable[Summary],
    objective: Objective = THROUGHPUT,
    tie: float = TIE,
    max_memory: int | None = None,
    *,
    raced: bool = True,
) -> Race:
    """The race of the settings that may be chosen.

    Args:
        summaries: of one job, number of files and phase.
        objective: the costs to compare; for memory, only settings no slower than the original.
        tie: the estimated ratio up to which settings are tied.
        max_memory: bytes of peak PSS; settings that need more or an unknown amount are excluded.
        raced: as in `Race`.
    """
    allowed = list(summaries)
    if not objective.timed:
        slower = _slower_than_the_original(allowed, tie)
        allowed = [one for one in allowed if one.trial not in slower]
    allowed = [one for one in allowed if _keeps_to(one, max_memory)]
    return Race(allowed, objective, tie, raced=raced)


def _keeps_to(summary: Summary, max_memory: int | None) -> bool:
    peak = summary.peak_pss_bytes
    return max_memory is None or (peak is not None and peak <= max_memory)


def _slower_than_the_original(summaries: Iterable[Summary], tie: float) -> set[str]:
    by_time = Race(summaries, THROUGHPUT, tie)
    originals = [one for one in by_time.ranking if one.backend == "original"]
    return {
        one.trial
        for original in originals
        for one in by_time.ranking
        if (ratio := by_time.ratio(one.trial, original.trial)) and ratio.estimate > tie
    }
