from collections import Counter
from dataclasses import replace

import pytest
from feedrate.harness.plan.spec import Spec, make_trial
from feedrate.harness.record.journal import Journal
from feedrate.harness.record.results import Header, Results
from feedrate.harness.record.summary import ranked, summarise
from feedrate.harness.run.executor import PassSample
from feedrate.harness.run.scheduler import NullSink, Scheduler, check_resumable, complete
from feedrate.harness.system.pagecache import Established
from feedrate.loaders.base.errors import InputError
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.base.settings import LoaderSettings

SPEEDS = {0: (4.0, 4.0), 1: (2.0, 2.0), 2: (1.0, 1.0), 4: (1.01, 1.01)}


def trials(files=10, workers=(0, 1, 2, 4), job="frame"):
    idle = {"num_workers": 0, "prefetch": 0, "cache": "none"}
    made = [make_trial(job, LoaderSettings(backend="original", **idle), files)]
    for count in workers:
        settings = LoaderSettings(backend="pytorch", num_workers=count, cache="none")
        made.append(make_trial(job, settings, files))
    return made


def seconds(trial):
    return (10.0, 10.0) if trial.backend == "original" else SPEEDS[trial.settings.num_workers]


def test_rounds_are_interleaved_not_run_one_trial_after_the_other(make_fake, run):
    fake = make_fake(seconds)
    run(fake, trials(), verb="screen", repeats=3)
    order = [trial.id for trial, _, _ in fake.runs]
    per_round = [order[turn * 5 : turn * 5 + 5] for turn in range(3)]
    assert all(set(ids) == {trial.id for trial in trials()} for ids in per_round)
    assert len({tuple(ids) for ids in per_round}) > 1


def test_the_same_seed_gives_the_same_order(make_fake, run, tmp_path):
    one, two = make_fake(seconds), make_fake(seconds)
    run(one, trials(), verb="screen", path=tmp_path / "a.jsonl")
    run(two, trials(), verb="screen", path=tmp_path / "b.jsonl")
    assert [trial.id for trial, *_ in one.runs] == [trial.id for trial, *_ in two.runs]


def test_warnings_that_differ_by_amounts_are_one_note_and_of_other_columns_another(make_fake):
    fake = make_fake(seconds)
    plain = fake.run

    def noisy(trial, phase, **options):
        rows = 1000 * (1 + trial.settings.num_workers)
        texts = [f"column '{name}' has {rows:,} nulls" for name in ("x1", "x2")]
        return replace(plain(trial, phase, **options), notes=texts)

    fake.run = noisy
    scheduler = Scheduler(Spec(repeats=2), trials(), fake, NullSink(), clock=fake.clock)
    scheduler.screen()
    assert [note.split("'")[1] for note in scheduler.notes] == ["x1", "x2"]


def test_wrong_rows_are_shown_as_wrong_and_never_ranked(make_fake, run):
    planned = trials()
    fastest = planned[3]
    samples = run(make_fake(seconds, wrong={fastest.id}), planned)
    wrong = [sample for sample in samples if sample.trial == fastest.id]
    assert {sample.verdict for sample in wrong} == {"wrong-rows"}
    assert "not the original's" in wrong[0].reasons["verdict"]
    assert fastest.id not in [summary.trial for summary in ranked(summarise(samples))]
    assert {sample.round for sample in wrong} == {0}


@pytest.mark.parametrize("verdict", ["error", "crash", "hang", "out-of-memory"])
def test_a_failing_trial_becomes_a_row_and_the_sweep_goes_on(make_fake, run, verdict):
    planned = trials()
    samples = run(make_fake(seconds, failures={planned[2].id: verdict}), planned)
    failed = [sample for sample in samples if sample.trial == planned[2].id]
    assert [sample.verdict for sample in failed] == [verdict]  # and it is not tried again
    assert failed[0].reasons["verdict"] == f"made to {verdict}"
    assert {sample.trial for sample in samples} == {trial.id for trial in planned}


def test_data_that_the_original_cannot_load_ends_the_sweep_with_the_reason(make_fake, run):
    with pytest.raises(InputError, match=r"x\.parquet"):
        run(make_fake(seconds, failures={"reference": "error"}), trials())


