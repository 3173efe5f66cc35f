"""A trial's waterfall adds up, and one sentence says what limits it and what would help."""

import msgspec
import pytest
from feedrate.harness.record.bottleneck import sentence, waterfall
from feedrate.harness.record.metrics import METRICS, STAGES
from feedrate.harness.record.results import Header, Results
from feedrate.harness.record.speedup import troubles
from feedrate.harness.record.summary import summarise
from feedrate.harness.show.answer import (
    requests_text,
    waterfall_note,
    waterfall_rows,
    waterfall_title,
)
from feedrate.loaders.base.machine import fingerprint
from feedrate.loaders.parquet.dataset import describe

from ... import samples


def sample(stages, launch=1, number=0, job="frame", phase="confirming", workers=2, **metrics):
    shares = {f"stage_{name}_s": stages.get(name, 0.0) for name in STAGES} if stages else {}
    wall = metrics.pop("wall_s", sum(stages.values()) if stages else 1.0)
    return samples.sample(
        wall, trial=f"{phase}-{workers}", job=job, num_workers=workers, phase=phase, turn=launch,
        launch=launch, pass_=number,
        metrics={**dict.fromkeys(METRICS), "wall_s": wall, **shares, **metrics},
    )  # fmt: skip


def saving(stem, percent, spread=5.0):
    ends = {f"{stem}_low_pct": percent - spread, f"{stem}_high_pct": percent + spread}
    return {f"{stem}_pct": percent, **ends}


def summary(*samples):
    return summarise(samples)[0]


@pytest.fixture
def machine():
    return msgspec.structs.replace(fingerprint(), effective_cpus=2)


def test_stages_are_medians_over_launches_with_their_span():
    found = waterfall(summary(*(sample({"decode": one, "read": 1.0}, one) for one in (2, 3, 7))))
    decode = next(share for share in found.shares if share.stage == "decode")
    assert (decode.seconds, decode.low, decode.high) == (3, 2, 7)
    assert sum(share.seconds for share in found.shares) == found.wall_s == 4
    assert found.limiting is decode
    assert found.confidence == 0.75


def test_a_waterfall_is_of_the_launches_and_the_median_that_tables_show():
    launches = [sample({"decode": one, "read": 1.0}, one) for one in (2, 3, 5, 9)]
    explaining = sample({"decode": 100.0}, 99, phase="explaining", read_alone_s=1.0)
    explaining = msgspec.structs.replace(explaining, trial=launches[0].trial)
    mine = next(one for one in summarise([*launches, explaining]) if one.phase == "confirming")
    found = waterfall(mine)
    assert mine.explained
    assert found.launches == len(mine.totals) == 4
    assert found.wall_s == mine.first_s == 5
    assert sum(share.seconds for share in found.shares) == found.wall_s


def test_no_confidence_is_told_as_certainty():
    found = waterfall(summary(*(sample({"decode": 1.0}, launch) for launch in range(20))))
    assert "with over 99% confidence" in waterfall_note(found)


def test_without_stages_there_is_no_waterfall():
    assert waterfall(summary(sample(None))) is None


def test_a_launch_whose_calls_hide_stages_is_told_apart_by_what_others_measured():
    hidden = sample({"handover": 0.5}, 2, stage_load_s=3.0, wall_s=3.5)
    known = sample({"read": 1.0, "decode": 2.5}, 1, read_alone_s=1.0, load_alone_s=3.0)
    found = waterfall(summary(known, hidden))
    read = next(share for share in found.shares if share.stage == "read")
    assert (found.launches, read.low, read.high) == (2, 1.0, 1.0)


def test_stages_of_a_launch_that_nobody_can_tell_apart_are_left_out():
    assert waterfall(summary(sample({"handover": 0.5}, stage_load_s=3.0, wall_s=3.5))) is None


def test_launches_without_stages_do_not_count():
    found = waterfall(summary(sample({"read": 1.0}, 1), sample(None, 2)))
    assert (found.launches, found.limiting.seconds) == (1, 1.0)


def test_a_frame_is_told_by_its_first_pass_and_training_by_a_later_one():
    def passes(job):
        return [sample({"convert": 9.0}, 1, 0, job), sample({"gather": 2.0}, 1, 1, job)]

    frame, stream = (waterfall(summary(*passes(job))) for job in ("frame", "stream"))
    assert (frame.first, frame.limiting.stage) == (True, "convert")
    assert (stream.first, stream.limiting.stage) == (False, "gather")
    assert "a later pass" in waterfall_title(stream)


