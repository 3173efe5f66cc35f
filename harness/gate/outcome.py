"""The outcome of a gate: findings on each comparison, and the verdict on all together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...loaders.remote.emulation import Emulation
from ..record.metrics import METRICS
from .rule import Compared, GateVerdict, Rule

WORST_FIRST: tuple[GateVerdict, ...] = ("failed", "regression", "inconclusive", "pass")
ROWS = "rows"  # in place of a metric: whether the rows are right


@dataclass(frozen=True)
class Finding:
    """The result of one comparison.

    Attributes:
        cell: the name of the cell.
        metric: the compared metric; `rows`: whether the rows are right and all runs succeeded.
        verdict: of this comparison alone.
        compared: head against base; None if there was nothing to compare.
        rule: the rule that judged it; None for rows.
        why: the reason for the verdict, or a remark.
        control: whether the change cannot affect the cell.
        p: the p-value behind the verdict, corrected for all confirmed comparisons; None if there
            is none.
    """

    cell: str
    metric: str
    verdict: GateVerdict
    compared: Compared | None = None
    rule: Rule | None = None
    why: str = ""
    control: bool = False
    p: float | None = None

    @property
    def is_of_time(self) -> bool:
        """Whether it compares times, which the machine can change."""
        return self.metric in METRICS and METRICS[self.metric].unit == "s"


@dataclass(frozen=True)
class Judgement:
    """The gate's verdict with its reasons.

    Attributes:
        verdict: of the whole gate.
        findings: of each comparison, in the order of the cells.
        doubts: reasons why times cannot be compared, such as a control that differs.
    """

    verdict: GateVerdict
    findings: list[Finding]
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class GateOutcome:
    """The outcome of a gate.

    Attributes:
        judgement: the verdict with all findings.
        base: the name of the side that head was compared with.
        head: the name of the side that was judged.
        results_path: the journal with all samples; None if none was measured.
        notes: further remarks for the user.
        emulation: the storage that was emulated, if any.
    """

    judgement: Judgement
    base: str
    head: str
    results_path: Path | None = None
    notes: list[str] = field(default_factory=list)
    emulation: Emulation | None = None


def combine_findings(findings: Sequence[Finding], doubts: Sequence[str] = ()) -> Judgement:
    """Judge all findings together; if times are in doubt, slowdowns become inconclusive."""
    findings = [_as_inconclusive(one) if doubts else one for one in findings]
    verdicts: set[GateVerdict] = {one.verdict for one in findings}
    if doubts:
        verdicts.add("inconclusive")
    worst: GateVerdict = next((one for one in WORST_FIRST if one in verdicts), "pass")
    return Judgement(worst, findings, list(doubts))


def _as_inconclusive(finding: Finding) -> Finding:
    """Make a slowdown inconclusive: the machine may be its cause."""
    if finding.verdict != "regression" or not finding.is_of_time:
        return finding
    return replace(finding, verdict="inconclusive", why="times cannot be compared")
