"""Check the search on simulated landscapes: `python -m benchmarks.search [--seeds N]`.

For each shape: how often the choice is within 5% of the best, how often it has the fewest workers
(all settings of a flat landscape are equal), how many runs the search took, and how often the
choice is as good if every trial of the grid is launched in 5 to 40 rounds. The results go to
`benchmarks/SEARCH.md`; the exit status is 1 if a requirement is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, TextIO

from feedrate.harness.choose.race import NEAR
from feedrate.harness.record.statistics import CONFIDENCE

from .landscapes import LAUNCH_CV, PAIR_SD, SHAPES, WITHIN, Found, Shape, exhaust, search, trials
from .table import requirements_page

SEEDS = 200
GRID_ROUNDS = (5, 10, 20, 40)
REQUIRED = 0.95
HALF = 0.5
CAP = 450 * 10**6
REPORT = Path(__file__).parent / "SEARCH.md"


@dataclass(frozen=True)
class Row:
    """The results of the search and of the whole grid on landscapes of one shape."""

    shape: Shape
    heavy: bool
    found: Sequence[Found]
    grid: dict[int, Sequence[Found]]
    capped: Sequence[Found]

    @property
    def within(self) -> float:
        """The share of choices within 5% of the best."""
        return _within(self.found)

    @property
    def fewest(self) -> float:
        """The share of choices without workers."""
        return _fewest(self.found)

    @property
    def runs(self) -> float:
        """The median number of runs."""
        return median(one.runs for one in self.found)

    @property
    def grid_runs(self) -> float:
        """The runs needed to launch every trial as often as the choice (median launches)."""
        return median(one.launches for one in self.found) * len(trials())

    @property
    def strong(self) -> float:
        """The share of choices whose evidence is strong."""
        return _share(one.strong for one in self.found)

    @property
    def wrong(self) -> float:
        """Among them, the share of choices not within 5% of the best."""
        return _share(one.ratio > WITHIN for one in self.found if one.strong)

    @property
    def tied(self) -> float:
        """The share of choices whose evidence is a tie."""
        return _share(one.tie for one in self.found)

    @property
    def wrongly_tied(self) -> float:
        """Among them, the share of choices not within 15% of the best."""
        return _share(one.ratio > NEAR for one in self.found if one.tie)

    @property
    def is_flat(self) -> bool:
        """Whether all settings are equal."""
        return self.shape == "flat"

    @property
    def misses(self) -> list[str]:
        """The requirements that are not met."""
        told = []
        if self.within < REQUIRED:
            told.append(f"{self.shape}: {self.within:.1%} within 5% of the best")
        if self.is_flat and self.fewest < REQUIRED:
            told.append(f"flat: {self.fewest:.1%} with the fewest workers")
        if self.runs > HALF * self.grid_runs:
            told.append(f"{self.shape}: {self.runs:.0f} of {self.grid_runs:.0f} runs")
        if _within(self.capped) < REQUIRED:
            told.append(f"{self.shape}: {_within(self.capped):.1%} with a memory limit")
        if self.wrong > 1 - CONFIDENCE:
            told.append(f"{self.shape}: {self.wrong:.1%} beyond 5% on strong evidence")
        if self.wrongly_tied > 1 - CONFIDENCE:
            told.append(f"{self.shape}: {self.wrongly_tied:.1%} beyond 15% in a tie")
        if any(one.peak > CAP for one in self.capped):
            told.append(f"{self.shape}: the memory limit was broken")
        return told

    def cells(self) -> list[str]:
        """The cells of a table row."""
        name = f"{self.shape}, heavy tails" if self.heavy else self.shape
        grid = " / ".join(f"{_within(found):.0%}" for found in self.grid.values())
        return [
            name,
            f"{self.within:.1%}",
            f"{max(one.ratio for one in self.found):.2f}",
            f"{_within(self.capped):.1%}",
            f"{self.strong:.1%}",
            f"{self.wrong:.1%}",
            f"{self.tied:.1%}",
            f"{self.wrongly_tied:.1%}",
            f"{self.fewest:.1%}" if self.is_flat else "",
            f"{self.runs:.0f}",
            f"{self.grid_runs:.0f}",
            grid,
        ]


HEADER = (
    "Landscape", "within 5%", "worst", "within 5% with a memory limit", "strong evidence",
    "of it beyond 5%", "tie", "of it beyond 15%", "fewest workers",
    "runs (median)",
    "of the grid, each as often as the choice",
    f"grid within 5% at {' / '.join(map(str, GRID_ROUNDS))} rounds",
)  # fmt: skip


def _fewest(found: Sequence[Found]) -> float:
    return _share(not one.choice.settings.num_workers for one in found)


def _within(found: Sequence[Found]) -> float:
    return _share(one.ratio <= WITHIN for one in found)


def _share(which: Iterable[bool]) -> float:
    """The share of true values; 0 if there are none."""
    every = list(which)
    return sum(every) / len(every) if every else 0.0


def measure(shape: Shape, seeds: Sequence[int], pool: Executor, *, heavy: bool) -> Row:
    """Search landscapes of a shape, one per seed, and launch the whole grid on the same ones."""

    def each(what: Callable[..., Found], *given: Any, **options: Any) -> Sequence[Found]:
        return [
            one.result()
            for one in [
                pool.submit(what, shape, seed, *given, heavy=heavy, **options) for seed in seeds
            ]
        ]

    return Row(
        shape,
        heavy,
        each(search),
        {} if heavy else {rounds: each(exhaust, rounds) for rounds in GRID_ROUNDS},
        each(search, max_memory=CAP),
    )


def say(text: str, stream: TextIO | None = None) -> None:
    """Write a line and flush."""
    (stream or sys.stdout).write(f"{text}\n")
    (stream or sys.stdout).flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all shapes, print and write the table; return 1 if a requirement is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="landscapes of each shape")
    parser.add_argument("--first", type=int, default=1000, help="the first seed")
    parser.add_argument("--report", type=Path, default=REPORT, help="where the table goes")
    given = parser.parse_args(arguments)
    seeds = range(given.first, given.first + given.seeds)
    rows = []
    with ProcessPoolExecutor() as pool:
        for heavy in (False, True):
            for shape in SHAPES:
                rows.append(measure(shape, seeds, pool, heavy=heavy))
                say(" | ".join(rows[-1].cells()), sys.stderr)
    misses = [miss for row in rows for miss in row.misses]
    text = _report(rows, misses, given.seeds, given.first)
    given.report.write_text(text, encoding="utf-8")
    say(text)
    return 1 if misses else 0


def _report(rows: Sequence[Row], misses: Sequence[str], seeds: int, first: int) -> str:
    written = (
        f"Written by `python -m benchmarks.search --seeds {seeds} --first {first}` on "
        f"{datetime.now(UTC):%Y-%m-%d}: {seeds} landscapes of each shape, {len(trials())} trials "
        f"each, with the noise of launches on a shared host ({LAUNCH_CV:.0%} from launch to "
        f"launch, the log ratio of a pair {PAIR_SD}). The search is that of `tune --budget none`."
    )
    required = (
        "Required: within 5% of the best in 95% of the landscapes, the fewest workers if all are "
        "equal, at most half of the runs needed to launch every trial as often as the choice, and "
        "never above a memory limit (each landscape is searched with and without one). At most 5% "
        "of the choices on strong evidence may be beyond 5% of the best, and at most 5% of those "
        "in a tie beyond 15%."
    )
    cells = [row.cells() for row in rows]
    return requirements_page(
        "The search on simulated landscapes", written, HEADER, cells, required, misses
    )


if __name__ == "__main__":
    sys.exit(main())
