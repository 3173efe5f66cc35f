"""Who leads a race, who drops out of it, who is tied, and what is still open."""

import itertools
import math

import msgspec
from feedrate.harness.choose.race import Race, contest
from feedrate.harness.record.objectives import OBJECTIVES
from feedrate.harness.record.summary import summarise

from ...samples import sample


def runs(workers, times, *, backend="pytorch", peak=None, rounds=None, passes=1, metrics=None):
    """The samples of one setting: its time in each round, and its peak if it has one."""
    phases = {"confirming": metrics or {}}
    if peak is not None:
        phases["memory"] = {"peak_pss_bytes": peak}
    return [
        sample(
            time, backend=backend, num_workers=workers, turn=turn, pass_=pass_, phase=phase,
            launch=next(LAUNCHES), metrics=values,
        )
        for phase, values in phases.items()
        for turn, time in zip(rounds or range(len(times)), times, strict=True)
        for pass_ in range(passes)
    ]  # fmt: skip


LAUNCHES = itertools.count(1)


def noisy(seconds, count, swing=0.05):
    """Times about a median, above and below it by turns."""
    return [seconds * math.exp(swing * (-1) ** turn) for turn in range(count)]


def race(*samples, **options):
    return Race(summarise(itertools.chain(*samples)), **options)


def workers(summaries):
    return [summary.settings.num_workers for summary in summaries]


def test_the_leader_is_found_by_pairs_though_a_slow_round_hit_only_some_of_them():
    # Round 2 was slow for all, and the second was not in it.
    one = runs(1, [1.0, 1.0, 5.0, 1.0])
    two = runs(2, [1.2, 1.2, 1.2], rounds=[0, 1, 3])
    assert workers(race(one, two).ranking) == [1, 2]


def test_a_tie_is_an_estimate_and_the_fewest_workers_win_it():
    found = race(runs(1, [1.02] * 8), runs(4, [1.0] * 8))
    assert workers(found.tied()) == [4, 1]
    assert found.choice.settings.num_workers == 1
    apart = race(runs(1, [1.2] * 8), runs(4, [1.0] * 8))
    assert apart.choice.settings.num_workers == 4


def test_the_tie_is_what_was_asked_for():
    samples = [runs(1, [1.2] * 8), runs(4, [1.0] * 8)]
    assert race(*samples, tie=1.25).choice.settings.num_workers == 1


def test_of_tied_settings_with_as_many_workers_the_least_memory_wins():
    lean, rich = runs(2, [1.0] * 6, peak=1e6), runs(2, [1.0] * 6, peak=9e6, backend="tensorflow")
    assert race(rich, lean).choice.backend == "pytorch"


def test_differences_that_chance_explains_are_none():
    """Four equal settings whose estimates differ by about a standard error are all tied."""
    estimates = [0.97, 0.99, 1.01, 1.035]
    found = race(*(runs(n, noisy(estimates[3 - n], 6)) for n in range(4)))
    assert found.choice.settings.num_workers == 0
    # With so many rounds that chance does not explain it, the same difference counts.
    sure = race(*(runs(n, noisy(estimates[3 - n], 200, 0.02)) for n in range(4)))
    assert sure.choice.settings.num_workers == 2  # within the tie of the best, which has three


def test_what_is_far_behind_is_clearly_slower_after_a_round_and_what_is_near_is_not():
    found = race(runs(1, [1.0]), runs(2, [1.3]), runs(4, [2.0]))
    trials = {summary.settings.num_workers: summary.trial for summary in found.ranking}
    assert not found.is_clearly_slower(trials[1])
    assert not found.is_clearly_slower(trials[2])
    assert found.is_clearly_slower(trials[4])


def test_noise_widens_what_counts_as_chance():
    quiet = race(runs(1, [1.0] * 8), runs(2, [1.2] * 8))
    loud = race(runs(1, noisy(1.0, 8, 0.3)), runs(2, noisy(1.2, 8, -0.3)))
    assert quiet.is_clearly_slower(quiet.ranking[1].trial)
    assert not loud.is_clearly_slower(loud.ranking[1].trial)
    assert loud.pair_sd > 3 * quiet.pair_sd


