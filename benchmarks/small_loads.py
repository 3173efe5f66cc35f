"""`load_historical_player_logs` of a few small files, in a fresh process and in a warm one."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from feedrate.loaders import (
    HistoricalDataLoader,
    LoaderSettings,
    OptimizedHistoricalDataLoader,
    ParquetStorage,
)

from . import requirements as names
from .data import Setup, expect_frame
from .fresh import Ready, run_fresh
from .interleave import Comparison, Prepared, Side

ROWS = 300
FIRST_DAY, END = "2024-01-01", "20991231"
SEASONS = 90  # so that all files are loaded


def _storage(setup: Setup, files: int) -> ParquetStorage:
    """A storage of daily box scores with six columns, written if missing."""
    storage = ParquetStorage(Path(setup.scratch, f"player-logs-{files}"))
    if storage.base_dir.exists():
        return storage
    draw = np.random.default_rng(0)
    for day in pd.date_range(FIRST_DAY, periods=files):
        frame = pd.DataFrame({
            "player_id": draw.integers(0, 500, ROWS),
            "team": draw.choice(["BOS", "DEN", "LAL", "MIA"], ROWS),
            "points": draw.integers(0, 40, ROWS),
            "minutes": draw.normal(25, 8, ROWS),
            "pace": draw.normal(100, 4, ROWS),
            "gameDate": f"{day:%Y%m%d}",
        })  # fmt: skip
        storage.save(frame, "box_scores", f"{day:%Y%m%d}")
    return storage


def _loader(storage: ParquetStorage, side: str) -> HistoricalDataLoader:
    if side == names.ORIGINAL:
        return HistoricalDataLoader(storage)
    settings = LoaderSettings(cache="memory" if side == names.CACHED else "none")
    return OptimizedHistoricalDataLoader(storage, settings=settings, profile=None)


def _load(loader: HistoricalDataLoader) -> pd.DataFrame:
    return loader.load_historical_player_logs(end_date=END, num_seasons=SEASONS)


def timed_first_call(options: dict[str, Any], ready: Ready) -> tuple[float, Any]:
    """Time the first call of a process, including imports and starts."""
    setup = Setup(**options["setup"])
    loader = _loader(_storage(setup, options["files"]), options["side"])
    ready()
    start = time.perf_counter()
    frame = _load(loader)
    return time.perf_counter() - start, frame


def _first(files: int, setup: Setup) -> Prepared:
    _storage(setup, files)

    def call(side: str) -> Side:
        options = {"setup": vars(setup), "files": files, "side": side}
        return Side(lambda: run_fresh(timed_first_call, options), measures_itself=True)

    return Prepared({names.ORIGINAL: call(names.ORIGINAL), names.OURS: call(names.OURS)})


def _later(files: int, setup: Setup) -> Prepared:
    storage = _storage(setup, files)
    expected = _load(HistoricalDataLoader(storage))
    loaders = {side: _loader(storage, side) for side in (names.ORIGINAL, names.OURS, names.CACHED)}
    for loader in loaders.values():  # until all is imported and cached
        for _ in range(20):
            _load(loader)
    return Prepared({
        side: Side(partial(_load, loader), expect_frame(expected))
        for side, loader in loaders.items()
    })  # fmt: skip


COMPARISONS = (
    *(
        Comparison(
            f"player-logs-first-{files}",
            f"player logs, {files} files of 300 rows, first call of a process",
            (names.ORIGINAL, names.OURS),
            rounds=7,
            prepare=partial(_first, files),
        )
        for files in names.SMALL
    ),
    *(
        Comparison(
            f"player-logs-later-{files}",
            f"player logs, {files} files of 300 rows, warm",
            (names.ORIGINAL, names.OURS, names.CACHED),
            rounds=15,
            prepare=partial(_later, files),
        )
        for files, bounds in names.SMALL.items()
        if bounds[1]
    ),
)
