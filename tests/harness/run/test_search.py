"""The search: what is measured, in what order, within what budget, and what comes out."""

import pytest
from feedrate.harness.choose.race import MAX_LAUNCHES, NEAR, contest
from feedrate.harness.choose.recommendation import recommend_all
from feedrate.harness.plan.spec import make_trial
from feedrate.harness.record.results import Header, Results
from feedrate.harness.record.speedup import troubles
from feedrate.harness.record.statistics import MIN_LAUNCHES
from feedrate.harness.record.summary import of_trials, summarise
from feedrate.harness.run import search as searching
from feedrate.harness.run.launches import ORIGINAL_LAUNCHES, STILL_IN
from feedrate.harness.run.search import EXPLAINED_LAUNCHES
from feedrate.harness.show.answer import tables_of
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.base.settings import LoaderSettings


def trial(workers, backend="pytorch", cache="none", files=10, prefetch=0, job="frame"):
    settings = LoaderSettings(
        backend=backend, num_workers=workers, prefetch=prefetch, cache=cache, seed=0
    )
    return make_trial(job, settings, files)


ORIGINAL = trial(0, "original")


@pytest.fixture
def search(run, tmp_path):
    """Search by a fake, into a journal of its own; the samples."""

    def measure(fake, planned, path=None, **fields):
        path = path or tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        return run(fake, planned, path=path, **fields)

    return measure


REPEATS = 3  # rounds of screening, by default


def launches(samples, files=10, since=0):
    """How often each setting was launched to be compared, by backend and workers.

    With `since=REPEATS`, without screening.
    """
    found = {}
    for sample in samples:
        if sample.phase == "confirming" and sample.files == files and sample.round >= since:
            key = sample.backend, sample.settings.num_workers
            found.setdefault(key, set()).add(sample.round)
    return {key: len(rounds) for key, rounds in found.items()}


def chosen(samples, **options):
    found = of_trials(samples, {sample.trial for sample in samples})
    most = max(one.files for one in found)
    return contest((one for one in found if one.files == most), **options).choice


def by_workers(times, original=10.0):
    def seconds(trial):
        each = original if trial.backend == "original" else times[trial.settings.num_workers]
        return each, each

    return seconds


def test_what_is_clearly_slower_drops_out_after_a_round_of_screening(make_fake, search):
    planned = [ORIGINAL, *map(trial, (0, 1, 2, 4))]
    fake = make_fake(by_workers({0: 4.0, 1: 1.05, 2: 1.0, 4: 1.1}))
    samples = search(fake, planned)
    rounds = {one.id: 0 for one in planned}
    for sample in samples:
        if sample.round < REPEATS and sample.phase == "confirming" and sample.pass_ == 0:
            rounds[sample.trial] += 1
    assert [rounds[one.id] for one in planned] == [1, 1, 3, 3, 3]


def test_launches_go_on_until_the_best_is_settled_and_no_longer(make_fake, search):
    clear = search(make_fake(by_workers({1: 3.0, 2: 1.0})), [ORIGINAL, trial(1), trial(2)])
    found = launches(clear)
    assert found["pytorch", 1] == MIN_LAUNCHES
    assert found["pytorch", 2] == MIN_LAUNCHES + 2  # two rounds of screening were without the other
    close = search(make_fake(by_workers({1: 1.045, 2: 1.0})), [ORIGINAL, trial(1), trial(2)])
    assert MIN_LAUNCHES < launches(close)["pytorch", 2] <= MAX_LAUNCHES
    assert launches(close)["original", 0] == ORIGINAL_LAUNCHES
    assert chosen(close).settings.num_workers == 2


def test_equal_settings_come_to_the_fewest_workers(make_fake, search):
    fake = make_fake(by_workers(dict.fromkeys(range(5), 1.0)), noise=0.05)
    samples = search(fake, [ORIGINAL, *map(trial, range(5))])
    assert chosen(samples).settings.num_workers == 0


def test_each_backend_that_may_be_the_best_is_launched(make_fake, search):
    def seconds(trial):
        each = {"original": 9.0, "pytorch": 1.0, "tensorflow": 1.2}[trial.backend]
        return each, each

    planned = [ORIGINAL, *map(trial, range(1, 8)), trial(1, "tensorflow")]
    assert launches(search(make_fake(seconds), planned))["tensorflow", 1] >= 3