def test_a_sweep_that_is_resumed_ends_with_the_same_set_of_samples(make_fake, run, tmp_path):
    path = tmp_path / "whole.jsonl"
    whole = run(make_fake(seconds), trials(), verb="screen", path=path)
    lines = path.read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(lines[:14]) + lines[14][:20])
    fake = make_fake(seconds)
    again = run(fake, trials(), verb="screen", path=cut)
    assert len(fake.runs) < 15

    def identity(sample):
        return sample.trial, sample.phase, sample.round, sample.pass_

    assert {identity(s) for s in whole} <= {identity(s) for s in again}


def test_the_rows_of_each_timed_launch_are_checked_but_the_original_s(make_fake, run):
    fake = make_fake(seconds)
    samples = run(fake, trials(), repeats=3)
    checked = {}
    for trial, phase, verify in fake.runs:
        checked.setdefault((trial.backend == "original", phase), []).append(verify)
    assert all(checked[False, "confirming"])
    assert not any(checked[True, "confirming"])
    originals = [one for one in samples if one.backend == "original"]
    assert {(one.verdict, one.fingerprint) for one in originals} == {
        ("ok", fake.reference("frame", 10).fingerprint.digest)
    }
    assert not any(checked[False, "explaining"])
    assert not any(checked[False, "memory"])


@pytest.mark.parametrize(
    ("passes_s", "count"), [((10.0, 10.0), 1), ((10.0, 14.0), 1), ((10.0, 4.0), 3), ((0.2, 0.2), 3)]
)
def test_the_original_has_one_pass_a_launch_once_its_passes_are_known_to_be_long_and_alike(
    make_fake, run, passes_s, count
):
    def pace(trial):
        return passes_s if trial.backend == "original" else (3.0, 3.0)

    samples = run(make_fake(pace), trials(workers=(0,)), verb="screen", repeats=4)
    launches = Counter((one.backend, one.round) for one in samples)
    assert [launches["original", turn] for turn in range(4)] == [3, count, count, count]
    assert {launches["pytorch", turn] for turn in range(4)} == {3}
    original = next(one for one in summarise(samples, 3) if one.backend == "original")
    first, later = passes_s
    assert original.totals == pytest.approx(
        {0: first + 2 * later}
        | dict.fromkeys((1, 2, 3), first + 2 * (first if count == 1 else later))
    )
    assert original.first_passes == dict.fromkeys(range(4), first)


def test_every_metric_is_there_or_has_a_reason(make_fake, run):
    for sample in run(make_fake(seconds), trials()):
        missing = [name for name, value in sample.metrics.items() if value is None]
        assert all(sample.reasons.get(name) for name in missing)


def in_states(fake, state_of):
    """Let runs come with a state of the page cache."""
    real = fake.run

    def run(trial, phase, **options):
        found = real(trial, phase, **options)
        state = state_of(trial, len(fake.runs))
        return replace(found, passes=[replace(done, page_cache=state) for done in found.passes])

    fake.run = run
    return fake


UNKNOWN = Established("unknown", "1 MiB stayed")


def test_samples_of_an_unknown_page_cache_are_labelled_and_not_mixed_with_others(make_fake, run):
    fake = in_states(
        make_fake(seconds), lambda _, runs: UNKNOWN if runs <= 5 else Established("cold")
    )
    samples = run(fake, trials(), verb="screen", repeats=3, page_cache="cold")
    first = [sample for sample in samples if sample.round == 0]
    assert {sample.page_cache for sample in first} == {"unknown"}
    assert {sample.verdict for sample in first} == {"unverified"}
    assert first[0].reasons["verdict"] == "not cold: 1 MiB stayed"
    for summary in summarise(samples):
        assert (summary.verdict, summary.page_cache) == ("ok", "cold")
        assert set(summary.totals) == {1, 2}
    assert len(ranked(summarise(samples))) == 5


def test_a_trial_whose_page_cache_is_never_known_is_not_ranked(make_fake, run):
    def state_of(trial, _):
        return UNKNOWN if trial.settings.num_workers == 2 else Established("warm")

    samples = run(in_states(make_fake(seconds), state_of), trials(), page_cache="warm")
    unknown = [s for s in summarise(samples) if s.settings.num_workers == 2]
    assert [(s.verdict, s.message) for s in unknown] == [("unverified", "not warm: 1 MiB stayed")]
    assert {s.settings.num_workers for s in ranked(summarise(samples))} == {0, 1, 4}


def test_rows_that_are_wrong_stay_wrong_whatever_the_page_cache(make_fake, run):
    planned = trials()
    fake = in_states(make_fake(seconds, wrong={planned[1].id}), lambda *_: UNKNOWN)
    samples = run(fake, planned, verb="screen", repeats=1, page_cache="cold")
    assert {s.verdict for s in samples if s.trial == planned[1].id} == {"wrong-rows"}


