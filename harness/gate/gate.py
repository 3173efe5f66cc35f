"""The gate: is head slower than base? It measures pairs of launches, and judges them by `rule`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ..record.metrics import MEMORY_METRICS, METRICS, Metric
from ..record.results import Phase, Sample, Verdict
from ..record.summary import RANKABLE_VERDICTS, are_alike, walls_of
from ..show.progress import Progress, Silent
from ..system.formats import format_ratio
from ..trial.fingerprint import comparable
from .outcome import ROWS, Finding, Judgement, combine_findings
from .rule import (
    CONFIRM_PAIRS,
    LOOKS,
    MEMORY_PAIRS,
    SCREEN_PAIRS,
    TESTED_ALPHA,
    TESTED_LOOK_ALPHA,
    Compared,
    GateVerdict,
    Judged,
    Rule,
    compare_pairs,
    compare_steady,
    compare_unpaired,
    differs,
    is_shifted,
    judge,
    needs_another_look,
    needs_confirming,
    seems_shifted,
)
from .sides import ARMS, WARM_UP_ROUND, Arm, Measured, Side, Stored
from .spec import TIME, Cell

# Verdicts that a busy or a small machine can cause without the change.
MACHINE_VERDICTS: tuple[Verdict, ...] = ("hang", "out-of-memory", "shm-full")
NOT_NEEDED = "not measured: another cell had failed"
NEW, UNMEASURED, UNVERIFIED = "new: nothing to compare with", "not measured", "not verified"

# Memory of the processes themselves; a cgroup's peak includes page cache and other processes.
STEADY_MEMORY = tuple(name for name in MEMORY_METRICS if name != "cgroup_peak_bytes")

# For a control against a baseline: at this level, as many launches detect a difference that could
# fail a cell falsely.
CONTROL_ALPHA = 0.05
NOT_CONFIRMED = "not confirmed: the cell failed before"


Key = tuple[str, str]
"""The names of a cell and of a metric."""
_Compare = Callable[[Mapping[int, float], Mapping[int, float]], Compared | None]


@dataclass
class Gate:
    """Measures cells in pairs of launches, alternating base and head, and judges them.

    Attributes:
        cells: the cells to compare.
        sides: base and head.
        progress: receives progress updates.
        seed: for the random order of the cells.
    """

    cells: Sequence[Cell]
    sides: Mapping[Arm, Side]
    progress: Progress = field(default_factory=Silent)
    seed: int = 0

    def run(self) -> Judgement:
        """Screen all cells in pairs, confirm those that need it in fresh pairs, and judge."""
        if (known := self._preflight("screening")) is not None:
            return known
        self._reduce_passes()
        self._measure(self.cells, "screening", range(WARM_UP_ROUND + 1, SCREEN_PAIRS + 1))
        self._measure_memory(self.cells, look=0)
        screened = self._compared(self.cells, "screening", compare_pairs)
        screened |= self._compared_memory(self.cells, look=0)
        needy = self._to_confirm(screened)
        confirmed, judged = self._confirm(needy)
        doubts = [
            doubt
            for key, one in confirmed.items()
            if (doubt := self._doubt(key, one)) and differs(one, self._rule(key))
        ]
        # A comparison that was not confirmed, because its cell failed meanwhile, does not pass.
        seen = {
            key: Judged("inconclusive" if key in needy else "pass", one.p)
            for key, one in screened.items()
        }
        return self._judgement(screened | confirmed, seen | judged, doubts)

    def run_against_before(self) -> Judgement:
        """Measure head, and judge it against earlier results of base.

        There are no pairs and base is not measured afresh, so nothing is screened: all comparisons
        are one family. A change of the machine that affects all of them alike looks like the
        revision's change. So a control that is off by more than its threshold makes times
        incomparable, on less evidence than is needed to fail a cell.
        """
        self._launch_as_before()
        if (known := self._preflight("confirming")) is not None:
            return known
        self._measure(self.cells, "confirming", range(WARM_UP_ROUND + 1, CONFIRM_PAIRS + 1))
        self._measure_memory(self.cells, look=0)
        compared = self._compared(self.cells, "confirming", compare_unpaired)
        compared |= self._compared_memory(self.cells, look=0, paired=False)
        passed = {key: Judged("pass", one.p) for key, one in compared.items()}
        judged = passed | self._judged_family(compared, TESTED_ALPHA)
        off = {
            key: doubt
            for key, one in compared.items()
            if (doubt := self._doubt(key, one)) and one.p < CONTROL_ALPHA
        }
        judged |= {key: Judged("inconclusive", compared[key].p) for key in off}
        return self._judgement(compared, judged, list(off.values()))

    def _preflight(self, phase: Phase) -> Judgement | None:
        """Launch each cell once on each side, and verify its rows; these times do not count.

        Returns:
            The judgement if a cell fails on head or delivers other rows, which no time can change;
            otherwise None.
        """
        measured = self._measured.values()
        self.progress.phase("preflight", len(self.cells) * len(measured))
        for cell in sorted(self.cells, key=lambda cell: cell.control):
            for side in measured:
                side.measure(cell.trial, phase, WARM_UP_ROUND)
            if self._rows(cell).verdict in ("failed", "regression"):
                return combine_findings([self._rows_if_run(one) for one in self.cells])
        return None

    @property
    def _measured(self) -> dict[Arm, Measured]:
        """The sides that are measured now."""
        return {arm: side for arm, side in self.sides.items() if isinstance(side, Measured)}

    def _reduce_passes(self) -> None:
        """Use one pass per launch from now on, if passes are long and all take about as long."""
        sides = self._measured.values()
        for cell in self.cells:
            if all(are_alike(walls_of(side.samples(cell.trial))) for side in sides):
                for side in sides:
                    side.set_passes(cell.trial, 1)

    def _launch_as_before(self) -> None:
        """Use as many passes per launch as base was measured with."""
        base, head = self.sides["base"], self.sides["head"]
        if isinstance(base, Stored) and isinstance(head, Measured):
            for cell in self.cells:
                if (passes := base.passes(cell.trial)) is not None:
                    head.set_passes(cell.trial, passes)

    def _rows_if_run(self, cell: Cell) -> Finding:
        if self.sides["head"].samples(cell.trial):
            return self._rows(cell)
        return _rows_of(cell, "inconclusive", NOT_NEEDED)

    def _to_confirm(self, screened: Mapping[Key, Compared]) -> list[Key]:
        """The comparisons that screening leaves open.

        If all cells pass, a control that looks slower is not confirmed: it does not speak against
        them.
        """
        rules = {key: self._rule(key) for key in screened}
        controls = {key for key in screened if self._cell(key).control}
        needy = {
            key for key in screened.keys() - controls if needs_confirming(screened[key], rules[key])
        }
        off = {
            key
            for key in controls
            if seems_shifted(screened[key], rules[key])
            and (needy or screened[key].ratio.estimate < 1)
        }
        return [key for key in screened if key in needy | off]

    def _confirm(self, keys: Sequence[Key]) -> tuple[dict[Key, Compared], dict[Key, Judged]]:
        """Measure fresh pairs for these comparisons, and as many again for those still open."""
        compared: dict[Key, Compared] = {}
        judged: dict[Key, Judged] = {}
        again = list(keys)
        for look in range(LOOKS):
            cells = self._cells_of(again, memory=False)
            greedy = self._cells_of(again, memory=True)
            first = 1 + look * CONFIRM_PAIRS
            self._measure(cells, "confirming", range(first, first + CONFIRM_PAIRS))
            self._measure_memory(greedy, look=1 + look)
            now = self._compared(cells, "confirming", compare_pairs)
            now |= self._compared_memory(greedy, look=1 + look)
            compared |= {key: now[key] for key in again if key in now}
            judged = self._judged(compared) | {
                key: one for key, one in judged.items() if one.verdict == "regression"
            }
            again = [key for key, one in compared.items() if self._is_open(key, one, judged[key])]
        return compared, judged

    def _judged(self, compared: Mapping[Key, Compared]) -> dict[Key, Judged]:
        """The verdicts at one look; a control can only pass or be inconclusive."""
        met = {key: self._rule(key).is_met(one) for key, one in compared.items()}
        well = {
            key: Judged("pass" if met[key] else "inconclusive", one.p)
            for key, one in compared.items()
        }
        return well | self._judged_family(compared, TESTED_LOOK_ALPHA)

    def _judged_family(self, compared: Mapping[Key, Compared], alpha: float) -> dict[Key, Judged]:
        """The verdicts on all comparisons except controls, which the change cannot affect."""
        family = {key: one for key, one in compared.items() if not self._cell(key).control}
        return judge(family, {key: self._rule(key) for key in family}, alpha)

    def _is_open(self, key: Key, compared: Compared, judged: Judged) -> bool:
        rule = self._rule(key)
        if not self._cell(key).control:
            return needs_another_look(judged.verdict, compared, rule)
        off = self._doubt(key, compared) or judged.verdict == "inconclusive"
        return bool(off) and not differs(compared, rule)

    def _doubt(self, key: Key, compared: Compared) -> str | None:
        """Why times are in doubt, if this is a control that is off by more than its threshold."""
        cell = self._cell(key)
        if not cell.control or not is_shifted(compared, self._rule(key)):
            return None
        return (
            f"{cell.name} took {format_ratio(compared.ratio.estimate)} as long as base, although "
            "the change cannot touch it"
        )

    def _measure(self, cells: Sequence[Cell], phase: Phase, rounds: range) -> None:
        if not cells:
            return
        measured = self._measured
        self.progress.phase(phase, len(rounds) * len(cells) * len(measured))
        for turn in rounds:
            order = list(cells)
            random.Random(f"{self.seed} {phase} {turn}").shuffle(order)  # noqa: S311 - no secret
            for cell in order:
                # A B, B A: drift affects both sides alike.
                for arm in ARMS if turn % 2 == 0 else ARMS[::-1]:
                    if arm in measured and not self._failures(cell):
                        measured[arm].measure(cell.trial, phase, turn)

    def _cells_of(self, keys: Iterable[Key], *, memory: bool) -> list[Cell]:
        """The cells of memory comparisons, or of all other comparisons."""
        names = {name for name, metric in keys if (metric in MEMORY_METRICS) == memory}
        return [cell for cell in self.cells if cell.name in names]

    def _measure_memory(self, cells: Sequence[Cell], look: int) -> None:
        """Launch in pairs to measure memory, for the cells whose memory is compared."""
        mine = [cell for cell in cells if any(name in MEMORY_METRICS for name in cell.rules)]
        if mine:
            # Pages that launches share with the processes they are forked from would count less.
            for side in self._measured.values():
                side.rest()
        first = WARM_UP_ROUND + 1 + look * MEMORY_PAIRS
        self._measure(mine, "memory", range(first, first + MEMORY_PAIRS))

    def _failures(self, cell: Cell) -> dict[Arm, Sample]:
        """By side, a sample that shows what went wrong with the cell."""
        return {
            arm: bad
            for arm in ARMS
            for bad in self.sides[arm].samples(cell.trial)
            if bad.verdict not in (*RANKABLE_VERDICTS, "unverified")
        }

    def nothing_ran(self) -> str | None:
        """Why no cell except controls ran on either side; None if one did."""
        told = []
        for cell in self.cells:
            wrong = self._failures(cell)
            if not cell.control:
                if any(arm not in wrong or wrong[arm].verdict != "error" for arm in ARMS):
                    return None
                told.append(wrong["head"].reasons.get("verdict", "it failed"))
        return "; ".join(dict.fromkeys(told))

    def _compared(
        self, cells: Iterable[Cell], phase: Phase, compare: _Compare
    ) -> dict[Key, Compared]:
        """Compare head with base, by each metric of timed launches that both sides have."""
        found = {}
        for cell in cells:
            for metric in cell.rules:
                if metric in MEMORY_METRICS:
                    continue
                base, head = (self.sides[arm].values(cell.trial, phase, metric) for arm in ARMS)
                one = _compared_with_zeros(base, head, compare, METRICS[metric])
                if one is not None:
                    found[cell.name, metric] = one
        return found

    def _compared_memory(
        self, cells: Iterable[Cell], look: int, *, paired: bool = True
    ) -> dict[Key, Compared]:
        """Compare memory: of screening at look 0, else of all confirming pairs up to a look."""
        since = WARM_UP_ROUND + 1 + (MEMORY_PAIRS if look else 0)
        until = WARM_UP_ROUND + 1 + (1 + look) * MEMORY_PAIRS
        found = {}
        for cell in cells:
            for metric in filter(MEMORY_METRICS.__contains__, cell.rules):
                sides = [self.sides[arm].values(cell.trial, "memory", metric) for arm in ARMS]
                if paired:
                    sides = [
                        {turn: value for turn, value in side.items() if since <= turn < until}
                        for side in sides
                    ]
                compare: _Compare = partial(compare_steady, paired=paired)
                if metric not in STEADY_MEMORY:
                    compare = compare_pairs if paired else compare_unpaired
                one = _compared_with_zeros(sides[0], sides[1], compare, METRICS[metric])
                if one is not None:
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
                    one, found = judged[key], compared[key]
                    failed = one.verdict != "pass" and self._failures(cell)
                    why = NOT_CONFIRMED if failed else ""
                    findings.append(
                        Finding(*key, one.verdict, found, rule, why, cell.control, one.p)
                    )
                else:
                    findings.append(self._unmeasured(cell, metric, rule))
        return combine_findings(findings, doubts)

    def _unmeasured(self, cell: Cell, metric: str, rule: Rule) -> Finding:
        """The finding on a metric that cannot be compared: a pass, unless it was requested."""
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
        if wrong and wrong["head"].verdict in MACHINE_VERDICTS:
            return _rows_of(cell, "inconclusive", f"{told}; a busy machine does so, too")
        if wrong and cell.control:
            return _rows_of(cell, "inconclusive", f"{told}; it is base's code on both sides")
        if wrong:
            ran = wrong["head"].verdict == "wrong-rows"
            return _rows_of(cell, "regression" if ran else "failed", told)
        return self._same_rows(cell)

    def _same_rows(self, cell: Cell) -> Finding:
        """Whether both sides delivered the same rows, by count and, if known, by fingerprint."""
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


def _rows_of(cell: Cell, verdict: GateVerdict, why: str = "") -> Finding:
    return Finding(cell.name, ROWS, verdict, why=why, control=cell.control)


def _compared_with_zeros(
    base: Mapping[int, float], head: Mapping[int, float], compare: _Compare, metric: Metric
) -> Compared | None:
    """Compare two sides by ratio, even if values are 0.

    The metric's `least` is then added to all values: 0 against many bytes becomes a large ratio,
    and 0 against 0 a ratio of 1.
    """
    if 0 not in (*base.values(), *head.values()):
        return compare(base, head)
    raised = [{turn: value + metric.least for turn, value in side.items()} for side in (base, head)]
    found = compare(*raised)
    if found is None:
        return None
    return replace(found, base=found.base - metric.least, head=found.head - metric.least)