def test_the_best_without_a_cache_is_launched_since_it_needs_the_least_memory(make_fake, search):
    def seconds(trial):
        return (2.0, 2.0) if trial.settings.cache == "none" else (2.0, 0.1)

    planned = [ORIGINAL, trial(1), trial(1, cache="memory"), trial(2, cache="memory")]
    fake = make_fake(seconds, memory=lambda one: 9e8 if one.settings.cache == "memory" else 1e8)
    samples = search(fake, planned)
    assert chosen(samples).settings.cache == "memory"
    assert chosen(samples, max_memory=2 * 10**8).settings.cache == "none"


def test_a_memory_limit_brings_in_the_next_ones_until_one_keeps_to_it(make_fake, search):
    many = [trial(workers, cache="memory") for workers in range(1, 13)]
    lean = [trial(1), trial(2)]

    def seconds(trial):
        if trial.backend == "original":
            return 9.0, 9.0
        return (2.0, 2.0) if trial.settings.cache == "none" else (1.0, 1.0)

    fake = make_fake(seconds, memory=lambda one: 9e8 if one.settings.cache == "memory" else 1e8)
    samples = search(fake, [ORIGINAL, *many, *lean], max_memory="500MB")
    assert chosen(samples, max_memory=500 * 10**6).settings == lean[0].settings
    measured = {one.trial for one in samples if one.phase == "memory"} - {one.id for one in lean}
    assert len(measured) == 1 + 7  # the original, and those that were in at first


def test_what_there_was_no_time_to_screen_may_be_what_keeps_to_the_limit(
    make_fake, search, monkeypatch
):
    for share in ("FIRST_ROUND_SHARE", "SCREENING_SHARE"):
        monkeypatch.setattr(searching, share, 0.0)
    planned = [ORIGINAL, trial(2, cache="memory", prefetch=2), *map(trial, range(3))]
    fake = make_fake(
        by_workers({0: 40.0, 1: 40.0, 2: 30.0}, original=50.0),
        memory=lambda one: 9e8 if one.settings.cache == "memory" else 1e8,
    )
    samples = search(fake, planned, budget=10_000.0, max_memory="500MB")
    screened = {one.settings.num_workers for one in samples if one.round == 0}
    assert screened == {0, 2}  # the original's, and the usual settings' first
    settings = chosen(samples, max_memory=500 * 10**6).settings
    assert (settings.cache, settings.num_workers) == ("none", 2)


def test_those_that_come_in_late_get_as_many_launches_as_the_first_would_have(make_fake, search):
    greedy = [trial(workers, cache="memory") for workers in range(8)]
    lean = [trial(workers) for workers in range(8)]

    def seconds(trial):
        each = {"original": 10.0}.get(trial.backend, 2.0)
        each = 1.0 if trial.settings.cache == "memory" else each
        return each, each

    fake = make_fake(
        seconds, memory=lambda one: 9e8 if one.settings.cache == "memory" else 1e8, noise=0.1
    )
    samples = search(fake, [ORIGINAL, *greedy, *lean], max_memory="500MB")
    of_lean = [one for one in samples if one.trial in {each.id for each in lean}]
    counts = launches(of_lean)
    since = STILL_IN[1][0]  # launches after which the first have to go for want of room
    assert len(counts) == len(lean)
    assert min(counts.values()) >= since
    mine = chosen(samples, max_memory=500 * 10**6)
    assert counts["pytorch", mine.settings.num_workers] >= MIN_LAUNCHES


def test_by_memory_the_leanest_no_slower_than_the_original_is_looked_for(
    make_fake, search, dataset
):
    planned = [ORIGINAL, *(trial(workers, cache="memory") for workers in (1, 2, 4))]
    planned += [trial(workers) for workers in (0, 1, 2, 4)]

    def seconds(trial):
        each = 3.0 if trial.backend == "original" else 4.0 - trial.settings.num_workers
        return each, each

    fake = make_fake(
        seconds,
        memory=lambda one: (
            5e8
            if one.backend == "original"
            else 1e8 * (1 + one.settings.num_workers + 9 * (one.settings.cache != "none"))
        ),
    )
    samples = search(fake, planned, objective="memory")
    header = Header(spec={"objective": "memory"}, environment=fingerprint(), dataset=dataset)
    (found,) = recommend_all(Results(header, samples, truncated=False)).found
    assert (found.chosen.settings.num_workers, found.chosen.settings.cache) == (1, "none")


