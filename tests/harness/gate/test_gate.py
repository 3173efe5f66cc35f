"""The gate over a fake executor: what is measured in which order, and what it says."""

import json
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from feedrate.harness.cli.gate_commands import workflow_commands
from feedrate.harness.gate.gate import Gate
from feedrate.harness.gate.outcome import Finding, GateOutcome, Judgement
from feedrate.harness.gate.rule import CONFIRM_PAIRS, SCREEN_PAIRS, Rule
from feedrate.harness.gate.sides import ARMS, ArmJournal, Measured, Stored, by_round
from feedrate.harness.gate.spec import STEADY, TIME, Cell
from feedrate.harness.gate.view import (
    MAX_MARKDOWN_BYTES,
    gate_json,
    gate_markdown,
    gate_view,
    verdict_line,
)
from feedrate.harness.plan.spec import Spec, make_trial
from feedrate.harness.run.scheduler import Scheduler
from feedrate.harness.show.terminal import as_text
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.reports.junit import gate_junit
from junitparser import Error, Failure, JUnitXml, Skipped


class Kept(list):
    """A journal in memory."""


def cell(name, number, *, control=False, **rules):
    settings = LoaderSettings(backend="pytorch", num_workers=number)
    return Cell(name, make_trial("frame", settings, 10), {TIME: Rule(), **rules}, control)


FAST, SLOW = cell("fast", 1), cell("slow", 2)
CONTROL = cell("original", 0, control=True)


@pytest.fixture
def gate(make_fake):
    """A gate over fakes; `base` and `head` are what they are made with."""

    def make(cells, *, base=None, head=None, **fields):
        journal, launched = Kept(), []
        fakes = {}
        for arm, given in zip(ARMS, (base or {}, head or {}), strict=True):
            slower = given.pop("slower", {})
            each = given.pop("each", (1.0, 1.0))
            fakes[arm] = make_fake(
                lambda trial, slower=slower, each=each: tuple(
                    wall * slower.get(trial.id, 1.0) for wall in each
                ),
                **{"noise": 0.05, **given},
            )
            fakes[arm].random = np.random.default_rng(ARMS.index(arm))
            run = fakes[arm].run

            def noted(trial, phase, *, arm=arm, run=run, **options):
                launched.append((trial.id, arm))
                return run(trial, phase, **options)

            fakes[arm].run = noted
        sides = {
            arm: Measured(
                Scheduler(
                    Spec(passes=2, budget=None), [one.trial for one in cells], fakes[arm],
                    ArmJournal(journal, arm), clock=fakes[arm].clock, verify_launches=False,
                )
            )
            for arm in ARMS
        }  # fmt: skip
        made = Gate(cells, sides, **fields)
        made.journal, made.launched, made.fakes = journal, launched, fakes
        return made

    return make


def said(judgement):
    return {(one.cell, one.metric): one.verdict for one in judgement.findings}


def test_equal_revisions_pass_after_screening_and_are_launched_by_turns(gate):
    made = gate([FAST, CONTROL])
    judgement = made.run()
    assert judgement.verdict == "pass"
    assert len(made.launched) == 2 * 2 * (SCREEN_PAIRS + 1)
    mine = [arm for trial, arm in made.launched if trial == FAST.trial.id]
    assert mine[:4] == ["base", "head", "head", "base"]
    pair = judgement.findings[1].compared.ratio
    assert pair.n == SCREEN_PAIRS  # the first pair is discarded
    assert {one.arm for one in made.journal} == set(ARMS)


@pytest.mark.parametrize(
    ("base", "head", "passes"),
    [
        ((1.0, 1.0), (1.0, 1.0), 1),
        ((1.0, 0.5), (1.0, 1.0), 2),  # base keeps something
        ((1.0, 1.0), (1.0, 0.5), 2),
        ((0.3, 0.3), (0.3, 0.3), 2),  # too short to be told by one
    ],
)
def test_one_pass_a_launch_is_enough_where_later_ones_take_as_long(gate, base, head, passes):
    made = gate([FAST], base={"each": base}, head={"each": head})
    made.run()
    warm_up = {one.pass_ for one in made.journal if one.round == 0}
    later = {one.pass_ for one in made.journal if one.round > 0}
    assert (len(warm_up), len(later)) == (2, passes)