def test_a_bound_is_wider_where_two_backends_have_servers_of_their_own():
    def bound(backend, objective="throughput"):
        found = race(
            runs(1, noisy(1.0, 8), peak=1e8),
            runs(2, noisy(1.2, 8, -0.05), backend=backend, peak=2e8),
            objective=OBJECTIVES[objective],
        )
        return found.log_ratio_bound(found.runner_up.trial)

    assert bound("tensorflow") > bound("pytorch")
    assert bound("tensorflow", "memory") == bound("pytorch", "memory")


def test_few_rounds_leave_rivals_open_and_many_settle_them():
    few = race(runs(1, noisy(1.0, 4)), runs(2, noisy(1.01, 4)))
    assert workers(few.open_rivals()) == [2]
    assert 4 < few.rounds_to_settle(few.open_rivals()[0].trial) < 100
    many = race(runs(1, noisy(1.0, 60)), runs(2, noisy(1.01, 60)))
    assert many.open_rivals() == []


def test_a_simpler_rival_is_open_until_it_is_shown_to_lag_behind():
    close = race(runs(0, noisy(1.06, 8)), runs(2, noisy(1.0, 8)))
    assert workers(close.open_rivals()) == [0]
    shown = race(runs(0, noisy(1.06, 60)), runs(2, noisy(1.0, 60)))
    assert shown.choice.settings.num_workers == 2
    assert shown.open_rivals() == []


def test_what_was_in_few_rounds_is_not_chosen_where_others_were_in_many():
    found = race(runs(1, [0.9], rounds=[3]), runs(2, [1.0] * 8))
    assert found.choice.settings.num_workers == 2
    assert workers(found.tied()) == [2]


def test_without_a_round_in_common_nothing_is_compared():
    found = race(runs(1, [1.0] * 4), runs(2, [0.5], rounds=[100]))
    assert workers(found.ranking) == [1]
    assert found.ratio(found.leader.trial, found.leader.trial).estimate == 1


def test_the_memory_limit_leaves_out_what_needs_more_and_what_is_unknown():
    samples = [runs(1, [2.0] * 3, peak=50e6), runs(2, [1.0] * 3, peak=200e6), runs(4, [0.5] * 3)]
    every = summarise(itertools.chain(*samples))
    assert contest(every).choice.settings.num_workers == 4
    assert contest(every, max_memory=10**9).choice.settings.num_workers == 2
    assert contest(every, max_memory=10**8).choice.settings.num_workers == 1
    assert len(contest(every, max_memory=10**6)) == 0


class TestObjectives:
    def chosen(self, objective, *samples):
        found = contest(summarise(itertools.chain(*samples)), OBJECTIVES[objective])
        return found.choice.settings.num_workers

    def cached(self, workers, first, later, **options):
        samples = runs(workers, [first] * 6, passes=3, **options)
        return [
            sample if sample.pass_ == 0 else changed(sample, wall_s=later) for sample in samples
        ]

    def test_each_looks_at_its_own_cost(self):
        steady = self.cached(1, 1.0, 1.0, peak=1e6)
        slow_start = self.cached(2, 1.5, 0.5, peak=9e6)
        original = self.cached(0, 3.0, 3.0, backend="original", peak=2e6)
        every = (steady, slow_start, original)
        assert self.chosen("throughput", *every) == 2
        assert self.chosen("epoch-time", *every) == 2
        assert self.chosen("latency", *every) == 1
        assert self.chosen("memory", *every) == 1

    def test_the_least_memory_is_not_chosen_where_it_is_slower_than_the_original(self):
        lean = self.cached(1, 4.0, 4.0, peak=1e6)
        original = self.cached(0, 3.0, 3.0, backend="original", peak=5e6)
        quick = self.cached(2, 1.0, 1.0, peak=3e6)
        assert self.chosen("memory", lean, original, quick) == 2

    def test_the_latency_of_batches_is_the_wait_for_one(self):
        def stream(workers, p95):
            return [
                changed(sample, batch_p95_s=p95, job="stream")
                for sample in runs(workers, [1.0] * 6, passes=2)
            ]

        assert self.chosen("latency", stream(1, 0.02), stream(2, 0.01)) == 2


def changed(sample, job=None, **metrics):
    return msgspec.structs.replace(
        sample, job=job or sample.job, metrics={**sample.metrics, **metrics}
    )