def test_a_budget_is_spent_on_launches_and_kept(make_fake, search):
    fake = make_fake(by_workers(dict.fromkeys(range(8), 1.0), original=2.0), noise=0.1)
    search(fake, [ORIGINAL, *map(trial, range(8))], budget=600.0)
    assert 250 <= fake.clock.now <= 600


def test_screening_leaves_two_fifths_of_the_budget_to_the_contenders(make_fake, search):
    fake = make_fake(by_workers(dict.fromkeys(range(8), 1.0)), noise=0.1)
    samples = search(fake, [ORIGINAL, *map(trial, range(8))], budget=300.0, repeats=100)
    screened = [one for one in samples if one.phase == "confirming" and one.round < 100]
    assert 100 <= sum(one.metrics["wall_s"] for one in screened) < 195
    phases = [phase for _, phase, _ in fake.runs]
    ends = phases.index("memory")
    assert set(phases[:ends]) == {"confirming"}
    assert "confirming" not in phases[ends:]
    assert phases[ends:].count("explaining") == 1


def test_fewer_files_wait_for_a_tie_at_the_most_files_and_then_have_time(make_fake, search):
    fake = make_fake(by_workers(dict.fromkeys((1, 2, 3), 1.0), original=1.5), noise=0.1)
    planned = [
        make_trial("frame", one.settings, files)
        for files in (5, 10)
        for one in (ORIGINAL, trial(1), trial(2), trial(3))
    ]
    samples = search(fake, planned, budget=150.0)
    order = [(one.files, one.phase) for one in samples]
    last = max(place for place, one in enumerate(order) if one == (10, "confirming"))
    first = min(place for place, one in enumerate(order) if one[0] == 5)
    assert last < first
    most, fewer = launches(samples), launches(samples, files=5)
    assert ("original", 0) in fewer
    assert 2 <= len(fewer) <= len(most)
    race = contest(of_trials(samples, {one.id for one in planned if one.files == 10}))
    assert race.worst_case_loss() <= NEAR
    assert race.open_rivals(running=False)  # it would have gone on


def test_fewer_files_are_measured_where_nothing_may_be_chosen_at_the_most(make_fake, search):
    fake = make_fake(by_workers({1: 1.0}), failures={})
    planned = [
        make_trial("frame", one.settings, files)
        for files in (5, 10)
        for one in (ORIGINAL, trial(1))
    ]
    fake.failures = {one.id: "out-of-memory" for one in planned if one.files == 10}
    samples = search(fake, planned)
    assert {one.verdict for one in samples if one.files == 5} == {"ok"}


def test_a_race_in_which_nothing_may_be_chosen_is_no_tie(make_fake, search):
    greedy = [trial(workers, cache="memory") for workers in range(2)]
    planned = [make_trial("frame", one.settings, 5) for one in greedy]
    fake = make_fake(by_workers(dict.fromkeys(range(2), 1.0)), memory=lambda _: 9e8)
    samples = search(fake, [ORIGINAL, *greedy, *planned], budget=100.0, max_memory="500MB")
    assert all(one.phase != "explaining" for one in samples)


def test_only_the_choice_is_explained(make_fake, search):
    fake = make_fake(by_workers({1: 3.0, 2: 1.0}))
    samples = search(fake, [ORIGINAL, trial(1), trial(2)])
    explained = [sample for sample in samples if sample.phase == "explaining"]
    assert {sample.settings.num_workers for sample in explained} == {2}
    assert len({sample.round for sample in explained}) == fake.explained == EXPLAINED_LAUNCHES