def test_a_slower_head_is_confirmed_in_fresh_pairs_and_fails(gate):
    made = gate([FAST, SLOW], head={"slower": {SLOW.trial.id: 1.3}})
    judgement = made.run()
    assert judgement.verdict == "regression"
    assert said(judgement) == {
        ("fast", "rows"): "pass", ("fast", TIME): "pass",
        ("slow", "rows"): "pass", ("slow", TIME): "regression",
    }  # fmt: skip
    slow = judgement.findings[3].compared
    assert slow.ratio.n == CONFIRM_PAIRS
    assert slow.ratio.estimate == pytest.approx(1.3, rel=0.05)
    phases = {one.phase for one in made.journal if one.trial == FAST.trial.id}
    assert phases == {"screening"}  # nothing more to find out about it


def test_a_faster_head_passes_and_is_called_faster(gate):
    judgement = gate([FAST], head={"slower": {FAST.trial.id: 0.7}}).run()
    assert judgement.verdict == "pass"
    assert judgement.findings[1].compared.is_faster


def test_other_rows_fail_whatever_the_speed(gate):
    judgement = gate([FAST], head={"slower": {FAST.trial.id: 0.1}, "wrong": {FAST.trial.id}}).run()
    assert judgement.verdict == "regression"
    rows = judgement.findings[0]
    assert (rows.metric, rows.verdict) == ("rows", "regression")
    assert "not the original's" in rows.why


def test_rows_that_are_right_on_their_own_sides_and_yet_differ_fail(gate):
    judgement = gate([FAST], head={"digest": "v:others"}).run()
    assert judgement.findings[0].why == "head delivers other rows than base"
    assert judgement.verdict == "regression"


def test_digests_made_in_another_way_are_not_compared(gate):
    assert gate([FAST], head={"digest": "v9:rows"}).run().verdict == "pass"


@pytest.mark.parametrize(
    ("base", "head", "verdict", "told"),
    [
        ({"failures": {FAST.trial.id: "hang"}}, {}, "inconclusive", "base: hang"),
        ({}, {"failures": {FAST.trial.id: "hang"}}, "inconclusive", "busy machine can cause this"),
    ],
)
def test_what_does_not_run_is_told_and_not_launched_again(gate, base, head, verdict, told):
    made = gate([FAST, SLOW], base=base, head=head)
    judgement = made.run()
    assert judgement.verdict == verdict
    assert told in judgement.findings[0].why
    mine = [arm for trial, arm in made.launched if trial == FAST.trial.id]
    assert len(mine) <= 2
    assert said(judgement)["slow", TIME] == "pass"


def test_a_cell_that_fails_before_it_is_confirmed_does_not_pass(gate):
    made = gate([FAST, SLOW], head={"slower": {FAST.trial.id: 1.3}})
    run = made.fakes["head"].run

    def fail_later(trial, phase, **options):
        launches = [one for one, arm in made.launched if one == trial.id and arm == "head"]
        if trial.id == FAST.trial.id and len(launches) > SCREEN_PAIRS + 1:
            made.fakes["head"].failures[trial.id] = "hang"
        return run(trial, phase, **options)

    made.fakes["head"].run = fail_later
    judgement = made.run()
    assert said(judgement)["fast", "rows"] == "inconclusive"
    assert said(judgement)["fast", TIME] == "inconclusive"
    assert judgement.findings[1].why.startswith("not confirmed")
    assert said(judgement)["slow", TIME] == "pass"


def test_a_control_that_fails_is_no_regression(gate):
    judgement = gate([FAST, CONTROL], head={"failures": {CONTROL.trial.id: "crash"}}).run()
    assert judgement.verdict == "inconclusive"
    assert "base's code on both sides" in judgement.findings[2].why


def test_what_runs_on_neither_side_is_told_so(gate):
    failures = {"failures": {FAST.trial.id: "error"}}
    made = gate([FAST, CONTROL], base=dict(failures), head=dict(failures))
    made.run()
    assert made.nothing_ran() == "made to error"
    only_base = gate([FAST, CONTROL], base=dict(failures))
    only_base.run()
    assert only_base.nothing_ran() is None


@pytest.mark.parametrize(("times", "confirmed"), [(1.3, False), (0.7, True)])
def test_beside_cells_that_pass_a_control_matters_if_head_had_the_better_machine(
    gate, times, confirmed
):
    made = gate([FAST, CONTROL], head={"slower": {CONTROL.trial.id: times}})
    assert made.run().verdict == ("inconclusive" if confirmed else "pass")
    assert (len(made.launched) > 2 * 2 * (SCREEN_PAIRS + 1)) == confirmed


