"""Compare the time of `load_historical_player_logs` with each loader and with the original.

    python benchmarks/benchmark_data_loaders.py --start-date 20240101 --end-date 20240401 --runs 3

Each run is a fresh process that imports the framework and calls the method three times. Loaders
alternate and cache nothing; files stay in the page cache from run to run. The rows of each loader
are compared with the original's. The first call of a process has its own columns, since it also
imports and starts what later calls reuse; average time, throughput and the last speedup are of
later calls. Speedups are paired by run (Hodges-Lehmann). The default storage is `data/inputs`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

if not __package__:  # run as a file
    sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

from feedrate.harness.plan.spec import Spec, Trial, make_trial
from feedrate.harness.record.speedup import format_times
from feedrate.harness.record.summary import (
    RANKABLE_VERDICTS,
    Summary,
    compare_first,
    paired_by_round,
    summarise,
)
from feedrate.harness.run.scheduler import NullSink, Scheduler
from feedrate.harness.show.terminal import as_text, rich_table
from feedrate.harness.system.formats import MISSING, format_ratio, format_rows_per_s, format_seconds
from feedrate.loaders import ParquetStorage
from feedrate.loaders.base.errors import FeedrateError
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.choosing.registry import get_backend

from benchmarks.interleave import order_of
from benchmarks.player_logs import DATA_TYPE, ORIGINAL, Asked, PlayerLogs
from benchmarks.search import say

LOADERS = (ORIGINAL, "tensorflow", "pytorch")
CALLS = 3  # per process
WIDTH = 170  # so that even a loader with wide intervals takes one line
HEADINGS = ("Loader", "First Call", "Speedup 1st", "Avg Time", "Throughput", "Speedup")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return the exit status.

    1 if a loader fails or delivers other rows, 2 for bad input.
    """
    given = _parser().parse_args(arguments)
    try:
        asked = Asked(_storage(given.storage_dir), given.start_date, given.end_date)
        found = measure(asked, given.loaders, given.runs)
    except FeedrateError as error:
        say(f"benchmark_data_loaders: {error}", sys.stderr)
        return 2
    lines = as_text(rich_table(None, HEADINGS, rows(found)), WIDTH).splitlines()
    say("\n".join(line.rstrip() for line in lines if line.strip()))
    wrong = [one for one in found if one.verdict not in RANKABLE_VERDICTS]
    for one in wrong:
        say(f"{one.backend}: {one.verdict}: {one.message}", sys.stderr)
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark_data_loaders",
        description="Time load_historical_player_logs with each loader, beside the original.",
    )
    parser.add_argument("--start-date", help="YYYYMMDD, inclusive; default: the season's start")
    parser.add_argument("--end-date", required=True, help="YYYYMMDD; games before it are loaded")
    parser.add_argument("--runs", type=_count, default=3, help="of each loader; default: 3")
    parser.add_argument("--loaders", nargs="+", default=list(LOADERS), metavar="LOADER")
    parser.add_argument("--storage-dir", default="data/inputs", help="default: data/inputs")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of runs from 1 on")
    return int(text)


def _storage(folder: str) -> str:
    """The absolute path of the storage's folder.

    Raises:
        FeedrateError: there is nothing to load.
    """
    if not ParquetStorage(folder).files(DATA_TYPE):
        raise FeedrateError(
            f"{folder} has no {DATA_TYPE}; name another storage with --storage-dir, or make one "
            f"with: feedrate data box-scores {folder}"
        )
    return os.path.realpath(folder)


def measure(asked: Asked, loaders: Sequence[str], runs: int) -> list[Summary]:
    """Launch the loaders alternately; the original is always among them.

    Raises:
        FeedrateError: an unknown loader, or no rows between these dates.
    """
    names = dict.fromkeys([ORIGINAL, *loaders])
    trials = [_trial(get_backend(name).name) for name in names]
    scheduler = Scheduler(
        Spec(passes=CALLS, budget=None), trials, PlayerLogs(asked), NullSink(), sample_rows=False
    )
    for turn in range(runs):
        for trial in order_of(trials, turn):
            say(f"run {turn + 1} of {runs}: {trial.backend}", sys.stderr)
            scheduler.measure_new(trial, "confirming", turn)
    found = summarise(scheduler.samples)
    if not any(one.rows for one in found):
        raise FeedrateError(
            f"{asked.storage_dir} has no player logs from {asked.start_date or 'the season'} to "
            f"{asked.end_date}; name other dates"
        )
    return found


def _trial(backend: str) -> Trial:
    settings = LoaderSettings(backend=backend, num_workers=0, prefetch=0, cache="none", seed=0)
    return make_trial("frame", settings, 1)  # the method itself finds the files


def rows(found: Sequence[Summary]) -> Iterator[tuple[str, ...]]:
    """The table's rows, the original first; failed loaders have no figures."""
    original = next(one for one in found if one.backend == ORIGINAL)
    for one in sorted(found, key=lambda one: one.backend != ORIGINAL):
        later = list(one.later_passes.values())
        if one.verdict not in RANKABLE_VERDICTS or not later:
            yield one.backend, *[MISSING] * (len(HEADINGS) - 2), one.verdict
            continue
        first = compare_first(original, one)
        ratio = paired_by_round(original.later_passes, one.later_passes)
        yield (
            one.backend,
            _span(list(one.first_passes.values())),
            format_ratio(1.0) if one is original else format_times(first),
            _span(later),
            format_rows_per_s(one.rows / mean(later)),
            format_ratio(1.0) if one is original else format_times(ratio),
        )


def _span(times: Sequence[float]) -> str:
    low, high = map(format_seconds, (min(times), max(times)))
    return f"{format_seconds(mean(times))} ({low} to {high})"


if __name__ == "__main__":
    sys.exit(main())
