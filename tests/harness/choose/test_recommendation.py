import re

import msgspec
import pytest
from feedrate.harness.choose.profile_entries import as_profile
from feedrate.harness.choose.race import MAX_LAUNCHES
from feedrate.harness.choose.recommendation import recommend_all
from feedrate.harness.plan.spec import Spec, make_trial
from feedrate.harness.record.results import Header, Results
from feedrate.harness.record.statistics import MIN_LAUNCHES
from feedrate.harness.run.scheduler import Scheduler
from feedrate.harness.run.search import Search
from feedrate.harness.show.terminal import as_text, sweep_view
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.base.settings import LoaderSettings


class Memory:
    """A journal that keeps nothing."""

    def append(self, sample):
        pass


@pytest.fixture
def measured(make_fake, dataset):
    def measure(times, *, verb="tune", job="frame", memory=None, **fields):
        planned = [
            make_trial(
                job,
                LoaderSettings(
                    backend=backend, num_workers=workers, prefetch=0, cache="none", seed=0
                ),
                10,
            )
            for backend, workers in times
        ]
        fake = make_fake(
            lambda trial: times[trial.backend, trial.settings.num_workers], memory=memory
        )
        scheduler = Scheduler(
            Spec(**{"budget": None, **fields}), planned, fake, Memory(), clock=fake.clock
        )
        Search(scheduler).run() if verb == "tune" else scheduler.screen()
        header = Header(spec={}, environment=fingerprint(), dataset=dataset)
        return Results(header, scheduler.samples, truncated=False)

    return measure


def test_the_fastest_is_chosen_with_its_speedup(measured):
    times = {("original", 0): (9.0, 9.0), ("pytorch", 1): (3.0, 3.0), ("pytorch", 2): (1.5, 1.5)}
    (found,) = recommend_all(measured(times, repeats=10)).found
    assert (found.chosen.backend, found.chosen.settings.num_workers) == ("pytorch", 2)
    assert found.speedup.estimate == pytest.approx(6)
    assert found.strength == "strong"


def test_of_settings_within_three_percent_the_fewest_workers_are_chosen(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1.02, 1.02), ("pytorch", 8): (1.0, 1.0)}
    (found,) = recommend_all(measured(times)).found
    assert found.chosen.settings.num_workers == 1


def test_more_than_three_percent_slower_is_not_tied(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1.04, 1.04), ("pytorch", 8): (1.0, 1.0)}
    (found,) = recommend_all(measured(times)).found
    assert found.chosen.settings.num_workers == 8


def test_the_total_over_the_passes_decides_so_that_a_cache_can_pay(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1.0, 1.0), ("pytorch", 2): (1.4, 0.1)}
    assert recommend_all(measured(times, passes=3)).found[0].chosen.settings.num_workers == 2
    assert recommend_all(measured(times, passes=1)).found[0].chosen.settings.num_workers == 1


@pytest.mark.parametrize(("other", "strength"), [(2.0, "strong"), (1.01, "tie"), (1.04, "tie")])
def test_three_launches_settle_what_is_far_and_say_what_would_settle_what_is_near(
    measured, other, strength
):
    times = {("original", 0): (3, 3), ("pytorch", 1): (1, 1), ("pytorch", 2): (other, other)}
    (found,) = recommend_all(measured(times, budget=45.0)).found
    assert max(len(one.totals) for one in found.candidates) < MIN_LAUNCHES
    assert found.strength == strength
    assert ("--budget" in found.why) == (strength == "weak")


def test_a_tie_names_the_others_and_what_the_choice_may_lose(measured):
    times = {("original", 0): (9, 9)} | {("pytorch", count): (1.0, 1.0) for count in range(7)}
    results = measured(times, repeats=4, verb="sweep")
    (found,) = recommend_all(results).found
    assert (found.strength, found.chosen.settings.num_workers) == ("tie", 0)
    assert found.why.partition("; ")[0].count("pytorch (") == 3
    assert re.search(
        r"the choice costs at most \d+\.\d% more than the best, which may be .* or one of 3 others",
        found.why,
    )
    few = [one for one in results.samples if one.settings.num_workers != 3 or one.round < 1]
    (found,) = recommend_all(Results(results.header, few, truncated=False)).found
    assert found.strength == "weak"  # one launch rules nothing out


