"""The gate's output: a verdict line, a table, Markdown for GitHub, and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType

from ..record.metrics import METRICS
from ..show.markdown import as_markdown_table, escape
from ..show.terminal import rich_table
from ..show.text import Text
from ..system.formats import MISSING
from ..system.units import counted
from .outcome import WORST_FIRST, Finding, GateOutcome, Judgement
from .spec import TIME

COLUMNS = ("Cell", "Metric", "Base", "Head", "Head / base", "n", "MDE", "Verdict")
SMALLEST_P = 0.001  # smaller ones are shown as below it
LEGEND = (
    "Head / base: Hodges-Lehmann ratio with its 95% interval; above 1, head is slower. MDE "
    "(minimum detectable effect): the smallest slowdown that n pairs detect with 80% power."
)
MAX_MARKDOWN_BYTES = 60_000  # GitHub cuts comments at 65,536


def verdict_line(outcome: GateOutcome) -> str:
    """The verdict and its reasons, in one line."""
    judgement = outcome.judgement
    against = f"{outcome.head} against {outcome.base}"
    if judgement.doubts and judgement.verdict == "inconclusive":
        return f"INCONCLUSIVE: {'; '.join(judgement.doubts)} ({against})"
    told = [
        f"{one.cell}: {_in_words(one)}"
        for one in judgement.findings
        if one.verdict == judgement.verdict != "pass"
    ]
    if told:
        more = f", and {len(told) - 1} more" if told[1:] else ""
        return f"{judgement.verdict.upper()}: {told[0]}{more} ({against})"
    cells = {one.cell for one in judgement.findings if one.compared is not None}
    if not cells:
        return f"PASS: measured {outcome.head}; there is no base to compare with"
    return f"PASS: {counted(len(cells), 'cell')}, none slower{_would_see(judgement)} ({against})"


def _would_see(judgement: Judgement) -> str:
    """The largest minimum detectable effect of the cells, in words; empty if one is unknown."""
    found = [_found(one) for one in judgement.findings if one.metric == TIME and one.compared]
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return ""
    return f"; a slowdown of {max(known) - 1:.0%} would have been detected with 80% power"


def _in_words(finding: Finding) -> str:
    """A finding other than a pass, in words."""
    one, rule = finding.compared, finding.rule
    if one is None or rule is None:
        return f"{finding.metric}: {finding.why}"
    text = f"{METRICS[finding.metric].label} {_ratio(finding)}"
    if finding.why:
        return f"{text}, {finding.why}"
    if finding.verdict == "regression":
        p = one.p if finding.p is None else finding.p
        surely = f"p = {p:.1g}" if p >= SMALLEST_P else f"p < {SMALLEST_P:g}"
        return f"{text}, beyond {rule.threshold:g} with {surely}"
    needed = one.pairs_needed(rule)
    enough = (
        f"about {needed:.0f} {one.of}s would"
        if math.isfinite(needed)
        else f"no number of {one.of}s would"
    )
    return f"{text}: {counted(one.ratio.n, one.of)} are too few to decide, {enough}"


def _ratio(finding: Finding) -> str:
    if finding.compared is None:
        return MISSING
    ratio = finding.compared.ratio
    return f"{ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def rows(findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    """The rows of a table with `COLUMNS`."""
    return [
        (
            _cell(one),
            _label(one.metric),
            *_sides(one),
            _ratio(one),
            MISSING if one.compared is None else str(one.compared.ratio.n),
            _smallest(one),
            _said(one),
        )
        for one in findings
    ]


def _named(finding: Finding) -> str:
    """The name of the cell, and of the metric unless that is the time."""
    name = _cell(finding)
    return name if finding.metric == TIME else f"{name}: {_label(finding.metric)}"


def _cell(finding: Finding) -> str:
    return f"{finding.cell}{' (control)' if finding.control else ''}"


def _sides(finding: Finding) -> tuple[str, str]:
    if finding.compared is None:
        return MISSING, MISSING
    shown = METRICS[finding.metric].format
    return shown(finding.compared.base), shown(finding.compared.head)


def _smallest(finding: Finding) -> str:
    found = _found(finding)
    return MISSING if found is None else f"{found - 1:+.0%}"


def _found(finding: Finding) -> float | None:
    """The minimum detectable effect, as a ratio; None if unknown."""
    one, rule = finding.compared, finding.rule
    if one is None or rule is None or not math.isfinite(one.sd):
        return None
    return one.smallest_found(rule)


def _said(finding: Finding) -> str:
    if finding.compared is None and finding.why and finding.verdict == "pass":
        return "new" if finding.why.startswith("new") else MISSING  # nothing was judged
    faster = finding.compared is not None and finding.compared.is_faster
    return f"{finding.verdict}{', faster' if faster and finding.verdict == 'pass' else ''}"


def _shown(judgement: Judgement) -> list[Finding]:
    """The findings in a table: all times, and other metrics that did not pass."""
    return [one for one in judgement.findings if one.metric == TIME or one.verdict != "pass"]


def gate_view(outcome: GateOutcome) -> RenderableType:
    """The table and the remarks, without the verdict line."""
    judgement = outcome.judgement
    parts: list[RenderableType] = []
    shown = _shown(judgement)
    if shown:
        narrow = [(_named(one), *cells[2:]) for one, cells in zip(shown, rows(shown), strict=True)]
        columns = (COLUMNS[0], *COLUMNS[2:])
        parts.append(rich_table(None, columns, narrow, COLUMNS[:1], wrap_first=True))
        parts.append(Text(LEGEND, style="dim"))
    parts += [Text(line) for line in _remarks(outcome)]
    return Group(*parts)


def _remarks(outcome: GateOutcome) -> list[str]:
    """Remarks on the findings that the table does not show."""
    judgement = outcome.judgement
    rest = [one for one in judgement.findings if one.metric != TIME and one.verdict == "pass"]
    told = []
    wrong = {one.metric for one in judgement.findings if one.verdict != "pass"}
    plain = [one.metric for one in rest if not one.why and one.metric not in wrong]
    if names := list(dict.fromkeys(map(_label, plain))):
        told.append(f"Also passed: {', '.join(names)}.")
    told += [f"{one.cell}: {_label(one.metric)}: {one.why}." for one in rest if one.why]
    told += [
        f"{one.cell}: {_label(one.metric)}: {one.why}." for one in _shown(judgement) if one.why
    ]
    told += [f"{doubt}." for doubt in judgement.doubts if judgement.verdict == "regression"]
    measured = outcome.results_path is not None
    if measured and not any(one.control for one in judgement.findings):
        told.append(
            "No cell is a control: a machine that changed between the sides would look like the "
            "change. Add one with control = true, such as the original."
        )
    return told


def _label(metric: str) -> str:
    return METRICS[metric].label if metric in METRICS else metric


def gate_markdown(outcome: GateOutcome) -> str:
    """The outcome in Markdown, cut at 60 KB."""
    judgement = outcome.judgement
    sign = {"pass": "✅", "inconclusive": "❔"}.get(judgement.verdict, "❌")
    head = [f"### {sign} feedrate gate", escape(verdict_line(outcome))]
    tail = [f"<sub>{escape(LEGEND)}</sub>", *map(escape, _remarks(outcome))]
    tail += [escape(f"Note: {note}") for note in outcome.notes]
    shown = sorted(
        judgement.findings, key=lambda one: (WORST_FIRST.index(one.verdict), one.metric != TIME)
    )
    while True:
        table = [as_markdown_table(COLUMNS, rows(shown))] if shown else []
        left_out = len(judgement.findings) - len(shown)
        cut = (
            [f"{counted(left_out, 'row')} more, those that passed first, are left out."]
            if left_out
            else []
        )
        text = "\n\n".join([*head, *table, *cut, *tail]) + "\n"
        if len(text.encode()) <= MAX_MARKDOWN_BYTES or not shown:
            return text.encode()[:MAX_MARKDOWN_BYTES].decode(errors="ignore")
        shown = shown[: len(shown) * 3 // 4]


def gate_json(outcome: GateOutcome) -> dict[str, Any]:
    """The outcome as values for JSON."""
    return {
        "verdict": outcome.judgement.verdict,
        "line": verdict_line(outcome),
        "base": outcome.base,
        "head": outcome.head,
        "results": outcome.results_path and str(outcome.results_path),
        "doubts": outcome.judgement.doubts,
        "findings": [_as_json(one) for one in outcome.judgement.findings],
        "notes": outcome.notes,
    }


def _as_json(finding: Finding) -> dict[str, Any]:
    one, rule = finding.compared, finding.rule
    told: dict[str, Any] = {
        "cell": finding.cell,
        "control": finding.control,
        "metric": finding.metric,
        "verdict": finding.verdict,
        "why": finding.why,
    }
    if one is not None:
        told |= {
            "base": one.base,
            "head": one.head,
            "ratio": one.ratio.estimate,
            "low": one.ratio.low,
            "high": one.ratio.high,
            "confidence": one.ratio.confidence,
            "pairs": one.ratio.n,
            "p": one.p,
            "smallest_detectable": _found(finding),
            "p_corrected": finding.p,
            "faster": one.is_faster,
        }
    if rule is not None:
        told |= {"threshold": rule.threshold, "tolerate": rule.tolerate}
    return told


def failures(findings: Sequence[Finding]) -> list[tuple[Finding, str]]:
    """The findings other than a pass, each with its description."""
    return [(one, _in_words(one)) for one in findings if one.verdict != "pass"]