def test_a_control_that_differs_makes_all_inconclusive(gate):
    slower = {CONTROL.trial.id: 1.3, SLOW.trial.id: 1.3}
    judgement = gate([SLOW, CONTROL], head={"slower": slower}).run()
    assert judgement.verdict == "inconclusive"
    assert "the change cannot affect it" in judgement.doubts[0]
    assert said(judgement)["slow", TIME] == "inconclusive"
    faster = gate([FAST, CONTROL], head={"slower": {CONTROL.trial.id: 0.7}}).run()
    assert faster.doubts


def test_more_memory_is_found_although_the_time_is_the_same(gate):
    greedy = cell("greedy", 3, peak_pss_bytes=STEADY["peak_pss_bytes"])
    judgement = gate(
        [greedy], base={"memory": lambda _: 1e8}, head={"memory": lambda _: 1.3e8}
    ).run()
    assert said(judgement)["greedy", "peak_pss_bytes"] == "regression"
    assert said(judgement)["greedy", TIME] == "pass"


def test_a_metric_that_is_not_measured_is_told_and_fails_nothing(gate):
    quiet = cell("quiet", 3, peak_pss_bytes=STEADY["peak_pss_bytes"])
    judgement = gate([quiet]).run()
    assert judgement.verdict == "pass"
    assert judgement.findings[-1].why == "not measured"
    asked = replace(quiet, asked=frozenset({"peak_pss_bytes"}))
    assert gate([asked]).run().verdict == "inconclusive"


def test_metrics_add_up_peak_or_take_the_middle_over_the_passes(gate):
    greedy = cell("greedy", 1, peak_pss_bytes=STEADY["peak_pss_bytes"])
    made = gate([greedy], head={"memory": lambda _: 7.0})
    made.run()
    first = [one for one in made.journal if one.arm == "head" and one.round == 1]
    samples = [one for one in first if one.phase == "screening"]
    memory = [one for one in first if one.phase == "memory"]
    times = [one.metrics[TIME] for one in samples]
    assert by_round(samples, TIME) == {1: pytest.approx(sum(times))}
    assert by_round(memory, "peak_pss_bytes") == {1: 7.0}
    assert by_round(samples, "peak_pss_bytes") == {}
    odd = [msgspec.structs.replace(samples[0], metrics={TIME: None}), *samples[1:]]
    assert by_round(odd, TIME) == {}
    nothing = [msgspec.structs.replace(one, metrics={TIME: 0.0}) for one in samples]
    assert set(by_round(nothing, TIME).values()) == {0.0}


@pytest.mark.parametrize(
    ("head", "verdict", "why"),
    [
        ({"failures": {FAST.trial.id: "crash"}}, "failed", "head: crash: made to crash"),
        ({"failures": {FAST.trial.id: "error"}}, "failed", "head: error: made to error"),
        ({"wrong": {FAST.trial.id}}, "regression", "head: wrong-rows"),
    ],
)
def test_what_fails_on_head_is_known_after_one_pair_of_launches(gate, head, verdict, why):
    made = gate([CONTROL, FAST, SLOW], head=head)
    judgement = made.run()
    assert judgement.verdict == verdict
    assert made.launched == [(FAST.trial.id, "base"), (FAST.trial.id, "head")]
    told = {one.cell: one for one in judgement.findings}
    assert told["fast"].verdict == verdict
    assert why in told["fast"].why
    assert {told[name].verdict for name in ("slow", "original")} == {"inconclusive"}
    text = verdict_line(GateOutcome(judgement, "a", "b"))
    assert text.startswith(f"{verdict.upper()}: fast: rows: {why}")
    suite = next(iter(JUnitXml.fromstring(gate_junit(GateOutcome(judgement, "a", "b")))))
    results = {case.classname: case.result for case in suite}
    assert [type(one) for one in results["fast"]] == [Error if verdict == "failed" else Failure]
    assert [type(one) for one in results["slow"]] == [Skipped]


def test_a_pass_says_what_slowdown_it_would_have_found(gate):
    judgement = gate([FAST, CONTROL]).run()
    found = [one.compared.detectable_effect(one.rule) for one in judgement.findings if one.compared]
    told = f"none slower; a slowdown of {max(found) - 1:.0%} would have been detected"
    assert told in verdict_line(GateOutcome(judgement, "a", "b"))


