"""Verdicts of the gate and of `verify` as JUnit XML, which CI servers show as tests."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from junitparser import Attr, Element, Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from junitparser.junitparser import FinalResult, SystemErr, SystemOut

from ..harness.gate.outcome import GateOutcome
from ..harness.gate.rule import GateVerdict
from ..harness.gate.view import failures, verdict_line
from ..harness.verify.outcome import Verified
from ..harness.verify.view import answer_line, as_lines, sentence

SUITE = "feedrate gate"
VERIFY = "feedrate verify"
# Characters that XML 1.0 cannot hold, not even escaped (its production Char).
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _Suite(TestSuite):
    """A suite with attributes that only Ant's schema requires."""

    id = Attr()
    package = Attr()


def gate_junit(outcome: GateOutcome, *, inconclusive: str = "skipped") -> str:
    """One test case per comparison: failure for a regression, error if a cell does not run.

    Comparisons that are inconclusive, or were not measured or verified, are skipped. The time of a
    case is the median of head if times were compared, else 0.

    The document is valid by the schemas of both Ant and Jenkins (JUnit.xsd, junit-10.xsd).

    Args:
        outcome: the outcome of a gate.
        inconclusive: the result of an inconclusive comparison: `skipped`, `failure` or `passed`.
    """
    suite = _suite(SUITE)
    suite.add_property("base", _text(outcome.base))
    suite.add_property("head", _text(outcome.head))
    suite.add_property("verdict", _text(verdict_line(outcome)))
    told = {id(one): why for one, why in failures(outcome.judgement.findings)}
    for finding in outcome.judgement.findings:
        compared = finding.compared if finding.is_of_time else None
        case = _case(finding.metric, finding.cell, 0.0 if compared is None else compared.head)
        if (why := told.get(id(finding))) is not None:
            case.result = _result(finding.verdict, why, inconclusive)
        elif finding.compared is None and finding.why:
            case.result = [Skipped(_text(finding.why), "skipped")]
        suite.add_testcase(case)
    for doubt in outcome.judgement.doubts:
        case = _case("comparable", SUITE)
        case.result = _result("inconclusive", doubt, inconclusive)
        suite.add_testcase(case)
    return _document(suite, verdict_line(outcome), outcome.notes)


def verify_junit(found: Verified) -> str:
    """One test case per situation: failure for faults, with a line for each."""
    suite = _suite(VERIFY)
    suite.add_property("loader", _text(found.loader))
    suite.add_property("verdict", _text(answer_line(found)))
    for ran in found.ran:
        case = _case(ran.situation, found.loader, ran.seconds)
        faults = [one for one in found.faults if one.situation == ran.situation]
        if faults:
            lines = "\n".join(f"{one.kind}: {sentence(one)}" for one in faults)
            case.result = [Failure(_text(lines), faults[0].kind)]
        suite.add_testcase(case)
    answer, *more = as_lines(found)
    return _document(suite, answer, more)


def _suite(name: str) -> _Suite:
    suite = _Suite(name)
    suite.id, suite.package = "0", name
    suite.hostname = platform.node() or "localhost"
    suite.timestamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return suite


def _document(suite: _Suite, answer: str, notes: Sequence[str]) -> str:
    _append(suite, SystemOut(_text(answer)))
    _append(suite, SystemErr(_text("\n".join(notes))))
    xml = JUnitXml()
    _append(xml, suite)
    return bytes(xml.tostring()).decode()  # type: ignore[no-untyped-call]  # junitparser has none


def _append(to: Element, part: Element) -> None:
    to.append(part)  # type: ignore[no-untyped-call]  # nor here


def _case(name: str, of: str, seconds: float = 0.0) -> TestCase:
    return TestCase(_text(name), classname=_text(of), time=seconds)


def _result(verdict: GateVerdict, why: str, inconclusive: str) -> list[FinalResult]:
    if verdict == "failed":
        return [Error(_text(why), verdict)]
    if verdict == "regression" or inconclusive == "failure":
        return [Failure(_text(why), verdict)]
    return [Skipped(_text(why), verdict)] if inconclusive == "skipped" else []


def _text(text: str) -> str:
    """Text that XML can hold."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
