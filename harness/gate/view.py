"""The gate's output: a verdict line, a table, Markdown for GitHub, and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Group, RenderableType

from ..record.emulated import label
from ..record.metrics import METRICS
from ..show.markdown import as_markdown_table, escape
from ..show.terminal import rich_table
from ..show.text import Text
from ..system.formats import MISSING
from ..system.units import counted
from .outcome import WORST_FIRST, Finding, GateOutcome, Judgement
from .spec import TIME

COLUMNS = ("Cell", "Metric", "Base", "Head", "Head / base", "n", "MDE", "Verdict")
SMALLEST_P = 0.001  # smaller p-values are shown as below it
LEGEND = (
    "Head / base: Hodges-Lehmann ratio with its 95% interval; above 1, head is slower. MDE "
    "(minimum detectable effect): the smallest slowdown that n pairs detect with 80% power."
)
MAX_MARKDOWN_BYTES = 60_000  # GitHub cuts comments at 65,536


def verdict_line(outcome: GateOutcome) -> str:
    """The verdict and its reasons, in one line; that storage was emulated, in a second sentence."""
    text = _verdict_and_reasons(outcome)
    return text if outcome.emulation is None else f"{text}. {label(outcome.emulation)}"


def _verdict_and_reasons(outcome: GateOutcome) -> str:
    judgement = outcome.judgement
    against = f"{outcome.head} against {outcome.base}"
    if judgement.doubts and judgement.verdict == "inconclusive":
        return f"INCONCLUSIVE: {'; '.join(judgement.doubts)} ({against})"
    reasons = [
        f"{finding.cell}: {_describe(finding)}"
        for finding in judgement.findings
        if finding.verdict == judgement.verdict != "pass"
    ]
    if reasons:
        more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        return f"{judgement.verdict.upper()}: {reasons[0]}{more} ({against})"
    cells = {one.cell for one in judgement.findings if one.compared is not None}
    if not cells:
        return f"PASS: measured {outcome.head}; there is no base to compare with"
    return f"PASS: {counted(len(cells), 'cell')}, none slower{_power(judgement)} ({against})"


def _power(judgement: Judgement) -> str:
    """The largest minimum detectable effect of the cells, in words; empty if one is unknown."""
    effects = [_mde(one) for one in judgement.findings if one.metric == TIME and one.compared]
    known = [effect for effect in effects if effect is not None]
    if not known or len(known) < len(effects):
        return ""
    return f"; a slowdown of {max(known) - 1:.0%} would have been detected with 80% power"


def _describe(finding: Finding) -> str:
    """A finding other than a pass, in words."""
    compared, rule = finding.compared, finding.rule
    if compared is None or rule is None:
        return f"{finding.metric}: {finding.why}"
    text = f"{METRICS[finding.metric].label} {_ratio(finding)}"
    if finding.why:
        return f"{text}, {finding.why}"
    if finding.verdict == "regression":
        p = compared.p if finding.p is None else finding.p
        p_text = f"p = {p:.1g}" if p >= SMALLEST_P else f"p < {SMALLEST_P:g}"
        return f"{text}, beyond {rule.threshold:g} with {p_text}"
    needed, unit = compared.pairs_needed(rule), compared.of
    undecided = f"{text}: too few {unit}s to decide, {compared.ratio.n}"
    if math.isfinite(needed):
        return f"{undecided}; about {needed:.0f} would be enough"
    # One pair has no spread, from which to tell how many are needed.
    return f"{undecided}; no number would be enough" if math.isfinite(compared.sd) else undecided


def _ratio(finding: Finding) -> str:
    if finding.compared is None:
        return MISSING
    ratio = finding.compared.ratio
    return f"{ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def rows(findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    """The rows of a table with `COLUMNS`."""
    return [
        (
            _cell(finding),
            _label(finding.metric),
            *_medians(finding),
            _ratio(finding),
            MISSING if finding.compared is None else str(finding.compared.ratio.n),
            _mde_text(finding),
            _verdict(finding),
        )
        for finding in findings
    ]


def _comparison(finding: Finding) -> str:
    """The name of the cell, and of the metric unless that is the time."""
    name = _cell(finding)
    return name if finding.metric == TIME else f"{name}: {_label(finding.metric)}"


def _cell(finding: Finding) -> str:
    return f"{finding.cell}{' (control)' if finding.control else ''}"


def _medians(finding: Finding) -> tuple[str, str]:
    if finding.compared is None:
        return MISSING, MISSING
    show = METRICS[finding.metric].format
    return show(finding.compared.base), show(finding.compared.head)


def _mde_text(finding: Finding) -> str:
    effect = _mde(finding)
    return MISSING if effect is None else f"{effect - 1:+.0%}"


def _mde(finding: Finding) -> float | None:
    """The minimum detectable effect, as a ratio; None if unknown."""
    compared, rule = finding.compared, finding.rule
    if compared is None or rule is None or not math.isfinite(compared.sd):
        return None
    return compared.detectable_effect(rule)


def _verdict(finding: Finding) -> str:
    if finding.compared is None and finding.why and finding.verdict == "pass":
        return "new" if finding.why.startswith("new") else MISSING  # nothing was judged
    faster = finding.compared is not None and finding.compared.is_faster
    return f"{finding.verdict}{', faster' if faster and finding.verdict == 'pass' else ''}"


def _table_findings(judgement: Judgement) -> list[Finding]:
    """The findings in the table: all times, and other metrics that did not pass."""
    return [one for one in judgement.findings if one.metric == TIME or one.verdict != "pass"]


def gate_view(outcome: GateOutcome) -> RenderableType:
    """The table and the remarks, without the verdict line."""
    parts: list[RenderableType] = []
    findings = _table_findings(outcome.judgement)
    if findings:
        # The metric joins the cell, to save a column.
        narrow = [
            (_comparison(finding), *row[2:])
            for finding, row in zip(findings, rows(findings), strict=True)
        ]
        columns = (COLUMNS[0], *COLUMNS[2:])
        parts.append(rich_table(None, columns, narrow, COLUMNS[:1], wrap_first=True))
        parts.append(Text(LEGEND, style="dim"))
    parts += [Text(line) for line in _remarks(outcome)]
    return Group(*parts)


def _remarks(outcome: GateOutcome) -> list[str]:
    """Remarks in addition to the table."""
    judgement = outcome.judgement
    passed = [one for one in judgement.findings if one.metric != TIME and one.verdict == "pass"]
    remarks = []
    not_passed = {one.metric for one in judgement.findings if one.verdict != "pass"}
    metrics = [one.metric for one in passed if not one.why and one.metric not in not_passed]
    if names := list(dict.fromkeys(map(_label, metrics))):
        remarks.append(f"Also passed: {', '.join(names)}.")
    remarks += [
        f"{one.cell}: {_label(one.metric)}: {one.why}."
        for one in (*passed, *_table_findings(judgement))
        if one.why
    ]
    remarks += [f"{doubt}." for doubt in judgement.doubts if judgement.verdict == "regression"]
    measured = outcome.results_path is not None
    if measured and not any(one.control for one in judgement.findings):
        remarks.append(
            "No cell is a control, so a change of the machine would look like a change of head. "
            "Add a cell with control = true, such as the original."
        )
    return remarks


def _label(metric: str) -> str:
    return METRICS[metric].label if metric in METRICS else metric


def gate_markdown(outcome: GateOutcome) -> str:
    """The outcome in Markdown, of at most `MAX_MARKDOWN_BYTES`."""
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
        if left_out := len(judgement.findings) - len(shown):
            table.append(f"Left out: {counted(left_out, 'row')}, passed ones first.")
        text = "\n\n".join([*head, *table, *tail]) + "\n"
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
        "emulated": msgspec.to_builtins(outcome.emulation),
    }


def _as_json(finding: Finding) -> dict[str, Any]:
    compared, rule = finding.compared, finding.rule
    document: dict[str, Any] = {
        "cell": finding.cell,
        "control": finding.control,
        "metric": finding.metric,
        "verdict": finding.verdict,
        "why": finding.why,
    }
    if compared is not None:
        document |= {
            "base": compared.base,
            "head": compared.head,
            "ratio": compared.ratio.estimate,
            "low": compared.ratio.low,
            "high": compared.ratio.high,
            "confidence": compared.ratio.confidence,
            "pairs": compared.ratio.n,
            "p": compared.p,
            "smallest_detectable": _mde(finding),
            "p_corrected": finding.p,
            "faster": compared.is_faster,
        }
    if rule is not None:
        document |= {"threshold": rule.threshold, "tolerate": rule.tolerate}
    return document


def failures(findings: Sequence[Finding]) -> list[tuple[Finding, str]]:
    """The findings other than a pass, each with its description."""
    return [(finding, _describe(finding)) for finding in findings if finding.verdict != "pass"]