def test_the_least_memory_is_chosen_as_it_was_measured_whatever_the_spread_of_times(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (2, 2), ("pytorch", 2): (1, 1)}
    needs = {0: 400e6, 1: 207e6, 2: 197e6}
    results = measured(times, memory=lambda trial: needs[trial.settings.num_workers], budget=300.0)
    (found,) = recommend_all(results, objective="memory").found
    assert found.chosen.peak_pss_bytes == 197e6


def test_what_dropped_out_of_a_race_for_something_else_may_be_chosen(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1.0, 0.5), ("pytorch", 2): (6.0, 0.1),
             ("pytorch", 3): (1.0, 0.51)}  # fmt: skip
    results = measured(times, passes=3)
    rounds = {one.settings.num_workers: one.round for one in results.samples
              if one.phase == "confirming"}  # fmt: skip
    assert rounds[1] > rounds[2] + 2  # of the race for throughput
    assert recommend_all(results).found[0].chosen.settings.num_workers == 1
    (found,) = recommend_all(results, objective="epoch-time").found
    assert found.chosen.settings.num_workers == 2


def test_fewer_files_with_fewer_settings_want_what_the_most_files_want(measured):
    def samples(one, two, files):
        times = {("original", 0): (9, 9), ("pytorch", 1): (one, one), ("pytorch", 2): (two, two)}
        return [
            msgspec.structs.replace(sample, files=files, trial=f"{sample.trial} {files}")
            for sample in measured(times, verb="sweep").samples
        ]

    header = measured({("original", 0): (9, 9)}, verb="sweep").header
    most, fewer = samples(3.0, 1.0, 10), samples(1.0, 3.0, 4)
    (found,) = recommend_all(Results(header, [*most, *fewer], truncated=False)).found
    assert [(one.files, one.settings.num_workers) for one in found.fewer] == [(4, 1)]
    some = [one for one in fewer if one.settings.num_workers == 1]
    (found,) = recommend_all(Results(header, [*most, *some], truncated=False)).found
    assert found.fewer == ()


def test_the_original_can_win(measured):
    times = {("original", 0): (1, 1), ("pytorch", 1): (3, 3)}
    (found,) = recommend_all(measured(times)).found
    assert found.chosen.backend == "original"
    assert found.speedup.estimate == 1


def test_a_sweep_of_few_rounds_is_evidence_as_strong_as_its_launches(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1, 1), ("pytorch", 2): (1.02, 1.02)}
    (found,) = recommend_all(measured(times, verb="sweep")).found
    assert found.strength == "tie"
    assert len(found.chosen.totals) == 3
    del times["pytorch", 2]
    (found,) = recommend_all(measured(times, verb="sweep")).found
    assert found.strength == "strong"


def test_a_memory_limit_is_never_broken(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (2, 2), ("pytorch", 2): (1, 1)}
    results = measured(
        times, memory=lambda trial: {0: 50e6, 1: 80e6, 2: 300e6}[trial.settings.num_workers]
    )
    assert recommend_all(results, 100_000_000).found[0].chosen.settings.num_workers == 1
    assert recommend_all(results, 60_000_000).found[0].chosen.backend == "original"
    with pytest.raises(InputError, match="max_memory"):
        recommend_all(results, 10_000_000)


def test_nothing_is_recommended_from_nothing(dataset):
    header = Header(spec={}, environment=fingerprint(), dataset=dataset)
    with pytest.raises(InputError, match="no sample"):
        recommend_all(Results(header, [], truncated=False))


def test_the_profile_carries_the_settings_and_the_evidence_but_no_seed(measured):
    times = {("original", 0): (9.0, 9.0), ("pytorch", 2): (1.5, 1.5)}
    results = measured(times)
    found = recommend_all(results).found
    profile = as_profile(results, found, "feedrate tune x")
    entry = profile.entry_for("frame", "logs")
    assert entry.settings.num_workers == 2
    assert entry.settings.seed is None
    assert entry.evidence.speedup == pytest.approx(6)
    assert entry.evidence.total_s == pytest.approx(4.5)
    assert profile.machine == results.header.environment
    assert profile.datasets[0].schema == "s"


