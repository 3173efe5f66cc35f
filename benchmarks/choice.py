"""Check the choice of `tune` on real data: `python -m benchmarks.choice --data DIR`.

On flights and on lineitem, `OptimizedHistoricalDataLoader(storage)` after `tune` is compared with
the same loader with the best settings of the whole grid and with every preset, in 20 alternating
pairs of fresh processes each. The Hodges-Lehmann ratio may be at most 1.05. The results go to
`benchmarks/CHOICE.md`; the exit status is 1 if the bound is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from feedrate.harness import sweep, tune
from feedrate.harness.choose.recommendation import recommend_all
from feedrate.harness.plan.source import open_source
from feedrate.harness.plan.spec import make_trial
from feedrate.harness.record.speedup import settings_text
from feedrate.harness.record.statistics import Ratio, paired_ratio
from feedrate.harness.run.child_executor import ChildExecutor
from feedrate.harness.trial.work import Data
from feedrate.loaders.base.machine import effective_cpus
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.choosing.registry import find_backend, get_backend

from .production import VARIABLE, Sides
from .search import say
from .table import markdown_table

PAIRS = 20
BOUND = 1.05
PASSES = 3
TIMEOUT_S = 120.0
IDLE = LoaderSettings(num_workers=0)  # ignored: the loaders get their settings otherwise
REPORT = Path(__file__).parent / "CHOICE.md"
PRESETS = ("DEFAULT", "HIGH_PERFORMANCE", "LOW_MEMORY")
COLUMNS = {
    "flights": None,
    # All sixteen columns would take ten seconds per pass, most of it for Decimals.
    "lineitem": ["l_orderkey", "l_partkey", "l_suppkey", "l_linenumber"],
}


@dataclass(frozen=True)
class Row:
    """One comparison: the time with tune's choice over the time with other settings."""

    data: str
    choice: str
    other: str
    ratio: Ratio

    @property
    def is_met(self) -> bool:
        """Whether the ratio is within the bound."""
        return self.ratio.estimate <= BOUND

    def cells(self) -> list[str]:
        """The cells of a table row."""
        ratio = self.ratio
        return [
            self.data,
            self.choice,
            self.other,
            f"{ratio.estimate:.3f} ({ratio.low:.3f} to {ratio.high:.3f})",
            "met" if self.is_met else "**MISSED**",
        ]


def compare(data_type: str, folder: str, budget: str) -> Iterator[Row]:
    """Tune, sweep the whole grid, and compare the tuned loader with the best and the presets."""
    columns = COLUMNS[data_type]
    wanted = {"data_type": data_type, "jobs": ["frame"], "columns": columns, "passes": PASSES}
    source = open_source(folder, data_type)
    files = len(source.files)
    with tempfile.TemporaryDirectory() as scratch:
        profile = Path(scratch, "profile.json")
        tuned = tune(
            folder, budget=budget, results=Path(scratch, "tune.jsonl"), profile=profile, **wanted
        )
        whole = sweep(folder, files=[files], results=Path(scratch, "sweep.jsonl"), **wanted)
        choice = tuned.recommendations[0].chosen.settings
        best = recommend_all(whole.results).found[0].candidates[0].settings
        others = {f"the grid's best, {named(best)}": best}
        for preset in PRESETS:
            wished: LoaderSettings = getattr(LoaderSettings, preset)
            others[
                f"{preset}, {named(get_backend(wished.backend).normalized_for('frame', wished))}"
            ] = wished
        data = Data(paths=source.files, columns=columns, features=[], target=None)
        for what, settings in others.items():
            sides = Sides(str(source.base_dir), str(profile), settings)
            yield Row(data_type, named(choice), what, pairs(data, sides, files))


def named(settings: LoaderSettings) -> str:
    """Settings in a few words."""
    return f"{settings.backend} {settings_text('frame', settings)}"


def pairs(data: Data, sides: Sides, files: int) -> Ratio:
    """Launch both sides in pairs of fresh processes (A B, B A), and discard the first pair."""
    os.environ[VARIABLE] = msgspec.json.encode(sides).decode()
    names = [f"benchmarks.production:{side}" for side in ("tuned", "other")]
    settings = [find_backend(name, typed=True).normalized_for("frame", IDLE) for name in names]
    trials = [make_trial("frame", one, files) for one in settings]
    times: tuple[list[float], list[float]] = ([], [])
    with ChildExecutor(data, TIMEOUT_S) as executor:
        for turn in range(PAIRS + 1):
            for side in (0, 1) if turn % 2 else (1, 0):
                run = executor.run(trials[side], "confirming", passes=PASSES, verify=False)
                if run.verdict is not None:
                    raise RuntimeError(f"{trials[side].id}: {run.verdict}: {run.message}")
                if turn:
                    times[side].append(sum(done.metrics["wall_s"] or 0.0 for done in run.passes))
    return paired_ratio(*times)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare on all data, print and write the table; return 1 if the bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choice", description=__doc__)
    parser.add_argument("--data", required=True, help="a folder with flights/ and lineitem/")
    parser.add_argument("--budget", default="5m", help="of tune")
    parser.add_argument("--only", choices=sorted(COLUMNS), help="one of them")
    parser.add_argument("--report", type=Path, default=REPORT, help="where the table goes")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    for data_type in COLUMNS:
        if given.only in (None, data_type):
            for row in compare(data_type, given.data, given.budget):
                rows.append(row)
                say(" | ".join(row.cells()), sys.stderr)
    header = ("Data", "After tune", "Against", "Time, HL ratio (95% interval)", "At most 1.05")
    lines = [
        "# The choice of tune, compared with the whole grid and the presets",
        "",
        (
            f"Written by `python -m benchmarks.choice --data DIR --budget {given.budget}` on "
            f"{datetime.now(UTC):%Y-%m-%d}, on {effective_cpus()} CPUs: the frame job, all files, "
            f"the total of {PASSES} passes, {PAIRS} alternating pairs of fresh processes."
        ),
        "",
        *markdown_table(header, [tuple(row.cells()) for row in rows]),
        "",
    ]
    given.report.write_text("\n".join(lines), encoding="utf-8")
    say("\n".join(lines))
    return 0 if all(row.is_met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