@pytest.mark.parametrize(("done", "doing"), [(0, ""), (2, ""), (3, "after its last pass: ")])
def test_a_failed_explanation_does_not_count_against_the_trial(
    make_fake, search, dataset, done, doing
):
    planned = [ORIGINAL, trial(1), trial(2)]
    fake = make_fake(by_workers({1: 3.0, 2: 1.0}))
    fake.later_failures[trial(2).id, "explaining"] = done, "hang"
    samples = search(fake, planned, passes=3)
    failed = [sample for sample in samples if sample.verdict == "hang"]
    assert [(one.phase, one.pass_) for one in failed] == [("explaining", done)]
    assert failed[0].reasons["verdict"].startswith(doing)
    assert fake.explained == 1  # it is not tried again
    best = chosen(samples)
    assert (best.settings.num_workers, best.verdict) == (2, "ok")
    assert {one.verdict for one in summarise(samples, 3)} == {"ok"}
    header = Header(spec={"passes": 3}, environment=fingerprint(), dataset=dataset)
    (told,) = troubles(Results(header, samples, truncated=False))
    assert told.startswith("not explained: frame with pytorch (")
    assert told.endswith(f"hang: {doing}made to hang later")


@pytest.mark.parametrize("done", [0, 1, 3])
@pytest.mark.parametrize("verdict", ["hang", "crash"])
def test_a_trial_that_fails_after_any_pass_is_a_row_and_takes_nothing_from_its_job(
    make_fake, search, done, verdict
):
    planned = [ORIGINAL, *map(trial, range(4))]
    fake = make_fake(by_workers({0: 4.0, 1: 3.0, 2: 1.0, 3: 2.0}))
    fake.later_failures[trial(2).id, "confirming"] = done, verdict
    samples = search(fake, planned, passes=3)
    (failed,) = [sample for sample in samples if sample.verdict == verdict]
    assert (failed.trial, failed.phase, failed.pass_) == (trial(2).id, "confirming", done)
    assert failed.rows is None
    for passes in (3, None):
        found = {one.trial: one for one in summarise(samples, passes)}
        others = [one for name, one in found.items() if name != trial(2).id]
        assert all(one.has_figures and one.passes == 3 for one in others)
        assert len(others) == 4
    assert chosen(samples).settings.num_workers == 3


def test_a_journal_that_was_cut_in_the_only_round_knows_how_many_passes_there_were_to_be(
    make_fake, search
):
    samples = search(make_fake(by_workers({1: 3.0, 2: 1.0})), [ORIGINAL, trial(1)], passes=3)
    cut = [sample for sample in samples if sample.round == 0 and sample.pass_ == 0]
    assert not any(one.has_figures for one in summarise(cut, 3))


def test_the_original_is_not_always_launched_first(make_fake, search):
    planned = [ORIGINAL, *map(trial, range(3))]
    fake = make_fake(by_workers(dict.fromkeys(range(3), 5.0), original=5.0), noise=0.05)
    samples = search(fake, planned, repeats=12)
    first = {}
    for sample in samples:
        if sample.phase == "confirming":
            first.setdefault(sample.round, sample.backend)
    for rounds in (range(12), range(12, 24)):
        backends = [first[turn] for turn in rounds if turn in first]
        assert 0 < backends.count("original") < len(backends)


def test_fewer_files_that_want_other_settings_get_launches_and_an_answer(
    make_fake, search, dataset
):
    counts = (4, 100)
    planned = [trial(workers, files=files) for files in counts for workers in (0, 1, 2, 4)]
    planned += [trial(0, "original", files=files) for files in counts]

    def seconds(trial):
        workers = trial.settings.num_workers
        if trial.backend == "original":
            each = {4: 25.0, 8: 0.5, 100: 9.0}[trial.files]
        else:
            each = 1 + workers if trial.files == 4 else 8 - workers
        return float(each), float(each)

    samples = search(make_fake(seconds), planned)
    raced = launches(samples, 4, since=REPEATS)
    assert raced.keys() == {("pytorch", 0), ("pytorch", 4), ("original", 0)}
    header = Header(spec={}, environment=fingerprint(), dataset=dataset)
    (found,) = recommend_all(Results(header, samples, truncated=False)).found
    assert found.chosen.settings.num_workers == 4
    assert [(one.files, one.settings.num_workers) for one in found.fewer] == [(4, 0)]
    for table in tables_of(Results(header, samples, truncated=False), [found]):
        (row,) = [row for row in table.rows if row.recommended]
        assert row.speedup is not None
        assert row.summary.settings.num_workers == (4 if table.files == 100 else 0)


def test_fewer_files_that_want_the_same_get_no_launch(make_fake, search):
    planned = [trial(workers, files=files) for files in (4, 100) for workers in (0, 1, 2)]
    planned += [trial(0, "original", files=files) for files in (4, 100)]
    samples = search(make_fake(by_workers({0: 4.0, 1: 2.0, 2: 1.0})), planned)
    assert launches(samples, 4, since=REPEATS) == {}