def test_a_job_without_a_correct_trial_does_not_take_the_others_advice_away(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1, 1)}
    good, bad = measured(times), measured(times, job="stream")
    wrong = [msgspec.structs.replace(sample, verdict="error") for sample in bad.samples]
    advice = recommend_all(Results(good.header, [*good.samples, *wrong], truncated=False))
    assert [found.job for found in advice.found] == ["frame"]
    assert "stream" in advice.problems[0]


def test_a_round_that_was_cut_is_not_ranked_by_the_passes_that_are_left(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1.0, 1.0), ("pytorch", 2): (2.0, 2.0)}
    results = measured(times, verb="sweep")
    slow = [s for s in results.samples if s.settings.num_workers == 2]
    others = [s for s in results.samples if s.settings.num_workers != 2]
    cut = [s for s in slow if s.round or not s.pass_]
    (found,) = recommend_all(Results(results.header, others + cut, truncated=False)).found
    assert found.chosen.settings.num_workers == 1
    assert found.candidates[1].totals.keys() == {1, 2}


def band(found):
    return [(entry.files, entry.max_files, entry.settings.num_workers) for entry in found.entries]


def test_fewer_files_that_want_other_settings_get_a_band_of_their_own(make_fake, dataset):
    def seconds(trial):
        workers = trial.settings.num_workers
        if trial.backend == "original":
            return 9.0, 9.0
        each = {4: 1 + workers, 25: 1 + workers, 100: 8 - workers}[trial.files]
        return float(each), float(each)

    planned = [
        make_trial(
            "frame", LoaderSettings(backend=backend, num_workers=n, prefetch=0, cache="none"), files
        )
        for files in (4, 25, 100)
        for backend, n in (("original", 0), ("pytorch", 0), ("pytorch", 4))
    ]
    fake = make_fake(seconds)
    scheduler = Scheduler(Spec(budget=None), planned, fake, Memory(), clock=fake.clock)
    Search(scheduler).run()
    header = Header(spec={}, environment=fingerprint(), dataset=dataset)
    results = Results(header, scheduler.samples, truncated=False)
    profile = as_profile(results, recommend_all(results).found, "feedrate tune x")
    # At 25 files as at 4: one band, up to the geometric mean of 25 and 100.
    assert band(profile) == [(100, None, 4), (25, 50, 0)]
    assert profile.entry_for("frame", "logs", 10).settings.num_workers == 0
    assert profile.entry_for("frame", "logs", 50).settings.num_workers == 0
    assert profile.entry_for("frame", "logs", 51).settings.num_workers == 4
    assert profile.entry_for("frame", "logs").settings.num_workers == 4


def test_the_evidence_has_the_rates_of_launches_and_the_front(measured):
    times = {("original", 0): (9.0, 9.0), ("pytorch", 1): (2, 2), ("pytorch", 2): (1.5, 0.5)}
    results = measured(times, memory=lambda trial: 1e8 * (1 + trial.settings.num_workers))
    profile = as_profile(results, recommend_all(results).found, "feedrate tune x")
    evidence = profile.entry_for("frame", "logs").evidence
    assert evidence.first.rows_per_s == pytest.approx(1000 / 1.5)
    assert evidence.later.rows_per_s == pytest.approx(1000 / 0.5)
    assert evidence.total.rows_per_s == pytest.approx(3000 / 2.5)
    assert evidence.first.low <= evidence.first.rows_per_s <= evidence.first.high
    assert len(evidence.totals_s) == evidence.launches
    front = [(point.settings.num_workers, point.peak_pss_bytes) for point in evidence.front]
    assert front == [(2, 3e8), (1, 2e8), (0, 1e8)]


