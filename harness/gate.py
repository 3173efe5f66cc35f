"""The gate: is head slower than base? Measured in pairs of launches, judged by `gate_rule`."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from .fingerprint import comparable
from .gate_rule import (
    ALPHA,
    CONFIRM_PAIRS,
    LOOK_ALPHA,
    LOOKS,
    SCREEN_PAIRS,
    Compared,
    GateVerdict,
    Judged,
    Rule,
    compare_pairs,
    differs,
    judge,
    needs_another_look,
    needs_confirming,
)
from .gate_spec import TIME, Cell
from .metrics import METRICS, Passes, format_ratio
from .results import Phase, Sample, Verdict
from .scheduler import Keeper, Progress, Scheduler, Silent
from .spec import Trial
from .statistics import median
from .summary import RIGHT

Arm = Literal["base", "head"]
ARMS: tuple[Arm, Arm] = ("base", "head")
ROWS = "rows"  # stands among the metrics for whether the rows are right
# A busy or a small machine ends trials like this; the change need not have done it.
OF_THE_MACHINE: tuple[Verdict, ...] = ("hang", "out-of-memory", "shm-full")
NEW, UNMEASURED, UNVERIFIED = "new: nothing to compare with", "not measured", "not verified"
WARM_UP_ROUND = 0  # discarded: what is cold then is cold for neither revision's sake

Key = tuple[str, str]
"""A cell's name and a metric's."""
Compare = Callable[[Mapping[int, float], Mapping[int, float]], Compared | None]
"""Base with head, by round; None where there is nothing to compare."""


@dataclass(frozen=True)
class ArmJournal:
    """A journal that is told which side its samples are of."""

    journal: Keeper
    arm: Arm

    def append(self, sample: Sample) -> None:
        """Keep a sample of this side."""
        self.journal.append(msgspec.structs.replace(sample, arm=self.arm))


class Side(Protocol):
    """Base or head."""

    def measure(self, trial: Trial, phase: Phase, turn: int) -> None:
        """Launch a trial once."""
        ...

    def samples(self, trial: Trial) -> Sequence[Sample]:
        """What is known of a trial."""
        ...

    def values(self, trial: Trial, phase: Phase, metric: str) -> Mapping[int, float]:
        """A metric by round, without the round that is discarded."""
        ...


@dataclass(frozen=True)
class Measured:
    """A side that is measured now."""

    scheduler: Scheduler

    def measure(self, trial: Trial, phase: Phase, turn: int) -> None:
        """Launch a trial once."""
        self.scheduler.measure_new(trial, phase, turn)

    def samples(self, trial: Trial) -> Sequence[Sample]:
        """What was measured."""
        return self.scheduler.samples_of(trial)

    def values(self, trial: Trial, phase: Phase, metric: str) -> Mapping[int, float]:
        """A metric by round of a phase, without the round that is discarded."""
        samples = (one for one in self.samples(trial) if one.phase == phase)
        return by_round((one for one in samples if one.round != WARM_UP_ROUND), metric)


@dataclass(frozen=True)
class Stored:
    """A side that was measured before."""

    known: Sequence[Sample]

    def measure(self, trial: Trial, phase: Phase, turn: int) -> None:
        """Nothing: what is known is all."""

    def samples(self, trial: Trial) -> Sequence[Sample]:
        """What is known of a gate's head, or of a tune's launches, which have no sides."""
        known = [one for one in self.known if one.trial == trial.id and one.arm != "base"]
        return [one for one in known if one.arm is not None or one.phase == "confirming"]

    def values(self, trial: Trial, phase: Phase, metric: str) -> Mapping[int, float]:
        """A metric of all launches, whatever phase they were of, one round each."""
        del phase
        counted = [one for one in self.samples(trial) if one.round != WARM_UP_ROUND]
        values: list[float] = []
        for one in ("screening", "confirming"):
            values += by_round((each for each in counted if each.phase == one), metric).values()
        return dict(enumerate(values))


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


@dataclass
class Gate:
    """Measures cells in pairs of launches, base and head by turns, and judges them.

    Attributes:
        cells: what is compared.
        sides: base and head.
        compare: base with head, by round.
        progress: gets told what happens.
        seed: of the order of the cells.
    """

    cells: Sequence[Cell]
    sides: Mapping[Arm, Side]
    compare: Compare = compare_pairs
    progress: Progress = field(default_factory=Silent)
    seed: int = 0

    def run(self) -> Judgement:
        """Screen all cells in pairs, confirm those that need it in fresh ones, and judge."""
        self._measure(self.cells, "screening", range(SCREEN_PAIRS + 1))
        screened = self._compared(self.cells, "screening")
        needy = [key for key, one in screened.items() if self._needs_confirming(key, one)]
        confirmed, judged = self._confirm(needy)
        doubts = [
            doubt
            for key, one in confirmed.items()
            if (doubt := self._doubt(key, one)) and differs(one, self._rule(key))
        ]
        passed = {key: Judged("pass", one.p) for key, one in screened.items()}
        return self._judgement(screened | confirmed, passed | judged, doubts)

    def run_against_before(self) -> Judgement:
        """Measure head, and judge it by what is known of base.

        There are no pairs and nothing is fresh, so nothing is screened: all comparisons are one
        family. What the machine does to all of them alike looks like the change; a control that is
        off by more than its threshold, whether surely or not, makes times incomparable.
        """
        self.record()
        compared = self._compared(self.cells, "confirming")
        passed = {key: Judged("pass", one.p) for key, one in compared.items()}
        judged = passed | self._judged_family(compared, ALPHA)
        doubts = [doubt for key, one in compared.items() if (doubt := self._doubt(key, one))]
        return self._judgement(compared, judged, doubts)

    def record(self) -> None:
        """Measure head as often as to confirm."""
        self._measure(self.cells, "confirming", range(CONFIRM_PAIRS + 1))

    def _needs_confirming(self, key: Key, screened: Compared) -> bool:
        return needs_confirming(screened, self._rule(key), both_ways=self._cell(key).control)

    def _confirm(self, keys: Sequence[Key]) -> tuple[dict[Key, Compared], dict[Key, Judged]]:
        """Fresh pairs for these comparisons, and as many again where those do not tell."""
        compared: dict[Key, Compared] = {}
        judged: dict[Key, Judged] = {}
        again = list(keys)
        for look in range(LOOKS):
            cells = [cell for cell in self.cells if any(cell.name == name for name, _ in again)]
            first = 1 + look * CONFIRM_PAIRS
            self._measure(cells, "confirming", range(first, first + CONFIRM_PAIRS))
            now = self._compared(cells, "confirming")
            compared |= {key: now[key] for key in again if key in now}
            judged = self._judged(compared) | {
                key: one for key, one in judged.items() if one.verdict == "regression"
            }
            again = [key for key, one in compared.items() if self._is_open(key, one, judged[key])]
        return compared, judged

    def _judged(self, compared: Mapping[Key, Compared]) -> dict[Key, Judged]:
        """The verdicts at one look: of a control only whether it can be told to be well."""
        met = {key: self._rule(key).is_met(one) for key, one in compared.items()}
        well = {
            key: Judged("pass" if met[key] else "inconclusive", one.p)
            for key, one in compared.items()
        }
        return well | self._judged_family(compared, LOOK_ALPHA)

    def _judged_family(self, compared: Mapping[Key, Compared], alpha: float) -> dict[Key, Judged]:
        """The verdicts on those in which slowdowns are looked for: no change touches a control."""
        family = {key: one for key, one in compared.items() if not self._cell(key).control}
        return judge(family, {key: self._rule(key) for key in family}, alpha)

    def _is_open(self, key: Key, compared: Compared, judged: Judged) -> bool:
        rule = self._rule(key)
        if not self._cell(key).control:
            return needs_another_look(judged.verdict, compared, rule)
        off = self._doubt(key, compared) or judged.verdict == "inconclusive"
        return bool(off) and not differs(compared, rule)

    def _doubt(self, key: Key, compared: Compared) -> str:
        """What a control says against the machine, if it is off by more than its threshold."""
        cell, ratio = self._cell(key), compared.ratio.estimate
        if not cell.control or max(ratio, 1 / ratio) <= self._rule(key).threshold:
            return ""
        return (
            f"{cell.name} took {format_ratio(ratio)} as long as base, although the change cannot "
            "touch it"
        )

    def _measure(self, cells: Sequence[Cell], phase: Phase, rounds: range) -> None:
        if not cells:
            return
        self.progress.phase(phase, len(rounds) * len(cells) * len(ARMS))
        for turn in rounds:
            order = list(cells)
            random.Random(f"{self.seed} {phase} {turn}").shuffle(order)  # noqa: S311 - no secret
            for cell in order:
                # A B, B A: whatever drifts meanwhile hits both sides alike.
                for arm in ARMS if turn % 2 == 0 else ARMS[::-1]:
                    if not self._failures(cell):
                        self.sides[arm].measure(cell.trial, phase, turn)

    def _failures(self, cell: Cell) -> dict[Arm, Sample]:
        """By side, a sample that tells what went wrong with the cell."""
        return {
            arm: bad
            for arm in ARMS
            for bad in self.sides[arm].samples(cell.trial)
            if bad.verdict not in (*RIGHT, "unverified")
        }

    def _compared(self, cells: Iterable[Cell], phase: Phase) -> dict[Key, Compared]:
        """Head against base, by each metric that both sides have."""
        found = {}
        for cell in cells:
            for metric in cell.rules:
                base, head = (self.sides[arm].values(cell.trial, phase, metric) for arm in ARMS)
                if (one := self.compare(base, head)) is not None:
                    found[cell.name, metric] = one
        return found

    def _cell(self, key: Key) -> Cell:
        return next(cell for cell in self.cells if cell.name == key[0])

    def _rule(self, key: Key) -> Rule:
        return self._cell(key).rules[key[1]]

    def _judgement(
        self,
        compared: Mapping[Key, Compared],
        judged: Mapping[Key, Judged],
        doubts: Sequence[str],
    ) -> Judgement:
        """The verdicts on all cells, taken together."""
        findings = []
        for cell in self.cells:
            findings.append(self._rows(cell))
            for metric, rule in cell.rules.items():
                key = cell.name, metric
                if key in compared:
                    one = judged[key]
                    findings.append(
                        Finding(*key, one.verdict, compared[key], rule, "", cell.control, one.p)
                    )
                else:
                    findings.append(self._unmeasured(cell, metric, rule))
        return taken_together(findings, doubts)

    def _unmeasured(self, cell: Cell, metric: str, rule: Rule) -> Finding:
        """What cannot be compared: no failure, unless it was asked for."""
        if not self.sides["base"].samples(cell.trial):
            return Finding(cell.name, metric, "pass", None, rule, NEW, cell.control)
        wanted = metric == TIME or metric in cell.asked
        verdict: GateVerdict = "inconclusive" if wanted else "pass"
        return Finding(cell.name, metric, verdict, None, rule, UNMEASURED, cell.control)

    def _rows(self, cell: Cell) -> Finding:
        """Whether the cell ran, and delivered the same right rows on both sides."""
        wrong = self._failures(cell)
        told = "; ".join(
            f"{arm}: {bad.verdict}: {bad.reasons.get('verdict', '')}" for arm, bad in wrong.items()
        )
        if "base" in wrong:
            return _rows_of(cell, "inconclusive", f"{told}; there is nothing to compare with")
        if wrong and wrong["head"].verdict in OF_THE_MACHINE:
            return _rows_of(cell, "inconclusive", f"{told}; a busy machine does so, too")
        if wrong:
            return _rows_of(cell, "regression", told)
        return self._same_rows(cell)

    def _same_rows(self, cell: Cell) -> Finding:
        """Whether both sides delivered the same rows, as far as that can be told."""
        base, head = (self.sides[arm].samples(cell.trial) for arm in ARMS)
        if not base:
            return _rows_of(cell, "pass", NEW)
        counts = [{one.rows for one in side if one.rows is not None} for side in (base, head)]
        if counts[0] != counts[1]:
            theirs, mine = (" or ".join(f"{n:,}" for n in sorted(side)) for side in counts)
            return _rows_of(cell, "regression", f"head delivers {mine} rows, base {theirs}")
        digests = [{one.fingerprint for one in side if one.fingerprint} for side in (base, head)]
        if not all(digests):
            return _rows_of(cell, "pass", UNVERIFIED)
        if digests[0] != digests[1] and comparable(*digests[0], *digests[1]):
            return _rows_of(cell, "regression", "head delivers other rows than base")
        return _rows_of(cell, "pass")


def taken_together(findings: Sequence[Finding], doubts: Sequence[str] = ()) -> Judgement:
    """The verdict on the whole: times on a machine that changed cannot be told."""
    told = [_doubted(one) if doubts else one for one in findings]
    said = {one.verdict for one in told}
    whole: GateVerdict = "inconclusive" if doubts or "inconclusive" in said else "pass"
    return Judgement("regression" if "regression" in said else whole, told, list(doubts))


def _rows_of(cell: Cell, verdict: GateVerdict, why: str = "") -> Finding:
    return Finding(cell.name, ROWS, verdict, why=why, control=cell.control)


def _doubted(finding: Finding) -> Finding:
    """A slowdown that is as likely the machine's."""
    if finding.verdict != "regression" or not finding.is_of_time:
        return finding
    return replace(finding, verdict="inconclusive", why="times cannot be compared")


def by_round(samples: Iterable[Sample], metric: str) -> dict[int, float]:
    """A metric of each round, over its passes as `Metric.passes` says.

    A round in which it is not known, or nothing, is left out.
    """
    found: dict[int, list[float | None]] = defaultdict(list)
    for sample in samples:
        found[sample.round].append(sample.metrics.get(metric))
    ways: dict[Passes, Callable[[list[float]], float]] = {
        "sum": sum,
        "highest": max,
        "middle": median,
    }
    known = {
        turn: ways[METRICS[metric].passes]([value for value in values if value is not None])
        for turn, values in found.items()
        if None not in values
    }
    return {turn: value for turn, value in known.items() if value > 0}
