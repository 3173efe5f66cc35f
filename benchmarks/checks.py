"""Measure the cost of the checks of decoded pages: `python -m benchmarks.checks`, under a minute.

While two workers load frames, the CPU seconds of `page_checks.agree` are counted in the threads
that run it, and those of the whole load in the process. The share is the checks' CPU time over that
of the rest of the load. The results go to `benchmarks/CHECKS.md`; the exit status is 1 if a share
is larger than required.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from feedrate.harness.datasets.data import write_flights
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.caching.tiers import make_cache
from feedrate.loaders.choosing.registry import get_backend
from feedrate.loaders.frames import engine

from .table import requirements_page

LOADS = 21
REQUIRED = 0.03
REPORT = Path(__file__).parent / "CHECKS.md"
HEADER = (
    "files", "number", "load, CPU of a file", "checks, CPU of a file", "share",
    "lowest, highest",
)  # fmt: skip


@dataclass
class Spent:
    """CPU seconds of the checks, over all threads."""

    seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, seconds: float) -> None:
        """Add some seconds."""
        with self._lock:
            self.seconds += seconds


@contextmanager
def counted_checks() -> Iterator[Spent]:
    """Count the CPU seconds of the checks within this context."""
    spent, agree = Spent(), engine.agree

    def timed(*given: Any) -> bool:
        start = time.thread_time()
        agreed = agree(*given)
        spent.add(time.thread_time() - start)
        if not agreed:
            raise AssertionError("a good file does not agree with itself")
        return agreed

    engine.agree = timed
    try:
        yield spent
    finally:
        engine.agree = agree


def prices(rows: int, missing: float, seed: int) -> pd.DataFrame:
    """A day of prices: an integer, a text and twelve floats, of which some are missing."""
    draw = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "day": np.full(rows, seed),
        "ticker": [f"T{number}" for number in draw.integers(0, 500, rows)],
    }
    for number in range(12):
        values = draw.normal(size=rows)
        values[draw.random(rows) < missing] = np.nan
        columns[f"c{number}"] = values
    return pd.DataFrame(columns)


def identifiers(seed: int) -> pd.DataFrame:
    """6,000 rows of an integer with gaps and a text without repeats."""
    draw = np.random.default_rng(seed)
    numbers = pd.Series(draw.integers(0, 1000, 6000)).astype("Int64")
    return pd.DataFrame({
        "i": numbers.mask(draw.random(6000) < 0.02),
        "u": [f"u{number}" for number in draw.integers(0, 1 << 60, 6000)],
    })  # fmt: skip


def written(
    folder: Path, count: int, make: Callable[[int], pd.DataFrame], **options: Any
) -> list[Path]:
    """Write `count` files, each with the frame that `make` returns for its number."""
    folder.mkdir()
    paths = [folder / f"{number:05}.parquet" for number in range(count)]
    for number, path in enumerate(paths):
        make(number).to_parquet(path, **options)
    return paths


def datasets(scratch: Path) -> dict[str, list[Path]]:
    """Files by name: real and generated ones, with and without gaps and compression."""
    write_flights(scratch)
    flights = sorted((scratch / "flights").rglob("*.parquet"))
    plain = scratch / "plain"
    return {
        "flights": flights,
        "flights, uncompressed": written(
            plain, len(flights), lambda number: pd.read_parquet(flights[number]), compression=None
        ),
        "200 rows of prices": written(scratch / "a", 400, lambda seed: prices(200, 0, seed)),
        "200 rows, gaps in 12 columns of 14": written(
            scratch / "b", 400, lambda seed: prices(200, 0.05, seed)
        ),
        "6,000 rows, gaps in 12 columns of 14": written(
            scratch / "c", 60, lambda seed: prices(6000, 0.05, seed)
        ),
        "6,000 rows, gaps in 12 columns of 14, uncompressed": written(
            scratch / "d", 60, lambda seed: prices(6000, 0.05, seed), compression=None
        ),
        "6,000 rows, gaps in 1 column of 2, uncompressed": written(
            scratch / "e", 60, identifiers, compression=None
        ),
    }


def shares(paths: Sequence[Path], loads: int) -> list[tuple[float, float]]:
    """CPU seconds of the checks and of the rest, for each load after a warm-up."""
    settings = LoaderSettings(backend="pytorch", num_workers=2, prefetch=0)
    found = []
    for _ in range(loads + 1):
        reader = get_backend("pytorch").frame(settings, make_cache("none"), "concat", "raise")
        with counted_checks() as spent:
            start = time.process_time()
            reader.load(paths)
            whole = time.process_time() - start
        found.append((spent.seconds, whole - spent.seconds))
    return found[1:]


def main() -> int:
    """Measure, write the report, and return 1 if a share is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=LOADS, help="loads of each dataset")
    parser.add_argument("--report", type=Path, default=REPORT, help="where the table goes")
    given = parser.parse_args()
    rows, misses = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name, paths in datasets(Path(scratch)).items():
            found = shares(paths, given.loads)
            ratios = sorted(checks / rest for checks, rest in found)
            checks, rest = (
                median(column) / len(paths) * 1e6 for column in zip(*found, strict=True)
            )
            rows.append([
                name, str(len(paths)), f"{rest:.0f} µs", f"{checks:.1f} µs",
                f"{median(ratios):.1%}", f"{ratios[0]:.1%}, {ratios[-1]:.1%}",
            ])  # fmt: skip
            if median(ratios) > REQUIRED:
                misses.append(f"{name}: {median(ratios):.1%}")
    text = requirements_page(
        "Cost of the checks of decoded pages",
        f"Written by `python -m benchmarks.checks --loads {given.loads}` on "
        f"{datetime.now(UTC):%Y-%m-%d}: CPU seconds of the checks over those of the rest of a "
        "load, two workers, no cache, medians.",
        HEADER,
        rows,
        f"Required: at most {REQUIRED:.0%} of a load.",
        misses,
    )
    given.report.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return int(bool(misses))


if __name__ == "__main__":
    sys.exit(main())
