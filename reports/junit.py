"""The gate's verdict as JUnit XML, which CI servers show as tests."""

from __future__ import annotations

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite
from junitparser.junitparser import FinalResult

from ..harness.gate import GateOutcome
from ..harness.gate_rule import GateVerdict
from ..harness.gate_view import failures, verdict_line


def gate_junit(outcome: GateOutcome, *, inconclusive: str = "skipped") -> str:
    """One test case a comparison: a regression is a failure, what cannot be told is skipped.

    Args:
        outcome: of a gate.
        inconclusive: `skipped`, `failure` or `passed`: what a comparison is that cannot be told.
    """
    suite = TestSuite("feedrate gate")
    suite.add_property("base", outcome.base)
    suite.add_property("head", outcome.head)
    suite.add_property("verdict", verdict_line(outcome))
    told = {id(one): why for one, why in failures(outcome.judgement.findings)}
    for finding in outcome.judgement.findings:
        case = TestCase(finding.metric, classname=finding.cell, time=0.0)
        if (why := told.get(id(finding))) is not None:
            case.result = _result(finding.verdict, why, inconclusive)
        suite.add_testcase(case)
    for doubt in outcome.judgement.doubts:
        case = TestCase("comparable", classname="feedrate gate", time=0.0)
        case.result = _result("inconclusive", doubt, inconclusive)
        suite.add_testcase(case)
    xml = JUnitXml("feedrate gate")
    xml.add_testsuite(suite)
    xml.update_statistics()  # type: ignore[no-untyped-call]  # junitparser has no types for it
    return bytes(xml.tostring()).decode()  # type: ignore[no-untyped-call]  # nor for this


def _result(verdict: GateVerdict, why: str, inconclusive: str) -> list[FinalResult]:
    if verdict == "regression" or inconclusive == "failure":
        return [Failure(why, verdict)]
    return [Skipped(why, verdict)] if inconclusive == "skipped" else []
