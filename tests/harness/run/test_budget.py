"""Budgets: what is measured within one, what is said of it, and what is refused."""

import itertools

import msgspec
import pytest
from feedrate.harness.choose.profile_entries import as_profile
from feedrate.harness.choose.recommendation import recommend_all
from feedrate.harness.plan.spec import Spec, make_trial, planned_by_job
from feedrate.harness.record.journal import encode_line
from feedrate.harness.record.results import Header, Results, Sample
from feedrate.harness.record.sampling import described
from feedrate.harness.record.speedup import speedup_tables, troubles
from feedrate.harness.run.budget import BudgetError
from feedrate.harness.run.coverage import Coverage, budget_notes
from feedrate.harness.run.row_verifier import RowVerifier
from feedrate.harness.run.scheduler import NullSink, Scheduler
from feedrate.harness.run.search import Search
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.base.settings import LoaderSettings

STARTS = {"pytorch": 0.25, "tensorflow": 3.0}
OVERRUN = 1.2


def planned(files, jobs=("frame",), backends=("pytorch", "tensorflow")):
    """The original and six settings of each backend, on a quarter of the files and on all."""
    settings = [LoaderSettings(backend="original", num_workers=0, prefetch=0, cache="none")]
    settings += [
        LoaderSettings(backend=backend, num_workers=workers, prefetch=0, cache=cache)
        for backend in backends
        for workers in (0, 1, 2)
        for cache in ("none", "memory")
    ]
    return [
        make_trial(job, one, count)
        for job in jobs
        for count in sorted({files, max(1, files // 4)}, reverse=True)
        for one in settings
    ]


@pytest.fixture
def machine(make_fake):
    """A fake that charges for files, starts, the original's rows, verification and explaining."""

    def make(file_s, **fields):
        def seconds(trial):
            each = file_s * trial.files
            if trial.backend != "original":
                each /= 2 + trial.settings.num_workers
            return each, each / 5 if trial.settings.cache == "memory" else each

        usual = {
            "process_s": 0.5, "starts": STARTS, "check_s": 1.5 * file_s, "verify": True,
            "explain_s": 3.0, "noise": 0.1,
        }  # fmt: skip
        return make_fake(seconds, **{**usual, **fields})

    return make


class Told:
    """Progress that remembers what it is given to say."""

    def __init__(self):
        self.lines = []

    def tell(self, text):
        self.lines.append(text)

    def phase(self, *_):
        pass

    running = finished = phase

    def close(self):
        pass


def search(fake, trials, budget, **fields):
    """Search within a budget; the search, its scheduler, and what was told."""
    told = Told()
    scheduler = Scheduler(
        Spec(budget=budget, **fields), trials, fake, NullSink(), progress=told, clock=fake.clock
    )
    found = Search(scheduler)
    found.run()
    return found, scheduler, told.lines


GRID = [
    *itertools.product((12, 30, 600), (1, 2), (3, 400), (0.0005, 0.1)),
    *itertools.product((60, 150), (1,), (40, 20_000), (0.0005, 0.01, 0.1)),
    *itertools.product((15, 25, 100), (3,), (400,), (0.003, 0.03)),
]


@pytest.mark.parametrize(("budget", "jobs", "files", "file_s"), GRID)
def test_at_most_a_fifth_more_than_the_budget_is_spent_or_it_is_refused(
    machine, budget, jobs, files, file_s
):
    fake = machine(file_s)
    trials = planned(files, ("frame", "batches", "stream")[:jobs])
    try:
        _, scheduler, _ = search(fake, trials, float(budget))
    except BudgetError as error:
        assert fake.clock.now <= OVERRUN * budget
        enough = float(str(error).split("--budget ")[1].split("s or")[0])
        assert enough > budget
        again = machine(file_s)
        _, scheduler, _ = search(again, trials, enough)
        assert again.clock.now <= OVERRUN * enough
    else:
        assert fake.clock.now <= OVERRUN * budget
    for job in {one.job for one in trials}:
        mine = [one for one in scheduler.samples if one.job == job]
        launched = {
            (one.trial, one.round) for one in mine if one.phase == "confirming" and not one.pass_
        }
        names = {one.backend for one in mine if one.phase == "confirming"}
        assert names > {"original"}
        assert len(launched) >= 2  # the original and another, at least once each


@pytest.mark.parametrize("slower", [2.0, 5.0])
def test_a_machine_that_becomes_slower_than_it_was_probed_keeps_the_budget(machine, slower):
    fake = machine(0.01)
    real = fake.seconds

    def seconds(trial):
        factor = slower if len(fake.runs) > 1 else 1.0
        return tuple(factor * each for each in real(trial))

    fake.seconds = seconds
    search(fake, planned(400), 60.0)
    assert fake.clock.now <= OVERRUN * 60


def test_a_setting_that_takes_far_longer_than_others_is_ended_and_not_called_a_hang(machine):
    fake = machine(0.002)
    real = fake.seconds

    def seconds(trial):
        slow = trial.backend == "pytorch" and trial.settings.num_workers == 2
        return (500.0, 500.0) if slow else real(trial)

    fake.seconds = seconds
    _, scheduler, _ = search(fake, planned(40), 40.0)
    assert fake.stopped
    assert fake.clock.now <= OVERRUN * 40
    assert {one.verdict for one in scheduler.samples} == {"ok"}
    assert not scheduler.stopped & {one.trial for one in scheduler.samples}


def test_without_a_budget_nothing_is_probed_cut_or_ended(machine):
    fake, trials = machine(0.001), planned(40)
    found, scheduler, lines = search(fake, trials, None)
    assert (found.tried, lines, fake.stopped) == ({}, [], [])
    assert {one.trial for one in scheduler.samples} == {one.id for one in trials}
    assert {one.id for one, *_ in fake.runs} == {one.id for one in trials}


def test_a_budget_that_is_ample_leaves_nothing_out(machine):
    trials = planned(40)
    found, scheduler, lines = search(machine(0.001), trials, 900.0)
    (tried,) = found.tried.values()
    assert tried.is_whole
    assert {one.trial for one in scheduler.samples} == {one.id for one in trials}
    assert len(lines) == 1  # the minimum budget


def test_a_short_budget_says_on_how_many_files_and_settings_it_measured(machine):
    found, scheduler, lines = search(machine(0.02), planned(400), 45.0)
    (tried,) = found.tried.values()
    files = {one.files for one in scheduler.samples}
    assert files == {tried.plan.files}
    assert tried.plan.files < 400
    assert f"frame measured on {tried.plan.files} of 400 files, {tried.settings} of" in str(tried)
    assert any(f"frame on {tried.plan.files} of 400 files" in line for line in lines)
    assert "launches each" in str(tried)


def test_a_backend_whose_start_does_not_fit_is_left_out_and_named(machine):
    found, scheduler, lines = search(machine(0.001), planned(40), 12.0)
    (tried,) = found.tried.values()
    assert {one.backend for one in scheduler.samples} == {"original", "pytorch"}
    assert set(tried.plan.left_out) == {"tensorflow"}
    assert "tensorflow left out (about " in str(tried)
    assert any("without tensorflow" in line for line in lines)


def test_a_budget_below_the_minimum_is_refused_before_anything_is_measured(machine):
    fake = machine(0.01)
    with pytest.raises(
        BudgetError, match="the budget is 4 s, and the minimum budget is about"
    ) as told:
        search(fake, planned(400), 4.0)
    assert len(fake.runs) == 1  # the probe
    assert fake.clock.now <= 4
    assert "launched 2 times (original, about " in str(told.value)


def minimum_of(text):
    """The minimum budget in a message or an error."""
    return text.split("minimum budget is about ")[1].split(" here")[0]


@pytest.mark.parametrize("jobs", [("frame",), ("frame", "batches", "stream")])
@pytest.mark.parametrize("file_s", [0.0005, 0.02, 0.2])
def test_the_minimum_budget_does_not_depend_on_the_budget_that_is_given(machine, file_s, jobs):
    trials = planned(400, jobs)
    found = set()
    for budget in (1, 2, 3, 3.5):
        with pytest.raises(BudgetError) as told:
            search(machine(file_s, noise=0.0), trials, float(budget))
        found.add(minimum_of(str(told.value)))
    enough = float(str(told.value).split("--budget ")[1].split("s or")[0])
    for budget in (enough, 4 * enough):
        _, _, lines = search(machine(file_s, noise=0.0), trials, budget)
        found.add(minimum_of(lines[0]))
    assert len(found) == 1


def test_a_budget_too_small_for_one_file_names_none_instead_of_a_guess(machine):
    fake = machine(0.1, check_s=500.0)
    with pytest.raises(BudgetError, match="--budget none or a budget many times as large"):
        search(fake, planned(400), 1.0)
    assert fake.clock.now == pytest.approx(10)  # what probing may take of any budget


def test_one_pass_that_exceeds_half_of_the_budget_is_ended_and_refused(machine):
    fake = machine(30.0, check_s=0.1)
    with pytest.raises(BudgetError, match="one pass of the original over 8 files"):
        search(fake, planned(400), 60.0)
    assert fake.clock.now <= 60


def test_a_first_file_that_exceeds_the_budget_is_ended_and_refused(machine):
    fake = machine(0.1, check_s=500.0)
    with pytest.raises(BudgetError, match="the original took too long to load 1 file"):
        search(fake, planned(400), 60.0)
    assert fake.clock.now <= 60


def test_evidence_from_fewer_files_than_asked_for_is_weak_and_says_so(machine, dataset):
    found, scheduler, _ = search(machine(0.02, noise=0.01), planned(400), 45.0)
    (tried,) = found.tried.values()
    header = Header(
        spec={"passes": 3},
        environment=fingerprint(),
        dataset=dataset,
        planned=planned_by_job(planned(400)),
    )
    results = Results(header, scheduler.samples, truncated=False)
    (one,) = recommend_all(results).found
    assert one.strength == "weak"
    assert one.why.count("measured on") == 1
    assert f"measured on {tried.plan.files} of 400 files" in one.why
    (entry,) = as_profile(results, [one], "tune").entries
    assert (entry.files, entry.evidence.strength) == (tried.plan.files, "weak")
    assert "of 400 files" in entry.evidence.why


def test_the_only_setting_that_was_launched_is_not_strong_where_others_were_as_good(
    make_fake, dataset
):
    trials = [one for one in planned(40, backends=("pytorch",)) if one.files == 40]
    fake = make_fake(lambda one: (9.0, 9.0) if one.backend == "original" else (1.0, 1.0))
    scheduler = Scheduler(Spec(budget=None), trials, fake, NullSink(), clock=fake.clock)
    for turn, one in itertools.product(range(6), trials):
        if not turn or one in trials[:2]:
            scheduler.measure_new(one, "confirming", turn)
    header = Header(spec={}, environment=fingerprint(), dataset=dataset)
    (one,) = recommend_all(Results(header, scheduler.samples, truncated=False)).found
    assert one.strength == "weak"
    assert "; the interval is too wide to decide" in one.why


def test_what_makes_evidence_weak_comes_before_a_runner_up_that_is_far_behind(make_fake, dataset):
    trials = [one for one in planned(40, backends=("pytorch",)) if one.files == 40]
    fake = make_fake(lambda one: (10.0 ** trials.index(one), 10.0 ** trials.index(one)))
    scheduler = Scheduler(Spec(budget=None), trials, fake, NullSink(), clock=fake.clock)
    for turn, one in itertools.product(range(6), trials):
        scheduler.measure_new(one, "confirming", turn)
    header = Header(
        spec={}, environment=fingerprint(), dataset=dataset, planned=planned_by_job(planned(40))
    )
    (one,) = recommend_all(Results(header, scheduler.samples, truncated=False)).found
    assert one.strength == "weak"
    runner_up = (
        "closest rival pytorch (0 workers, no prefetch, no cache) took 10.00 times as long, n=6"
    )
    assert one.why.startswith(f"7 of 13 settings tried; {runner_up}")


def test_untried_settings_are_in_the_note(machine):
    found, *_ = search(machine(0.002, noise=0.01), planned(40), 20.0)
    (tried,) = found.tried.values()
    assert tried.settings < tried.plan.settings == 13
    (note,) = budget_notes(Spec(budget="20s"), found.tried)
    assert note.startswith("budget 20 s: frame measured on ")
    assert f"{tried.settings} of 13 settings" in note


def test_the_note_on_a_budget_names_fewer_files_without_a_choice_and_what_was_not_measured(machine):
    trials = planned(40) + [one for one in planned(10) if one.backend != "original"]
    found, scheduler, _ = search(machine(0.02, noise=0.01), trials, 30.0)
    (tried,) = found.tried.values()
    ten = {one.trial for one in scheduler.samples if one.files == 10}
    assert len(ten) < 12
    assert tried.unsettled[0] == 10
    (note,) = budget_notes(Spec(budget="30s"), found.tried)
    assert "no separate choice for 10 " in note
    assert ("memory not measured" in note) == (not tried.memory_measured)
    scheduler.samples = [one for one in scheduler.samples if one.phase != "memory"]
    bare = Coverage.of(tried.plan, scheduler.samples, explained=False)
    assert str(bare).endswith("memory not measured, stages not measured alone")


def test_untried_settings_make_evidence_weak(machine, dataset):
    found, scheduler, _ = search(machine(0.002, noise=0.01), planned(40), 20.0)
    (tried,) = found.tried.values()
    header = Header(
        spec={}, environment=fingerprint(), dataset=dataset, planned=planned_by_job(planned(40))
    )
    (one,) = recommend_all(Results(header, scheduler.samples, truncated=False)).found
    assert one.strength == "weak"
    assert f"{tried.settings} of 13 settings tried" in one.why.split("; ")


def test_a_search_that_is_resumed_keeps_its_number_of_files_and_is_not_refused(machine):
    trials = planned(400)
    _, first, _ = search(machine(0.02), trials, 45.0)
    (files,) = {one.files for one in first.samples}
    fake = machine(0.02)
    scheduler = Scheduler(
        Spec(budget=25.0), trials, fake, NullSink(), known=first.samples[:9], clock=fake.clock
    )
    Search(scheduler).run()
    assert {one.files for one in scheduler.samples} == {files}
    assert fake.clock.now <= OVERRUN * 25


def test_a_search_that_is_resumed_with_a_narrower_grid_counts_only_its_settings(machine):
    wide = planned(40, backends=("pytorch",))
    _, first, _ = search(machine(0.02), wide, 60.0)
    narrow = [one for one in wide if one.settings.num_workers in (0, 1)]
    fake = machine(0.02)
    scheduler = Scheduler(
        Spec(budget=30.0), narrow, fake, NullSink(), known=first.samples, clock=fake.clock
    )
    found = Search(scheduler)
    found.run()
    (tried,) = found.tried.values()
    assert {one.trial for one in first.samples} - {one.id for one in narrow}
    assert tried.settings <= tried.plan.settings == 5
    others = {one.trial for one in first.samples if one.files == tried.plan.files}
    others -= {one.id for one in narrow}
    assert f" of 5 settings (and {len(others)} of an earlier grid), " in str(tried)


def test_the_jobs_of_a_short_budget_each_get_what_they_need_at_least(machine):
    fake = machine(0.001, starts={"pytorch": 2.0, "tensorflow": 30.0})
    found, scheduler, _ = search(fake, planned(40, ("frame", "batches")), 50.0)
    assert fake.clock.now <= OVERRUN * 50
    for job, tried in found.tried.items():
        assert tried.launches, job
        assert {one.backend for one in scheduler.samples if one.job == job} >= {"pytorch"}


def sampled(fake, files, verb="screen", **fields):
    """The scheduler after a sweep of one setting of each backend."""
    trials = [one for one in planned(files) if one.files == files][::3]
    scheduler = Scheduler(
        Spec(**{"budget": None, **fields}), trials, fake, NullSink(), clock=fake.clock
    )
    getattr(scheduler, verb)()
    return scheduler


def test_rows_of_very_many_files_are_compared_on_an_even_sample_that_fits_the_limit(machine):
    fake = machine(0.0001, check_s=0.003)
    scheduler = sampled(fake, 200_000, timeout=30.0)
    every = scheduler.samples[0].verified_every
    assert every > 1
    assert 0.003 * 200_000 / every == pytest.approx(60, rel=0.1)  # twice the timeout
    assert {one.verified_every for one in scheduler.samples} == {every}
    assert {one.verdict for one in scheduler.samples} == {"ok"}
    assert f"every {every}th" in scheduler.samples[0].reasons["verified"]
    assert {every for every, verify in fake.every if verify} == {every}
    assert ("frame", 200_000, every) in fake.references
    assert ("frame", 200_000, 1) not in fake.references


def test_rows_are_compared_in_full_where_that_fits_the_limit(machine):
    fake = machine(0.0001, check_s=0.003)
    scheduler = sampled(fake, 200_000, timeout=600.0)
    assert {one.verified_every for one in scheduler.samples} == {1}
    assert "verified" not in scheduler.samples[0].reasons
    assert ("frame", 200_000, 1) in fake.references


def test_a_fault_in_the_sample_is_wrong_rows_and_says_where_was_looked(machine):
    trials = [one for one in planned(20_000) if one.files == 20_000]
    fake = machine(0.0001, check_s=0.01, wrong={trials[3].id})
    scheduler = sampled(fake, 20_000, timeout=1.0)
    wrong = [one for one in scheduler.samples if one.verdict == "wrong-rows"]
    assert {one.trial for one in wrong} == {trials[3].id}
    assert "of 20,000 files, every " in wrong[0].reasons["verdict"]


def test_few_files_are_compared_in_full_however_slow(machine):
    scheduler = sampled(machine(0.0001, check_s=50.0), 16, timeout=1.0)
    assert {one.verified_every for one in scheduler.samples} == {1}


def test_a_gate_compares_all_rows(machine):
    fake = machine(0.0001, check_s=1.0)
    one = planned(400)[0]
    scheduler = Scheduler(
        Spec(budget=None, timeout=1.0), [one], fake, NullSink(), clock=fake.clock, sample_rows=False
    )
    scheduler.screen()
    assert fake.references == [("frame", 400, 1)]


def test_a_reference_that_meets_its_limit_names_it_and_the_remedy(machine):
    fake = machine(0.001, failures={"reference": "hang"})
    with pytest.raises(InputError, match=r"three times --timeout \(60 s\).*raise --timeout, or"):
        sampled(fake, 400)


def test_a_share_of_the_budget_limits_the_original_s_rows(machine):
    fake = machine(0.001)
    verifier = RowVerifier(fake, Spec(timeout=60.0), fake.clock)
    verifier.limit_to_budget(100.0)
    assert verifier.seconds == 20
    verifier.limit_to_budget(10_000.0)
    assert verifier.seconds == 120


def test_rows_that_are_lost_outside_of_the_sample_are_missed_by_their_number(machine):
    trials = [one for one in planned(20_000) if one.files == 20_000][::3]
    fake = machine(0.0001, check_s=0.01)
    fake.rows = lambda one: 999 if one.id == trials[2].id else 1000
    scheduler = Scheduler(
        Spec(budget=None, timeout=1.0), trials, fake, NullSink(), clock=fake.clock,
        rows={20_000: 1000}.get,
    )  # fmt: skip
    for one in trials:
        scheduler.measure_new(one, "confirming", 0)
    wrong = [one for one in scheduler.samples if one.verdict == "wrong-rows"]
    assert {one.trial for one in wrong} == {trials[2].id}
    assert (
        wrong[0].reasons["verdict"]
        == "all files gave 999 rows instead of the 1,000 of their footers"
    )


def test_a_sampled_proof_is_marked_in_the_table_and_told_below_it_and_in_the_evidence(
    machine, dataset
):
    fake = machine(0.0001, check_s=0.01)
    scheduler = sampled(fake, 20_000, timeout=1.0)
    header = Header(spec={}, environment=fingerprint(), dataset=dataset)
    results = Results(header, scheduler.samples, truncated=False)
    (table,) = speedup_tables(results)
    assert all(row.marks.endswith("~") for row in table.rows)
    every = scheduler.samples[0].verified_every
    where = described(20_000, every)
    assert [line for line in troubles(results) if f"rows verified on {where}; a fault in" in line]
    (one,) = recommend_all(results).found
    assert f"rows verified on {where}" in one.why
    line = msgspec.json.decode(encode_line(scheduler.samples[0]))
    assert line["verified_every"] == every


def test_a_sample_line_without_a_sample_s_step_was_verified_on_all_files(machine):
    scheduler = sampled(machine(0.001), 20)
    line = msgspec.json.decode(encode_line(scheduler.samples[0]))
    del line["verified_every"]
    assert msgspec.convert(line, Sample).verified_every == 1