def test_what_failed_in_one_cell_is_not_said_to_have_passed():
    findings = [
        Finding("fast", "rows", "pass"), Finding("slow", "rows", "regression", why="other rows"),
        Finding("fast", "peak_pss_bytes", "pass"),
    ]  # fmt: skip
    text = as_text(gate_view(GateOutcome(Judgement("regression", findings), "a", "b")))
    assert "Also passed: peak PSS." in text
    assert "rows." not in text.partition("Also passed")[2].partition("\n")[0]


SHM = "shm_bytes"


@pytest.mark.parametrize(
    ("base", "head", "verdict"),
    [(0.0, 0.0, "pass"), (0.0, 1e8, "regression"), (1e8, 0.0, "pass"), (1e8, 1e8, "pass")],
)
def test_nothing_against_many_bytes_is_a_regression_and_against_nothing_none(
    gate, base, head, verdict
):
    cell = replace(FAST, rules={SHM: FAST.rules[TIME]})
    made = gate([cell])
    for arm, value in zip(ARMS, (base, head), strict=True):
        fake, real = made.fakes[arm], made.fakes[arm].run

        def run(*args, real=real, value=value, **options):
            found = real(*args, **options)
            passes = [replace(one, metrics={**one.metrics, SHM: value}) for one in found.passes]
            return replace(found, passes=passes)

        fake.run = run
    judgement = made.run()
    assert said(judgement)["fast", SHM] == verdict
    found = next(one.compared for one in judgement.findings if one.metric == SHM)
    assert (found.base, found.head) == (base, head)


def test_what_is_here_is_compared_with_a_baseline_of_before(gate):
    before = gate([FAST])
    before.run()
    stored = Stored(list(before.journal))
    for times, verdict in ((1.0, "pass"), (1.4, "regression")):
        now = gate([FAST], head={"slower": {FAST.trial.id: times}})
        now.sides = {"base": stored, "head": now.sides["head"]}
        assert now.run_against_before().verdict == verdict
        assert {arm for _, arm in now.launched} == {"head"}
        assert len(now.launched) == CONFIRM_PAIRS + 1


def test_a_slower_machine_is_seen_by_the_control_of_a_baseline(gate):
    before = gate([FAST, CONTROL])
    before.run()
    slower = {FAST.trial.id: 1.2, CONTROL.trial.id: 1.2}
    now = gate([FAST, CONTROL], head={"slower": slower})
    now.sides = {"base": Stored(list(before.journal)), "head": now.sides["head"]}
    judgement = now.run_against_before()
    assert judgement.verdict == "inconclusive"
    assert judgement.doubts


def test_without_a_baseline_there_is_nothing_to_compare_but_failures(gate):
    for failures, verdict in (({}, "pass"), ({FAST.trial.id: "crash"}, "failed")):
        now = gate([FAST], head={"failures": failures})
        now.sides = {"base": Stored([]), "head": now.sides["head"]}
        judgement = now.run_against_before()
        assert judgement.verdict == verdict
        whys = [one.why for one in judgement.findings]
        assert failures or whys[1] == "new: nothing to compare with"


def test_fewer_rows_fail_where_rows_cannot_be_verified(gate):
    made = gate([FAST], base={"digest": None}, head={"digest": None})
    run = made.fakes["head"].run

    def half(trial, phase, **options):
        done = run(trial, phase, **options)
        return replace(done, passes=[replace(one, rows=500) for one in done.passes])

    made.fakes["head"].run = half
    judgement = made.run()
    assert judgement.findings[0].why == "head delivers 500 rows, base 1,000"
    assert gate([FAST], base={"digest": None}, head={"digest": None}).run().verdict == "pass"


def test_a_control_does_not_excuse_more_memory(gate):
    greedy = cell("greedy", 3, peak_pss_bytes=STEADY["peak_pss_bytes"])
    judgement = gate(
        [greedy, CONTROL], base={"memory": lambda _: 1e8},
        head={"memory": lambda _: 2e8, "slower": {CONTROL.trial.id: 1.3}},
    ).run()  # fmt: skip
    assert judgement.verdict == "regression"
    assert judgement.doubts
    assert verdict_line(outcome_of(judgement)).startswith("REGRESSION: greedy: peak PSS")


def outcome_of(judgement, **fields):
    names = {"base": "main (aaaa)", "head": "HEAD (bbbb)", "results_path": Path("r.jsonl")}
    return GateOutcome(judgement, **names | fields)