def test_jobs_share_the_budget(make_fake, search):
    planned = [
        trial(workers, backend, job=job)
        for job in ("frame", "stream")
        for workers, backend in ((0, "original"), (1, "pytorch"), (2, "pytorch"))
    ]
    fake = make_fake(by_workers({1: 1.0, 2: 1.01}), noise=0.1)
    samples = search(fake, planned, budget=800.0)
    spent = {}
    for sample in samples:
        spent[sample.job] = spent.get(sample.job, 0.0) + sample.metrics["wall_s"]
    assert spent["stream"] > 400  # what the first leaves over goes to the second
    assert fake.clock.now <= 800


def test_a_search_that_is_resumed_runs_the_same_trials(make_fake, search, tmp_path):
    planned = [ORIGINAL, *map(trial, (0, 1, 2, 4))]
    pace = by_workers({0: 4.0, 1: 1.02, 2: 1.0, 4: 1.01})
    path = tmp_path / "whole.jsonl"
    whole = search(make_fake(pace), planned, path)
    lines = path.read_bytes().splitlines(keepends=True)
    for cut_at in (3, len(lines) // 2, len(lines) - 5):
        cut = tmp_path / f"cut{cut_at}.jsonl"
        cut.write_bytes(b"".join(lines[:cut_at]) + lines[cut_at][:20])
        again = search(make_fake(pace), planned, cut)
        assert {identity(s) for s in again} == {identity(s) for s in whole}


def identity(sample):
    return sample.trial, sample.phase, sample.round, sample.pass_


def test_a_contender_that_fails_in_a_launch_makes_room_for_the_next(make_fake, search):
    planned = [ORIGINAL, *map(trial, range(12))]
    fake = make_fake(by_workers(dict.fromkeys(range(12), 1.0)))
    real, best = fake.run, []

    def run(trial, phase, **options):
        screened = sum(one.id == trial.id for one, *_ in fake.runs) >= REPEATS
        if phase == "confirming" and trial.backend != "original" and screened:
            best.append(trial.id)
            fake.failures = {best[0]: "crash"}
        return real(trial, phase, **options)

    fake.run = run
    samples = search(fake, planned)
    crashed = {sample.trial for sample in samples if sample.verdict == "crash"}
    assert len(crashed) == 1
    assert chosen(samples).trial not in crashed
    # The original, eight, and one more; the others come in while they may still be better.
    assert len(launches(samples, since=REPEATS)) >= 10


def test_where_nothing_was_screened_right_nothing_is_launched(make_fake, search):
    planned = [ORIGINAL, trial(1)]
    fake = make_fake(by_workers({1: 1.0}), failures={"pytorch": "error", "original": "error"})
    samples = search(fake, planned)
    assert {sample.round for sample in samples} == {0}


def test_where_the_original_may_be_the_best_it_is_launched_as_often_as_the_others(
    make_fake, search
):
    fake = make_fake(by_workers({1: 1.0, 2: 1.1}, original=1.0), noise=0.1)
    samples = search(fake, [ORIGINAL, trial(1), trial(2)])
    often = launches(samples)
    assert often["original", 0] == max(often.values()) > ORIGINAL_LAUNCHES
    assert chosen(samples).backend == "original"


@pytest.mark.parametrize(("budget", "launched"), [(None, True), (900.0, True), (480.0, False)])
def test_the_original_is_launched_at_fewer_files_where_there_is_time_for_it(
    make_fake, search, budget, launched
):
    counts = (4, 100)
    planned = [trial(workers, files=files) for files in counts for workers in (0, 4)]
    planned += [trial(0, "original", files=files) for files in counts]

    def seconds(trial):
        workers = trial.settings.num_workers
        if trial.backend == "original":
            each = {4: 25.0, 8: 0.5, 100: 9.0}[trial.files]
        else:
            each = 1 + workers if trial.files == 4 else 8 - workers
        return float(each), float(each)

    samples = search(make_fake(seconds), planned, budget=budget)
    found = launches(samples, 4, since=REPEATS)
    assert {("pytorch", 0), ("pytorch", 4)} <= found.keys()
    assert (("original", 0) in found) is launched