def test_the_sentence_names_stage_ceiling_and_what_helps_most(machine):
    found = waterfall(
        summary(
            sample(
                {"decode": 8.0, "read": 2.0}, ceiling_decode_s=7.5, **saving("row_groups", 41.0),
                **saving("merged", 60.0), **saving("uncompressed", 2.0),
            )
        )
    )  # fmt: skip
    assert found.of_ceiling == 0.75
    text = sentence(found, machine)
    assert text.startswith("decode-bound: 80% of the time is decompressing and decoding columns")
    assert "75% of what 2 cores can decode" in text
    assert text.index("merged, up to 30 into one, loading would take 60% less") < text.index("41%")
    assert "codec" not in text


def with_reasons(made, **reasons):
    return msgspec.structs.replace(made, reasons=reasons)


DEEP = "column 'tags' holds lists of lists of text (list<item: list<item: string>>)"


def test_files_that_pandas_read_are_told_with_the_column_before_any_advice(machine):
    made = sample({"convert": 9.0}, files_by_pandas=10.0, **saving("merged", 60.0))
    text = sentence(waterfall(summary(with_reasons(made, files_by_pandas=DEEP))), machine)
    told = f"; pandas read 10 of 10 files itself, since {DEEP}; from files merged"
    assert told in text
    none = sample({"convert": 9.0}, files_by_pandas=0.0)
    assert "pandas read" not in sentence(waterfall(summary(none)), machine)


def test_of_the_original_it_is_told_which_files_the_others_left_to_pandas(machine):
    mine = waterfall(summary(sample({"convert": 9.0}, workers=0)))
    other = sample(None, phase="confirming", files_by_pandas=4.0)
    (told,) = summarise([with_reasons(other, files_by_pandas=DEEP)])
    assert f"; pandas read 4 of 10 files itself with pytorch too, since {DEEP}" in (
        sentence(mine, machine, [told])
    )
    fast = summarise([sample(None, phase="confirming", files_by_pandas=0.0)])
    assert "pandas read" not in sentence(mine, machine, fast)
    fewer = summarise([msgspec.structs.replace(other, files=3)])
    assert "pandas read" not in sentence(mine, machine, fewer)


def test_the_kind_of_column_that_costs_most_is_named_with_its_columns(machine):
    made = sample({"convert": 9.0}, **saving("fewer_columns", 60.0))
    made = with_reasons(made, fewer_columns_pct="the column of lists ('tags')")
    text = sentence(waterfall(summary(made)), machine)
    assert "without the column of lists ('tags'), loading would take 60% less" in text
    assert "plain numbers" not in text


def test_launches_that_left_out_other_columns_than_most_do_not_count_for_them(machine):
    confirming = sample({"convert": 9.0})
    told = [("the lists", 60.0), ("the text", 10.0), ("the lists", 62.0), ("the text again", 11.0)]
    launches = [
        msgspec.structs.replace(
            with_reasons(
                sample(None, at, phase="explaining", **saving("fewer_columns", percent), **more),
                fewer_columns_pct=columns,
            ),
            trial=confirming.trial,
        )
        for at, (columns, percent) in enumerate(told, 2)
        for more in [saving("merged", 10.0 * at)]
    ]
    mine = next(one for one in summarise([confirming, *launches]) if one.phase == "confirming")
    text = sentence(waterfall(mine), machine)
    assert "without the lists, loading would take 61% less [56, 66]" in text
    assert "merged, up to 30 into one, loading would take 35% less" in text  # of all four


def test_no_pass_runs_at_more_than_what_the_machine_can(machine):
    found = waterfall(summary(sample({"gather": 2.0, "read": 1.0}, ceiling_gather_s=8.0)))
    assert found.of_ceiling is None
    text = sentence(found, machine)
    assert "alone, with all CPUs, that takes no less" in text
    assert "cores can" not in text


def test_where_nothing_was_measured_to_help_that_is_said(machine):
    found = waterfall(summary(sample({"gather": 1.0}, **saving("uncompressed", 1.0))))
    assert "tried without a clear saving: no compression" in sentence(found, machine)
    assert "tried" not in sentence(waterfall(summary(sample({"gather": 1.0}))), machine)


