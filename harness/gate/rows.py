"""Check that a cell runs on both sides and delivers the same rows."""

from __future__ import annotations

from collections.abc import Mapping

from ..record.results import Sample, Verdict
from ..record.summary import RANKABLE_VERDICTS
from ..trial.fingerprint import comparable
from .outcome import ROWS, Finding
from .rule import GateVerdict
from .sides import ARMS, Arm, Side
from .spec import Cell

# Verdicts that a busy or small machine can cause without the change.
MACHINE_VERDICTS: tuple[Verdict, ...] = ("hang", "out-of-memory", "shm-full")
NEW, UNVERIFIED = "new: nothing to compare with", "not verified"


def failed_samples(cell: Cell, sides: Mapping[Arm, Side]) -> dict[Arm, Sample]:
    """A failed sample of the cell for each side that has one."""
    return {
        arm: sample
        for arm in ARMS
        for sample in sides[arm].samples(cell.trial)
        if sample.verdict not in (*RANKABLE_VERDICTS, "unverified")
    }


def check_rows(cell: Cell, sides: Mapping[Arm, Side]) -> Finding:
    """Check that a measured cell ran, and delivered the same correct rows on both sides."""
    failed = failed_samples(cell, sides)
    reasons = "; ".join(
        f"{arm}: {sample.verdict}: {sample.reasons.get('verdict', '')}"
        for arm, sample in failed.items()
    )
    if "base" in failed:
        return rows_finding(cell, "inconclusive", f"{reasons}; there is nothing to compare with")
    if failed and failed["head"].verdict in MACHINE_VERDICTS:
        return rows_finding(cell, "inconclusive", f"{reasons}; a busy machine can cause this, too")
    if failed and cell.control:
        why = f"{reasons}; a control runs base's code on both sides"
        return rows_finding(cell, "inconclusive", why)
    if failed:
        ran = failed["head"].verdict == "wrong-rows"
        return rows_finding(cell, "regression" if ran else "failed", reasons)
    return _compare_rows(cell, sides)


def _compare_rows(cell: Cell, sides: Mapping[Arm, Side]) -> Finding:
    """Compare the rows of both sides by count and, if known, by fingerprint."""
    base, head = (sides[arm].samples(cell.trial) for arm in ARMS)
    if not base:
        return rows_finding(cell, "pass", NEW)
    base_counts, head_counts = (
        {sample.rows for sample in samples if sample.rows is not None} for samples in (base, head)
    )
    if base_counts != head_counts:
        base_rows, head_rows = (
            " or ".join(f"{count:,}" for count in sorted(counts))
            for counts in (base_counts, head_counts)
        )
        why = f"head delivers {head_rows} rows, base {base_rows}"
        return rows_finding(cell, "regression", why)
    base_digests, head_digests = (
        {sample.fingerprint for sample in samples if sample.fingerprint} for samples in (base, head)
    )
    if not base_digests or not head_digests:
        return rows_finding(cell, "pass", UNVERIFIED)
    if base_digests != head_digests and comparable(*base_digests, *head_digests):
        return rows_finding(cell, "regression", "head delivers other rows than base")
    return rows_finding(cell, "pass")


def rows_finding(cell: Cell, verdict: GateVerdict, why: str = "") -> Finding:
    """The finding on a cell's rows."""
    return Finding(cell.name, ROWS, verdict, why=why, control=cell.control)