def test_a_step_s_slowdown_and_a_harness_that_measures_itself_are_told():
    trial = make_trial("stream", LoaderSettings(backend="pytorch"), 3)
    done = PassSample(
        10, {"wall_s": 1.0, "step_s": 0.3, "step_alone_s": 0.2, "harness_s": 0.06}, {}
    )
    metrics, reasons = complete(trial, "confirming", done)
    assert metrics["step_slowdown_pct"] == pytest.approx(50)
    assert "6% of the time" in reasons["harness_s"]
    less = replace(done, metrics={**done.metrics, "harness_s": 0.04})
    metrics, reasons = complete(trial, "confirming", less)
    assert "harness_s" not in reasons
    without = replace(done, metrics={"wall_s": 1.0})
    metrics, reasons = complete(trial, "confirming", without)
    assert metrics["stall_pct"] is None
    assert "--consumer" in reasons["stall_pct"]


def test_what_a_journal_did_not_tell_of_is_taken_as_usual(dataset):
    header = Header(spec={"passes": 3, "seed": 0}, environment=fingerprint(), dataset=dataset)
    results = Results(header, [], truncated=False)
    assert check_resumable(results, Spec(), dataset) == []
    (told,) = check_resumable(results, Spec(page_cache="cold"), dataset)
    assert told == "page_cache was 'as-is', is 'cold'"


def test_a_trial_beyond_the_memory_is_a_row_and_is_not_started(make_fake, dataset, tmp_path):
    fake = make_fake(seconds)
    some = trials()
    big = {trial.id for trial in some if trial.settings.num_workers >= 2}
    header = Header(spec={}, environment=fingerprint(), dataset=dataset)
    with Journal.create(tmp_path / "r.jsonl", header) as journal:
        scheduler = Scheduler(
            spec=Spec(), trials=some, executor=fake, journal=journal, clock=fake.clock,
            exceeds=lambda trial: "not started: too big" if trial.id in big else None,
        )  # fmt: skip
        scheduler.screen()
    assert big
    assert not big & {trial.id for trial, _, _ in fake.runs}
    rows = [sample for sample in scheduler.samples if sample.trial in big]
    assert {sample.verdict for sample in rows} == {"out-of-memory"}
    assert len(rows) == len(big)
    assert rows[0].reasons["verdict"] == "not started: too big"
    assert "fewer workers" in rows[0].reasons["remedy"]


def test_idle_workers_are_told_with_a_remedy_and_still_ranked(make_fake, dataset, tmp_path):
    fake = make_fake(seconds)
    run = fake.run

    def idle(trial, phase, **options):
        found = run(trial, phase, **options)
        for done in found.passes:
            done.metrics["idle_workers"] = 1.0 if trial.backend != "original" else 0.0
        return found

    fake.run = idle
    header = Header(spec={}, environment=fingerprint(), dataset=dataset)
    with Journal.create(tmp_path / "r.jsonl", header) as journal:
        scheduler = Scheduler(
            spec=Spec(), trials=trials(), executor=fake, journal=journal, clock=fake.clock
        )
        scheduler.screen()
    found = summarise(scheduler.samples)
    told = [one for one in found if one.backend != "original"]
    assert {one.verdict for one in told} == {"idle-workers"}
    assert "had nothing to do" in told[0].message
    assert "more than 2 workers are no faster" in told[0].remedy
    assert {one.trial for one in told} <= {one.trial for one in ranked(found)}


def test_the_journal_keeps_how_many_files_pandas_read_and_since_which_column(make_fake, run):
    fake = make_fake(seconds)
    answer, why = fake.run, "column 'tags' holds maps (map<string, int64>)"

    def leaving(trial, phase, **options):
        found = answer(trial, phase, **options)
        if trial.backend != "original":
            for done in found.passes:
                done.metrics["files_by_pandas"] = 10.0
                done.reasons["files_by_pandas"] = why
        return found

    fake.run = leaving
    found = run(fake, trials(), "sweep", repeats=1)
    told = {one.backend: one.reasons["files_by_pandas"] for one in found}
    assert told.pop("original") == "the original reads all files with pandas"
    assert set(told.values()) == {why}
    assert {one.metrics["files_by_pandas"] for one in found} == {None, 10.0}