def test_no_conclusion_is_drawn_from_a_saving_that_chance_explains(machine):
    found = waterfall(summary(sample({"gather": 1.0}, **saving("merged", 30.0, spread=31.0))))
    text = sentence(found, machine)
    assert "would take" not in text
    assert "savings above 61% are ruled out" in text


@pytest.mark.parametrize(
    ("took", "told"),
    [
        ([1.1] * 6, "more workers do not help (4 were tried)"),
        ([1.1] * 3, "; 4 workers took 1.10 times as long, n=3, 75% interval 1.10 to 1.10"),
        ([0.98] * 6, "more workers would save 2.0% at most"),
        ([0.9, 1.1] * 3, "help: 4 of them took 0.99 times as long, n=6, 97% interval 0.90 to 1.10"),
        ([1.1], "4 of them took 1.10 times as long, n=1"),
    ],
)
def test_trials_with_more_workers_tell_whether_those_help_or_that_they_do_not_tell(
    machine, took, told
):
    mine = summary(sample({"decode": 1.0}))
    others = summarise(
        made
        for turn, seconds in enumerate(took)
        for made in (
            sample(None, turn, wall_s=1.0),
            sample(None, turn, workers=4, wall_s=seconds),
        )
    )
    assert told in sentence(waterfall(mine), machine, others)
    assert "workers" not in sentence(waterfall(mine), machine, others[:1])


@pytest.mark.parametrize(
    ("took", "told"),
    [
        ([1.1] * 6, "more requests in flight do not help (128 were tried)"),
        ([0.7] * 6, "more requests in flight would save 30.0% at most (128 of them)"),
        ([], "with more requests in flight, reading alone takes 50.0% less: try --requests"),
    ],
)
def test_of_objects_it_is_told_whether_more_requests_in_flight_help(machine, took, told):
    def launch(turn, seconds, requests):
        metrics = {**dict.fromkeys(METRICS), "wall_s": seconds}
        return samples.sample(
            seconds, trial=f"{requests}", requests=requests, turn=turn, metrics=metrics
        )

    alone = {"requests": 10.0, "read_alone_s": 0.8, "ceiling_read_s": 0.4}
    mine = sample({"read": 0.8, "decode": 0.2}, workers=0, **alone)
    others = summarise(
        made
        for turn, seconds in enumerate(took)
        for made in (launch(turn, 1.0, 64), launch(turn, seconds, 128))
    )
    text = sentence(waterfall(summary(mine)), machine, others)
    assert text.startswith("bound by the object store: 80% of the time is waiting for requests; ")
    assert told in text
    assert "cores can read" not in text


def test_requests_of_the_pass_are_told_with_what_was_repeated():
    plain = waterfall(summary(sample({"read": 1.0}, requests=12.0, request_bytes=2048.0)))
    assert requests_text(plain) == "Requests: 12, 1.20 a file, for 2.00 KiB."
    again = {"request_retries": 2.0, "request_throttled_s": 0.5}
    found = waterfall(summary(sample({"read": 1.0}, requests=12.0, request_bytes=0.0, **again)))
    assert requests_text(found).endswith(
        "; 2 of them repeated; they waited 500 ms since the store asked for fewer."
    )
    assert requests_text(waterfall(summary(sample({"read": 1.0})))) is None


def test_rows_are_of_the_stages_that_took_time_and_of_the_gpu():
    rows = waterfall_rows(waterfall(summary(sample({"read": 1.0}, h2d_overlap_s=0.5))))
    assert [row[0] for row in rows] == ["read", "to the GPU"]


def test_trials_that_are_flagged_alike_are_told_in_one_sentence(machine):
    def flagged(share, workers):
        made = sample(None, workers=workers, harness_s=share)
        return msgspec.structs.replace(
            made, reasons={"harness_s": f"the loop takes {share:.0%} of it"}
        )

    header = Header(spec={"passes": 1}, environment=machine, dataset=describe([]))
    every = [*(flagged(0.06 + at / 100, at) for at in range(5)), sample(None, workers=9)]
    told = troubles(Results(header, every, truncated=False))
    (told,) = [one for one in told if one.startswith("flagged")]
    assert told.startswith("flagged: frame with pytorch (0 workers")
    assert told.endswith(", 10 files) and 4 more: the loop takes 6% of it")
