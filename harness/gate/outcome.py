"""What a gate says: findings on each comparison, and the verdict on all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..record.metrics import METRICS
from .rule import Compared, GateVerdict, Rule

WORST_FIRST: tuple[GateVerdict, ...] = ("failed", "regression", "inconclusive", "pass")
ROWS = "rows"  # stands among the metrics for whether the rows are right


@dataclass(frozen=True)
class Finding:
    """What became of one comparison.

    Attributes:
        cell: the name of what was compared.
        metric: by what; `rows` stands for whether the rows are right and all runs ended well.
        verdict: of this comparison alone.
        compared: head against base; None where there was nothing to compare.
        rule: what it was judged by; None for rows.
        why: what else there is to say.
        control: whether it is of a cell that the change cannot touch.
        p: that the verdict rests on, corrected for all that were confirmed; None where none was.
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
        """Whether another machine could have made the difference."""
        return self.metric in METRICS and METRICS[self.metric].unit == "s"


@dataclass(frozen=True)
class Judgement:
    """What the gate says.

    Attributes:
        verdict: of the whole.
        findings: of each comparison, in the order of the cells.
        doubts: why times cannot be compared, such as a control that differs; most often none.
    """

    verdict: GateVerdict
    findings: list[Finding]
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class GateOutcome:
    """What a gate came to.

    Attributes:
        judgement: the verdict with all findings.
        base: what head was compared with.
        head: what was judged.
        results_path: the journal with all samples; None where none was measured.
        notes: what else the user should know.
    """

    judgement: Judgement
    base: str
    head: str
    results_path: Path | None = None
    notes: list[str] = field(default_factory=list)


def taken_together(findings: Sequence[Finding], doubts: Sequence[str] = ()) -> Judgement:
    """The verdict on the whole: times on a machine that changed cannot be told."""
    told = [_doubted(one) if doubts else one for one in findings]
    said: set[GateVerdict] = {one.verdict for one in told}
    if doubts:
        said.add("inconclusive")
    whole: GateVerdict = next((one for one in WORST_FIRST if one in said), "pass")
    return Judgement(whole, told, list(doubts))


def _doubted(finding: Finding) -> Finding:
    """A slowdown that is as likely the machine's."""
    if finding.verdict != "regression" or not finding.is_of_time:
        return finding
    return replace(finding, verdict="inconclusive", why="times cannot be compared")
