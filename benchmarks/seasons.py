"""Player logs of two seasons: from ten seasons of daily files, and from these two alone."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feedrate.harness.datasets.data import write_box_scores
from feedrate.loaders import (
    HistoricalDataLoader,
    LoaderSettings,
    OptimizedHistoricalDataLoader,
    ParquetStorage,
)
from feedrate.loaders.base.settings import Cache

from . import requirements as names
from .data import Setup, expect_frame
from .interleave import Comparison, Prepared, Side

PAIRS = 5  # of seasons
PAIR_DAYS = 728  # whole weeks, near two years
START, END = "20231001", "20250901"
DATE = "gameDate"
ROUNDS = 15
Load = Callable[[], pd.DataFrame]


def write_seasons(folder: Path) -> tuple[ParquetStorage, ParquetStorage]:
    """Storages of ten seasons, and of the last two by hard links to the same files."""
    ten, two = ParquetStorage(folder / "ten"), ParquetStorage(folder / "two")
    if not (folder / "two").exists():
        write_box_scores(ten.base_dir, seasons=2)
        (two.base_dir / "box_scores").mkdir(parents=True)
        for path in ten.files("box_scores"):
            os.link(path, two.base_dir / "box_scores" / path.name)
            table = pq.read_table(path)
            for pair in range(1, PAIRS):
                _write_earlier(path, table, dt.timedelta(days=PAIR_DAYS * pair))
    return ten, two


def _write_earlier(path: Path, table: pa.Table, by: dt.timedelta) -> None:
    """Write a day's box scores as those of an earlier day."""
    column = table.schema.get_field_index(DATE)
    played = dt.datetime.strptime(table[DATE][0].as_py(), "%Y%m%d") - by  # noqa: DTZ007 - a day has no zone
    dates = pa.array([f"{played:%Y%m%d}"] * len(table), table.schema.field(column).type)
    earlier = table.set_column(column, table.schema.field(column), dates)
    pq.write_table(earlier, path.with_name(f"box_scores_{played:%Y%m%d}.parquet"))


def _prepare(cache: Cache, *, again: bool) -> Callable[[Setup], Prepared]:
    """Sides that load with a new loader each time, or `again` with the same loader."""

    def load_of(storage: ParquetStorage) -> Load:
        def new() -> OptimizedHistoricalDataLoader:
            settings = LoaderSettings(backend="pytorch", cache=cache)
            return OptimizedHistoricalDataLoader(storage, settings=settings, profile=None)

        known = new()

        def load() -> pd.DataFrame:
            loader = known if again else new()
            return loader.load_historical_player_logs(START, END)

        return load

    def prepare(setup: Setup) -> Prepared:
        ten, two = write_seasons(Path(setup.scratch))
        right = expect_frame(HistoricalDataLoader(ten).load_historical_player_logs(START, END))
        return Prepared(
            {
                names.TWO_OF_TEN: Side(load_of(ten), right),
                names.TWO_ALONE: Side(load_of(two), right),
            }
        )

    return prepare


SIDES = (names.TWO_OF_TEN, names.TWO_ALONE)
COMPARISONS = (
    Comparison("seasons", "player logs, no cache", SIDES, ROUNDS, _prepare("none", again=False)),
    Comparison(
        "seasons-first",
        "player logs, memory cache, first call",
        SIDES,
        ROUNDS,
        _prepare("memory", again=False),
    ),
    Comparison(
        "seasons-again",
        "player logs, memory cache, second call",
        SIDES,
        ROUNDS,
        _prepare("memory", again=True),
    ),
)