@pytest.fixture
def regression(gate):
    return outcome_of(gate([FAST, SLOW], head={"slower": {SLOW.trial.id: 1.3}}).run())


def test_the_first_line_says_it_all(gate, regression):
    assert verdict_line(regression).startswith("REGRESSION: slow: time 1.3")
    assert "beyond 1.05 with p < 0.001" in verdict_line(regression)
    passed = outcome_of(gate([FAST]).run())
    which, found = "(HEAD (bbbb) against main (aaaa))", "would have been detected with 80% power"
    assert verdict_line(passed) == f"PASS: 1 cell, none slower; a slowdown of 7% {found} {which}"
    wide = outcome_of(gate([FAST], head={"noise": 1.5}).run())
    assert wide.judgement.verdict == "inconclusive"
    assert "too few pairs to decide, " in verdict_line(wide)


def test_the_table_fits_80_columns_and_tells_the_rest_in_words(regression):
    text = as_text(gate_view(regression))
    assert "…" not in text
    assert "slow" in text
    assert re.search(r"1\.\d\d \[1\.\d\d, 1\.\d\d\] +20 +\+\d+% +regression", text)  # one line
    assert "Also passed: rows." in text
    assert "No cell is a control" in text


def test_markdown_is_cut_where_github_would_cut_it(regression):
    assert "| slow | time |" in gate_markdown(regression)
    findings = regression.judgement.findings
    judgement = Judgement("regression", [findings[-1], *findings[:2] * 1000])
    text = gate_markdown(outcome_of(judgement))
    assert len(text.encode()) <= MAX_MARKDOWN_BYTES
    assert "passed ones first" in text
    assert "| slow | time |" in text  # what failed is never cut
    open_ones = [replace(one, verdict="inconclusive") for one in findings[:2] * 1000]
    text = gate_markdown(outcome_of(Judgement("regression", [*open_ones, findings[-1]])))
    assert "| slow | time |" in text


def test_json_has_all_that_the_table_has(regression):
    told = json.loads(msgspec.json.encode(gate_json(regression)))
    assert told["verdict"] == "regression"
    slow = told["findings"][-1]
    assert (slow["cell"], slow["metric"], slow["pairs"]) == ("slow", TIME, CONFIRM_PAIRS)
    assert slow["low"] < slow["ratio"] < slow["high"]


def test_junit_has_a_case_for_each_comparison(regression, gate):
    suite = next(iter(JUnitXml.fromstring(gate_junit(regression).encode())))
    cases = {(case.classname, case.name): case.result for case in suite}
    assert suite.tests == len(cases) == 4
    assert suite.failures == 1
    assert isinstance(cases["slow", TIME][0], Failure)
    wide = outcome_of(gate([FAST], head={"noise": 1.5}).run())
    kinds = {"skipped": Skipped, "failure": Failure}
    for how, kind in kinds.items():
        suite = next(iter(JUnitXml.fromstring(gate_junit(wide, inconclusive=how).encode())))
        assert any(isinstance(one, kind) for case in suite for one in case.result)
    suite = next(iter(JUnitXml.fromstring(gate_junit(wide, inconclusive="passed").encode())))
    assert not any(case.result for case in suite)


def test_junit_has_what_the_schemas_of_ant_and_jenkins_require(regression):
    named = replace(regression.judgement.findings[-1], cell="a \x01 <b>")
    odd = replace(regression, judgement=Judgement("regression", [named], ["doubt"]))
    assert gate_junit(odd).startswith("<testsuites><testsuite ")
    suite = next(iter(JUnitXml.fromstring(gate_junit(odd).encode())))._elem
    required = {"package", "id", "timestamp", "hostname", "tests", "failures", "errors", "time"}
    assert required <= suite.attrib.keys()
    tags = ["properties", "testcase", "testcase", "system-out", "system-err"]
    assert [part.tag for part in suite] == tags
    assert suite[1].get("classname") == "a \N{REPLACEMENT CHARACTER} <b>"
    assert all({"name", "classname", "time"} <= set(case.keys()) for case in suite.iter("testcase"))


def test_annotations_are_for_github_only(regression, monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert workflow_commands(regression) == []
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    (line,) = workflow_commands(regression)
    assert line.startswith("::error title=feedrate gate::slow: time")
    assert "\n" not in line
