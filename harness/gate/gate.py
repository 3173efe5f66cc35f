"""Measure base and head in pairs of launches, and judge by `rule` whether head is slower."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ..record.metrics import MEMORY_METRICS, METRICS, Metric
from ..record.results import Phase
from ..record.summary import are_alike, walls_of
from ..show.progress import Progress, Silent
from ..system.formats import format_ratio
from .outcome import Finding, Judgement, combine_findings
from .rows import NEW, check_rows, failed_samples, rows_finding
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

UNMEASURED = "not measured"
NOT_NEEDED = "not measured: another cell had failed"
NOT_CONFIRMED = "not confirmed: the cell failed before"

# Memory of the processes alone; a cgroup's peak includes page cache and other processes.
STEADY_MEMORY = tuple(name for name in MEMORY_METRICS if name != "cgroup_peak_bytes")

# The level of a control against a baseline. At this level its launches, as many as a cell's, detect
# a change of the machine that could fail a cell falsely.
CONTROL_ALPHA = 0.05

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
        if (judgement := self._preflight("screening")) is not None:
            return judgement
        self._reduce_passes()
        self._measure(self.cells, "screening", range(WARM_UP_ROUND + 1, SCREEN_PAIRS + 1))
        self._measure_memory(self.cells, look=0)
        screened = self._compare_timed(self.cells, "screening", compare_pairs)
        screened |= self._compare_memory(self.cells, look=0)
        to_confirm = self._to_confirm(screened)
        confirmed, judged = self._confirm(to_confirm)
        doubts = [
            doubt
            for key, compared in confirmed.items()
            if (doubt := self._doubt(key, compared)) and differs(compared, self._rule(key))
        ]
        # A comparison that was not confirmed, because its cell failed meanwhile, does not pass.
        screening_verdicts = {
            key: Judged("inconclusive" if key in to_confirm else "pass", compared.p)
            for key, compared in screened.items()
        }
        return self._judgement(screened | confirmed, screening_verdicts | judged, doubts)

    def run_against_before(self) -> Judgement:
        """Measure head, and judge it against earlier results of base.

        Nothing is screened, since there are no pairs: all comparisons are one family of tests. A
        machine that changed looks like a slower head. So a control that is off by more than its
        threshold makes times incomparable, with weaker evidence than fails a cell.
        """
        self._use_passes_of_base()
        if (judgement := self._preflight("confirming")) is not None:
            return judgement
        self._measure(self.cells, "confirming", range(WARM_UP_ROUND + 1, CONFIRM_PAIRS + 1))
        self._measure_memory(self.cells, look=0)
        compared = self._compare_timed(self.cells, "confirming", compare_unpaired)
        compared |= self._compare_memory(self.cells, look=0, paired=False)
        verdicts = {key: Judged("pass", comparison.p) for key, comparison in compared.items()}
        verdicts |= self._judge_cells(compared, TESTED_ALPHA)
        doubts = {
            key: doubt
            for key, comparison in compared.items()
            if (doubt := self._doubt(key, comparison)) and comparison.p < CONTROL_ALPHA
        }
        verdicts |= {key: Judged("inconclusive", compared[key].p) for key in doubts}
        return self._judgement(compared, verdicts, list(doubts.values()))

    def _preflight(self, phase: Phase) -> Judgement | None:
        """Launch each cell once on each side, and verify its rows; these times do not count.

        Returns:
            The judgement if a cell fails on head or delivers other rows, or if no cell runs at all,
            which no time can change; otherwise None.
        """
        sides = self._measured_sides.values()
        self.progress.phase("preflight", len(self.cells) * len(sides))
        for cell in sorted(self.cells, key=lambda cell: cell.control):
            if cell.control and self.nothing_ran():
                break
            for side in sides:
                side.measure(cell.trial, phase, WARM_UP_ROUND)
            if check_rows(cell, self.sides).verdict in ("failed", "regression"):
                break
        else:
            return None
        return combine_findings([self._rows_if_run(cell) for cell in self.cells])

    @property
    def _measured_sides(self) -> dict[Arm, Measured]:
        """The sides that are measured now."""
        return {arm: side for arm, side in self.sides.items() if isinstance(side, Measured)}

    def _reduce_passes(self) -> None:
        """Use one pass per launch from now on for cells whose passes are long and alike."""
        sides = self._measured_sides.values()
        for cell in self.cells:
            if all(are_alike(walls_of(side.samples(cell.trial))) for side in sides):
                for side in sides:
                    side.set_passes(cell.trial, 1)

    def _use_passes_of_base(self) -> None:
        """Use as many passes per launch as base was measured with."""
        base, head = self.sides["base"], self.sides["head"]
        if isinstance(base, Stored) and isinstance(head, Measured):
            for cell in self.cells:
                if (passes := base.passes(cell.trial)) is not None:
                    head.set_passes(cell.trial, passes)

    def _rows_if_run(self, cell: Cell) -> Finding:
        if self.sides["head"].samples(cell.trial):
            return check_rows(cell, self.sides)
        return rows_finding(cell, "inconclusive", NOT_NEEDED)

    def _to_confirm(self, screened: Mapping[Key, Compared]) -> list[Key]:
        """The comparisons that screening leaves open.

        If all cells pass, a control that looks slower is not confirmed: it does not speak against
        them.
        """
        rules = {key: self._rule(key) for key in screened}
        controls = {key for key in screened if self._cell(key).control}
        suspects = {
            key for key in screened.keys() - controls if needs_confirming(screened[key], rules[key])
        }
        shifted = {
            key
            for key in controls
            if seems_shifted(screened[key], rules[key])
            and (suspects or screened[key].ratio.estimate < 1)
        }
        return [key for key in screened if key in suspects | shifted]

    def _confirm(self, keys: Sequence[Key]) -> tuple[dict[Key, Compared], dict[Key, Judged]]:
        """Measure fresh pairs for these comparisons, and as many again for those still open."""
        compared: dict[Key, Compared] = {}
        judged: dict[Key, Judged] = {}
        open_keys = list(keys)
        for look in range(LOOKS):
            timed_cells = self._cells_of(open_keys, memory=False)
            memory_cells = self._cells_of(open_keys, memory=True)
            first = 1 + look * CONFIRM_PAIRS
            self._measure(timed_cells, "confirming", range(first, first + CONFIRM_PAIRS))
            self._measure_memory(memory_cells, look=1 + look)
            latest = self._compare_timed(timed_cells, "confirming", compare_pairs)
            latest |= self._compare_memory(memory_cells, look=1 + look)
            compared |= {key: latest[key] for key in open_keys if key in latest}
            judged = self._judge(compared) | {
                key: verdict for key, verdict in judged.items() if verdict.verdict == "regression"
            }
            open_keys = [
                key
                for key, comparison in compared.items()
                if self._is_open(key, comparison, judged[key])
            ]
        return compared, judged

    def _judge(self, compared: Mapping[Key, Compared]) -> dict[Key, Judged]:
        """The verdicts at one look; a control can only pass or be inconclusive."""
        verdicts = {
            key: Judged(
                "pass" if self._rule(key).is_met(comparison) else "inconclusive", comparison.p
            )
            for key, comparison in compared.items()
        }
        return verdicts | self._judge_cells(compared, TESTED_LOOK_ALPHA)

    def _judge_cells(self, compared: Mapping[Key, Compared], alpha: float) -> dict[Key, Judged]:
        """The verdicts on all comparisons except controls, as one family of tests."""
        family = {key: one for key, one in compared.items() if not self._cell(key).control}
        return judge(family, {key: self._rule(key) for key in family}, alpha)

    def _is_open(self, key: Key, compared: Compared, judged: Judged) -> bool:
        rule = self._rule(key)
        if not self._cell(key).control:
            return needs_another_look(judged.verdict, compared, rule)
        uncertain = self._doubt(key, compared) or judged.verdict == "inconclusive"
        return bool(uncertain) and not differs(compared, rule)

    def _doubt(self, key: Key, compared: Compared) -> str | None:
        """The reason to doubt times, if this is a control that is off beyond its threshold."""
        cell = self._cell(key)
        if not cell.control or not is_shifted(compared, self._rule(key)):
            return None
        return (
            f"{cell.name} took {format_ratio(compared.ratio.estimate)} as long as base, although "
            "the change cannot affect it"
        )

    def _measure(self, cells: Sequence[Cell], phase: Phase, rounds: range) -> None:
        if not cells:
            return
        sides = self._measured_sides
        self.progress.phase(phase, len(rounds) * len(cells) * len(sides))
        for turn in rounds:
            order = list(cells)
            random.Random(f"{self.seed} {phase} {turn}").shuffle(order)  # noqa: S311 - no secret
            for cell in order:
                # A B, B A: drift of the machine affects both sides alike.
                for arm in ARMS if turn % 2 == 0 else ARMS[::-1]:
                    if arm in sides and not failed_samples(cell, self.sides):
                        sides[arm].measure(cell.trial, phase, turn)

    def _cells_of(self, keys: Iterable[Key], *, memory: bool) -> list[Cell]:
        """The cells of memory comparisons, or of all other comparisons."""
        names = {name for name, metric in keys if (metric in MEMORY_METRICS) == memory}
        return [cell for cell in self.cells if cell.name in names]

    def _measure_memory(self, cells: Sequence[Cell], look: int) -> None:
        """Launch in pairs to measure memory, for the cells whose memory is compared."""
        compared = [cell for cell in cells if any(name in MEMORY_METRICS for name in cell.rules)]
        if compared:
            # Pages shared with the process that a launch is forked from would count less.
            for side in self._measured_sides.values():
                side.rest()
        first = WARM_UP_ROUND + 1 + look * MEMORY_PAIRS
        self._measure(compared, "memory", range(first, first + MEMORY_PAIRS))

    def nothing_ran(self) -> str | None:
        """Why no cell except controls ran on either side; None if one did."""
        reasons = []
        for cell in self.cells:
            failed = failed_samples(cell, self.sides)
            if not cell.control:
                if any(arm not in failed or failed[arm].verdict != "error" for arm in ARMS):
                    return None
                reasons.append(failed["head"].reasons.get("verdict", "it failed"))
        return "; ".join(dict.fromkeys(reasons))

    def _compare_timed(
        self, cells: Iterable[Cell], phase: Phase, compare: _Compare
    ) -> dict[Key, Compared]:
        """Compare the metrics of timed launches, without those that a side lacks."""
        compared = {}
        for cell in cells:
            for metric in cell.rules:
                if metric in MEMORY_METRICS:
                    continue
                base, head = (self.sides[arm].values(cell.trial, phase, metric) for arm in ARMS)
                comparison = _compare_with_zeros(base, head, compare, METRICS[metric])
                if comparison is not None:
                    compared[cell.name, metric] = comparison
        return compared

    def _compare_memory(
        self, cells: Iterable[Cell], look: int, *, paired: bool = True
    ) -> dict[Key, Compared]:
        """Compare memory: of screening at look 0, else of all confirming pairs up to a look."""
        since = WARM_UP_ROUND + 1 + (MEMORY_PAIRS if look else 0)
        until = WARM_UP_ROUND + 1 + (1 + look) * MEMORY_PAIRS
        compared = {}
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
                comparison = _compare_with_zeros(sides[0], sides[1], compare, METRICS[metric])
                if comparison is not None:
                    compared[cell.name, metric] = comparison
        return compared

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
        """Combine the findings on all cells."""
        findings = []
        for cell in self.cells:
            findings.append(check_rows(cell, self.sides))
            for metric, rule in cell.rules.items():
                key = cell.name, metric
                if key not in compared:
                    findings.append(self._unmeasured(cell, metric, rule))
                    continue
                verdict, p = judged[key].verdict, judged[key].p
                failed = verdict != "pass" and failed_samples(cell, self.sides)
                why = NOT_CONFIRMED if failed else ""
                findings.append(Finding(*key, verdict, compared[key], rule, why, cell.control, p))
        return combine_findings(findings, doubts)

    def _unmeasured(self, cell: Cell, metric: str, rule: Rule) -> Finding:
        """The finding on a metric that cannot be compared: a pass, unless it was requested."""
        if not self.sides["base"].samples(cell.trial):
            return Finding(cell.name, metric, "pass", None, rule, NEW, cell.control)
        requested = metric == TIME or metric in cell.asked
        verdict: GateVerdict = "inconclusive" if requested else "pass"
        return Finding(cell.name, metric, verdict, None, rule, UNMEASURED, cell.control)


def _compare_with_zeros(
    base: Mapping[int, float], head: Mapping[int, float], compare: _Compare, metric: Metric
) -> Compared | None:
    """Compare two sides by ratio, even if values are 0.

    If one is 0, the metric's `least` is added to all: 0 against many bytes becomes a large ratio,
    and 0 against 0 a ratio of 1.
    """
    if 0 not in (*base.values(), *head.values()):
        return compare(base, head)
    raised = [{turn: value + metric.least for turn, value in side.items()} for side in (base, head)]
    compared = compare(*raised)
    if compared is None:
        return None
    return replace(compared, base=compared.base - metric.least, head=compared.head - metric.least)
