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
    CONFIRM_PAIRS,
    LOOKS,
    SCREEN_PAIRS,
    Compared,
    GateVerdict,
    Rule,
    compare_pairs,
    differs,
    judge,
    needs_another_look,
    needs_confirming,
)
from .gate_spec import TIME, Cell
from .metrics import format_ratio
from .results import Phase, Sample
from .scheduler import Keeper, Progress, Scheduler, Silent
from .spec import Trial
from .statistics import median
from .summary import RIGHT

Arm = Literal["base", "head"]
ARMS: tuple[Arm, Arm] = ("base", "head")
ROWS = "rows"  # stands among the metrics for whether the rows are right
ADDING_UP = ("wall_s", "cpu_s", "storage_read_bytes", "syscall_read_bytes")
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
        """What is known of head, or of a sweep's launches, which have no sides."""
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
    """

    cell: str
    metric: str
    verdict: GateVerdict
    compared: Compared | None = None
    rule: Rule | None = None
    why: str = ""
    control: bool = False


@dataclass(frozen=True)
class Judgement:
    """What the gate says.

    Attributes:
        verdict: of the whole.
        findings: of each comparison, in the order of the cells.
        contaminated: what the controls say against the machine; nothing if all is well.
    """

    verdict: GateVerdict
    findings: list[Finding]
    contaminated: list[str] = field(default_factory=list)


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
        """Screen all cells, confirm those that need it, and judge."""
        self._measure(self.cells, "screening", range(SCREEN_PAIRS + 1))
        screened = self._compared(self.cells, "screening")
        needy = [key for key, one in screened.items() if self._needs_confirming(key, one)]
        confirmed, verdicts = self._confirm(needy)
        passed: dict[Key, GateVerdict] = dict.fromkeys(screened, "pass")
        return self._judgement(screened | confirmed, passed | verdicts, confirmed.keys())

    def record(self) -> None:
        """Measure head as often as to confirm, for others to be compared with."""
        self._measure(self.cells, "confirming", range(CONFIRM_PAIRS + 1))

    def _needs_confirming(self, key: Key, screened: Compared) -> bool:
        cell = self._cell(key)
        return needs_confirming(screened, cell.rules[key[1]], both_ways=cell.control)

    def _confirm(self, keys: Sequence[Key]) -> tuple[dict[Key, Compared], dict[Key, GateVerdict]]:
        """Fresh pairs for these comparisons, and as many again where those do not tell."""
        rules = {key: self._cell(key).rules[key[1]] for key in keys}
        compared: dict[Key, Compared] = {}
        verdicts: dict[Key, GateVerdict] = {}
        again = list(keys)
        for look in range(LOOKS):
            cells = [cell for cell in self.cells if any(cell.name == name for name, _ in again)]
            if not cells:
                break
            first = 1 + look * CONFIRM_PAIRS
            self._measure(cells, "confirming", range(first, first + CONFIRM_PAIRS))
            now = self._compared(cells, "confirming")
            compared |= {key: now[key] for key in again if key in now}
            # What a change cannot touch is not of the family in which slowdowns are looked for.
            family = {key: one for key, one in compared.items() if not self._cell(key).control}
            slower = {key for key, verdict in verdicts.items() if verdict == "regression"}
            verdicts = judge(family, rules) | dict.fromkeys(slower, "regression")
            again = [
                key
                for key, one in compared.items()
                if needs_another_look(verdicts.get(key, "pass"), one, rules[key])
            ]
        return compared, verdicts

    def _measure(self, cells: Sequence[Cell], phase: Phase, rounds: range) -> None:
        self.progress.phase(phase, len(rounds) * len(cells) * len(ARMS))
        for turn in rounds:
            order = list(cells)
            random.Random(f"{self.seed} {phase} {turn}").shuffle(order)  # noqa: S311 - no secret
            for cell in order:
                # A B, B A: whatever drifts meanwhile hits both sides alike.
                for arm in ARMS if turn % 2 == 0 else ARMS[::-1]:
                    if not self._failures(cell):
                        self.sides[arm].measure(cell.trial, phase, turn)

    def _failures(self, cell: Cell) -> dict[Arm, str]:
        """By side, what went wrong with the cell."""
        return {
            arm: f"{bad.verdict}: {bad.reasons.get('verdict', '')}"
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

    def _judgement(
        self,
        compared: Mapping[Key, Compared],
        verdicts: Mapping[Key, GateVerdict],
        confirmed: Iterable[Key],
    ) -> Judgement:
        """The verdicts on all cells, taken together."""
        contaminated = [
            f"{cell.name} took {format_ratio(compared[key].ratio.estimate)} as long as base, "
            "although the change cannot touch it"
            for key in confirmed
            if (cell := self._cell(key)).control and differs(compared[key], cell.rules[key[1]])
        ]
        findings = []
        for cell in self.cells:
            findings.append(self._rows(cell))
            for metric, rule in cell.rules.items():
                one, verdict = compared.get((cell.name, metric)), verdicts.get((cell.name, metric))
                if one is None or verdict is None:
                    why = "" if findings[-1].why else "not measured on both sides"
                    verdict = "inconclusive" if metric == TIME else "pass"
                    findings.append(
                        Finding(cell.name, metric, verdict, None, rule, why, cell.control)
                    )
                else:
                    findings.append(
                        Finding(cell.name, metric, verdict, one, rule, "", cell.control)
                    )
        return taken_together(findings, contaminated)

    def _rows(self, cell: Cell) -> Finding:
        """Whether the cell ran, and delivered the same right rows on both sides."""
        wrong = self._failures(cell)
        told = "; ".join(f"{arm}: {what}" for arm, what in wrong.items())
        if "base" in wrong:
            return _rows_of(cell, "inconclusive", f"{told}; there is nothing to compare")
        if wrong:
            return _rows_of(cell, "regression", told)
        base, head = (
            {
                one.fingerprint
                for one in self.sides[arm].samples(cell.trial)
                if one.fingerprint is not None
            }
            for arm in ARMS
        )
        if not (base and head):
            return _rows_of(cell, "pass", "not verified")
        if base != head and comparable(*base, *head):
            return _rows_of(cell, "regression", "head delivers other rows than base")
        return _rows_of(cell, "pass")


def taken_together(findings: Sequence[Finding], contaminated: Sequence[str] = ()) -> Judgement:
    """The verdict on the whole: what is slower on a machine that changed cannot be told."""
    told = [_doubted(one) for one in findings] if contaminated else list(findings)
    said = {one.verdict for one in told}
    whole: GateVerdict = "inconclusive" if contaminated or "inconclusive" in said else "pass"
    return Judgement("regression" if "regression" in said else whole, told, list(contaminated))


def _rows_of(cell: Cell, verdict: GateVerdict, why: str = "") -> Finding:
    return Finding(cell.name, ROWS, verdict, why=why, control=cell.control)


def _doubted(finding: Finding) -> Finding:
    """A slowdown by time that is as likely the machine's."""
    if finding.verdict != "regression" or finding.metric == ROWS:
        return finding
    return replace(finding, verdict="inconclusive", why="the machine differs, too")


def by_round(samples: Iterable[Sample], metric: str) -> dict[int, float]:
    """A metric of each round: its sum over the passes where it adds up, of a peak the highest.

    Of anything else it is the median. A round in which it is not known, or nothing, is left out.
    """
    found: dict[int, list[float | None]] = defaultdict(list)
    for sample in samples:
        found[sample.round].append(sample.metrics.get(metric))
    of: Callable[[list[float]], float] = median
    if metric in ADDING_UP:
        of = sum
    elif "peak" in metric:
        of = max
    known = {
        turn: of([value for value in values if value is not None])
        for turn, values in found.items()
        if None not in values
    }
    return {turn: value for turn, value in known.items() if value > 0}