def test_no_difference_is_said(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1.0, 1.0), ("pytorch", 2): (1.0, 1.0)}
    (found,) = recommend_all(measured(times)).found
    assert found.chosen.settings.num_workers == 1
    assert "1 and 2 workers are tied; " in found.why
    assert found.strength == "strong"


def test_what_no_budget_would_settle_is_said_without_advising_launches(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1.0, 1.0), ("pytorch", 2): (1.05, 1.05)}
    results = measured(times, budget=None)
    many = [
        msgspec.structs.replace(one, metrics={"wall_s": one.metrics["wall_s"] * (1 + turn % 2)},
                                round=turn, launch=turn + 1)
        for one in results.samples if one.phase == "confirming" and one.round == 0
        for turn in range(MAX_LAUNCHES)
    ]  # fmt: skip
    shuffled = [
        msgspec.structs.replace(one, round=(one.round + 1) % MAX_LAUNCHES)
        if one.settings.num_workers == 1
        else one
        for one in many
    ]
    (found,) = recommend_all(Results(results.header, shuffled, truncated=False)).found
    assert found.strength == "weak"
    assert "80 launches of each, the most that tune makes, did not settle it" in found.why


def test_weak_evidence_suggests_a_budget(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1.0, 1.0), ("pytorch", 2): (1.02, 1.02)}
    (found,) = recommend_all(measured(times, budget=75.0)).found
    assert found.strength == "weak"
    minutes = int(found.why.split("; suggested: --budget ")[1].removesuffix("m"))
    assert minutes > 75 / 60


def test_what_a_sweep_was_asked_for_is_known_when_it_is_read_again(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1.2, 1.2), ("pytorch", 2): (1.0, 1.0)}
    results = measured(times, memory=lambda trial: 1e8 * (1 + trial.settings.num_workers))

    def chosen(**spec):
        header = msgspec.structs.replace(results.header, spec=spec)
        (found,) = recommend_all(Results(header, results.samples, truncated=False)).found
        return found.chosen.settings.num_workers

    assert chosen() == 2
    assert chosen(tie=1.3) == 1
    assert chosen(max_memory="250MB") == 1
    assert chosen(objective="memory") == 0


def test_waits_are_shown_where_they_are_chosen_by(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1.0, 1.0), ("pytorch", 2): (2.0, 2.0)}
    results = measured(times, job="batches")
    waits = {"original": 0.5, "pytorch": 0.25}
    samples = [
        msgspec.structs.replace(
            one,
            metrics=one.metrics
            | {"batch_p95_s": waits[one.backend] / (1 + one.settings.num_workers)},
        )
        for one in results.samples
    ]
    header = msgspec.structs.replace(results.header, spec={"objective": "latency"})
    results = Results(header, samples, truncated=False)
    found = recommend_all(results).found
    text = as_text(sweep_view(results, found))
    # Two workers take twice as long, and yet have the shorter waits.
    assert found[0].chosen.settings.num_workers == 2
    assert "p95 wait: 83.3 ms" in " ".join(text.split())
    header_line = next(line for line in text.splitlines() if "Loader" in line)
    assert "p95 wait" in header_line
    assert "Rows/s" not in header_line
    assert "p95 wait" not in as_text(
        sweep_view(results, recommend_all(results, objective="throughput").found)
    )


def test_a_tie_and_an_objective_given_now_win_over_those_of_the_sweep(measured):
    times = {("original", 0): (9, 9), ("pytorch", 1): (1.2, 1.2), ("pytorch", 2): (1.0, 1.0)}
    results = measured(times)

    def chosen(**wanted):
        return recommend_all(results, **wanted).found[0].chosen.settings.num_workers

    assert (chosen(), chosen(tie=1.3), chosen(tie=1.0)) == (2, 1, 2)
    odd = msgspec.structs.replace(results.header, spec={"objective": "speed"})
    results = Results(odd, results.samples, truncated=False)
    with pytest.raises(InputError, match="the results' header: unknown objective 'speed'"):
        chosen()
    assert chosen(objective="throughput") == 2
    with pytest.raises(InputError, match=r"^unknown objective 'quick'"):
        chosen(objective="quick")
