"""Measure the gate's error rates on simulated revisions: `python -m benchmarks.gate [--runs N]`.

For each kind of noise: how often equal revisions of eight cells fail falsely, how often they pass,
and how often one cell that is 15% or 10% slower is detected. The results go to
`benchmarks/GATE.md`; the exit status is 1 if a requirement is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from .gates import CELLS, NOISES, Noise, judged
from .search import say
from .table import requirements_page

RUNS = 2000
FEWER = 4  # a quarter of the runs at the larger noise, which has no requirements
PAIR_SDS = (0.11, 0.15)
REQUIRED_AT = 0.11
SLOWER = (1.15, 1.10)
FALSE_ALARMS, PASSES, FOUND = 0.005, 0.85, {1.15: 0.95, 1.10: 0.75}
REPORT = Path(__file__).parent / "GATE.md"


@dataclass(frozen=True)
class Row:
    """The error rates at one kind of noise."""

    pair_sd: float
    noise: Noise
    runs: int
    false_alarms: float
    passes: float
    found: dict[float, float]

    @property
    def misses(self) -> list[str]:
        """The requirements that are not met."""
        if self.pair_sd != REQUIRED_AT:
            return []
        told = []
        if self.false_alarms > FALSE_ALARMS:
            told.append(f"{self.noise}: {self.false_alarms:.2%} false alarms")
        if self.passes < PASSES:
            told.append(f"{self.noise}: {self.passes:.1%} of equal revisions pass")
        told += [
            f"{self.noise}: {self.found[times]:.1%} of {times - 1:.0%} found"
            for times, required in FOUND.items()
            if self.found[times] < required
        ]
        return told

    def cells(self) -> list[str]:
        """The cells of a table row."""
        found = [f"{self.found[times]:.1%}" for times in SLOWER]
        return [
            f"{self.pair_sd:g}, {self.noise}",
            f"{self.runs:,}",
            f"{self.false_alarms:.2%}",
            f"{self.passes:.1%}",
            *found,
        ]


HEADER = ("Noise", "runs", "false alarms", "equal ones pass", "15% found", "10% found")


def _verdict(seed: int, pair_sd: float, noise: Noise, slower: float | None) -> str:
    """The gate's verdict on equal revisions, or its verdict on the one slower cell."""
    if slower is None:
        return judged(seed, pair_sd=pair_sd, noise=noise).verdict
    findings = judged(seed, [slower], pair_sd=pair_sd, noise=noise).findings
    return next(one.verdict for one in findings if one.compared is not None)


def measure(pair_sd: float, noise: Noise, runs: int, first: int) -> Row:
    """Run the gate many times."""
    verdicts: dict[float | None, list[str]] = {}
    with ProcessPoolExecutor() as pool:
        for place, slower in enumerate((None, *SLOWER)):
            seeds = range(first + place * 10**6, first + place * 10**6 + runs)
            once = partial(_verdict, pair_sd=pair_sd, noise=noise, slower=slower)
            verdicts[slower] = list(pool.map(once, seeds, chunksize=50))
    share = {
        slower: {kind: found.count(kind) / runs for kind in ("pass", "regression")}
        for slower, found in verdicts.items()
    }
    return Row(
        pair_sd, noise, runs, share[None]["regression"], share[None]["pass"],
        {times: share[times]["regression"] for times in SLOWER},
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all kinds of noise, print and write the table; 1 if a requirement is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--report", type=Path, default=REPORT, help="where the table goes")
    given = parser.parse_args(arguments)
    rows = []
    for pair_sd in PAIR_SDS:
        for noise in NOISES:
            runs = given.runs if pair_sd == REQUIRED_AT else max(1, given.runs // FEWER)
            rows.append(measure(pair_sd, noise, runs, given.first))
            say(" | ".join(rows[-1].cells()), sys.stderr)
    misses = [miss for row in rows for miss in row.misses]
    written = (
        f"Written by `python -m benchmarks.gate --runs {given.runs} --first {given.first}` on "
        f"{datetime.now(UTC):%Y-%m-%d}: {CELLS} cells a run; the noise is the standard "
        "deviation of the log ratio of a pair of launches, normal, heavy-tailed (Student's t "
        "with 4 degrees of freedom) or normal on a machine that drifts and slows down."
    )
    required = (
        f"Required at {REQUIRED_AT}: at most {FALSE_ALARMS:.1%} of the runs are false alarms, "
        f"{PASSES:.0%} of equal revisions pass, and one cell slower by 15% is found in "
        f"{FOUND[1.15]:.0%}, by 10% in {FOUND[1.10]:.0%}."
    )
    cells = [row.cells() for row in rows]
    text = requirements_page(
        "The gate on simulated revisions", written, HEADER, cells, required, misses
    )
    given.report.write_text(text, encoding="utf-8")
    say(text)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
