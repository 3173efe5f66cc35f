"""A walk-forward backtest of fantasy points: `python -m benchmarks.walk_forward`.

For each test day, a ridge regression is fitted on the games before that day, and predicts the
players of that day's slate, so it uses no later information. All history is loaded again for each
day, as backtests do. With `OptimizedHistoricalDataLoader` in place of the original, the predictions
are the same to the last bit, and the time left is the model's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from feedrate.harness.datasets.data import write_box_scores
from feedrate.harness.system.formats import format_ratio, format_seconds
from feedrate.loaders import (
    HistoricalDataLoader,
    LoaderSettings,
    OptimizedHistoricalDataLoader,
    ParquetStorage,
)
from feedrate.loaders.base.errors import FeedrateError, InputError

from .interleave import order_of
from .search import say

TARGET = "fantasy_points_dk"
STATS = ("minutes", "points", "rebounds", "assists", "steals", "blocks", "turnovers", TARGET)
FORM = 10  # a player's form is his mean over this many games
# Of the ridge: small compared with thousands of games, and enough for players with few games.
PENALTY = 10.0
DAYS, TEST_DAYS = 120, 30  # generated without --storage-dir, and tested by default
CELL_DAYS = 10  # loaded one after the other by the gate's cell


@dataclass(frozen=True)
class Backtest:
    """The result of a walk-forward backtest.

    Attributes:
        predictions: a row for each player and test day, with `gameDate`, `player_id`, `predicted`
            and `actual` (missing where he did not play).
        load_s: seconds of loading.
        model_s: seconds of everything else.
    """

    predictions: pd.DataFrame
    load_s: float
    model_s: float

    @property
    def error(self) -> float:
        """The mean absolute error in fantasy points, over those who played."""
        return float((self.predictions["predicted"] - self.predictions["actual"]).abs().mean())


def backtest(loader: HistoricalDataLoader, days: Iterable[str]) -> Backtest:
    """Predict each day's slate from the games before it, and add the actual points.

    Args:
        loader: the original or its replacement.
        days: the test days as YYYYMMDD, in order; there must be games before the first.
    """
    start, load_s = time.perf_counter(), 0.0
    parts = []
    for day in days:
        asked = time.perf_counter()
        games = loader.load_historical_player_logs(end_date=day)
        slate = loader.load_slate_data(day, ["dfs_salaries"])["dfs_salaries"]
        load_s += time.perf_counter() - asked
        known, form = _history(games)
        weights = _ridge(known, games[TARGET].to_numpy(float))
        players = slate["player_id"].drop_duplicates().to_numpy()
        found = form.reindex(players).fillna(0.0)
        predicted = _with_constant(found.to_numpy(float)) @ weights
        asked = time.perf_counter()
        actual = loader.load_historical_data(day, day, ["box_scores"])["box_scores"]
        load_s += time.perf_counter() - asked
        parts.append(
            pd.DataFrame({"gameDate": day, "player_id": players, "predicted": predicted}).merge(
                actual[["player_id", TARGET]].rename(columns={TARGET: "actual"}), "left"
            )
        )
    model_s = time.perf_counter() - start - load_s
    return Backtest(pd.concat(parts, ignore_index=True), load_s, model_s)


def _history(games: pd.DataFrame) -> tuple[np.ndarray[Any, Any], pd.DataFrame]:
    """The form before each game, shape (games, stats), and each player's form after the last."""
    ordered = games.sort_values("gameDate", kind="stable")
    players = ordered["player_id"]
    sums = ordered[list(STATS)].astype(float).fillna(0.0).groupby(players).cumsum()
    recent = sums - sums.groupby(players).shift(FORM).fillna(0.0)
    counts = (players.groupby(players).cumcount() + 1).clip(upper=FORM)
    means = recent.div(counts, axis=0)
    before = means.groupby(players).shift(1).fillna(0.0)  # without the game itself
    return before.loc[games.index].to_numpy(float), means.groupby(players).last()


def _ridge(features: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weights of a ridge regression; the constant's comes first and has no penalty."""
    known = ~np.isnan(target)
    x, y = _with_constant(features[known]), target[known]
    penalty = PENALTY * np.eye(x.shape[1])
    penalty[0, 0] = 0.0
    return np.linalg.solve(x.T @ x + penalty, x.T @ y)


def _with_constant(features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.column_stack([np.ones(len(features)), features])


def load_days(
    settings: LoaderSettings, files: Sequence[str], columns: Sequence[str] | None, *_: Any
) -> pd.DataFrame:
    """A loader for the gate: load day after day as a walk-forward does; return the last frame."""
    workers = settings.num_workers
    ours = settings.__class__(backend="pytorch", num_workers=workers, cache="memory")
    loader = OptimizedHistoricalDataLoader(ParquetStorage(), settings=ours, profile=None)
    frame = pd.DataFrame()
    for left in reversed(range(min(CELL_DAYS, len(files)))):
        frame = loader.load_files(files[: len(files) - left], columns)
    return frame


load_days.uses = {"num_workers"}  # type: ignore[attr-defined]  # the cache is fixed


def main(arguments: Sequence[str] | None = None) -> int:
    """Alternate backtests of both loaders; return 1 if predictions differ, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.walk_forward", description=__doc__)
    parser.add_argument("--storage-dir", help="box_scores and dfs_salaries; default: generated")
    parser.add_argument("--days", type=_count, default=TEST_DAYS, help="the last days are tested")
    parser.add_argument("--loader", default="pytorch", help="backend of the optimized loader")
    parser.add_argument("--rounds", type=_count, default=3, help="of both loaders, alternating")
    given = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="feedrate-") as folder:
            if given.storage_dir is None:
                write_box_scores(Path(folder), days=DAYS)
            storage = ParquetStorage(given.storage_dir or folder)
            days = _last_days(storage, given.days)
            runs = _runs(storage, given.loader, days, given.rounds)
    except FeedrateError as error:
        say(f"walk_forward: {error}", sys.stderr)
        return 2
    return _show(runs, len(days))


def _runs(
    storage: ParquetStorage, loader: str, days: Sequence[str], rounds: int
) -> dict[str, list[Backtest]]:
    """Alternate backtests of both loaders, each with a new instance."""
    loaders = {
        "original": lambda: HistoricalDataLoader(storage),
        "optimized": lambda: OptimizedHistoricalDataLoader(storage, loader),
    }
    for make in loaders.values():  # imports and thread pools do not count
        backtest(make(), days[:1])
    runs: dict[str, list[Backtest]] = {name: [] for name in loaders}
    for turn in range(rounds):
        for name in order_of(list(loaders), turn):
            runs[name].append(backtest(loaders[name](), days))
    return runs


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _last_days(storage: ParquetStorage, count: int) -> list[str]:
    """The last days that have a slate.

    Raises:
        InputError: there are no earlier days, so nothing is known before the first.
    """
    slates = storage.load("dfs_salaries")
    every = sorted(set(slates["gameDate"].astype(str))) if "gameDate" in slates else []
    if len(every) <= count:
        raise InputError(
            f"{storage.base_dir} has {len(every)} days of dfs_salaries; test fewer with --days"
        )
    return every[-count:]


def _show(runs: dict[str, list[Backtest]], days: int) -> int:
    first = {name: found[0] for name, found in runs.items()}
    expected = first["original"].predictions
    same = all(one.predictions.equals(expected) for found in runs.values() for one in found)
    say(f"{'Loader':10}  {'Loading':>10}  {'Model':>10}  {'Total':>10}")
    totals = {}
    for name, found in runs.items():
        load_s, model_s = (
            median(getattr(one, what) for one in found) for what in ("load_s", "model_s")
        )
        totals[name] = median(one.load_s + one.model_s for one in found)
        cells = (format_seconds(value) for value in (load_s, model_s, totals[name]))
        say(f"{name:10}  " + "  ".join(f"{cell:>10}" for cell in cells))
    original = first["original"]
    say(
        f"{days} days, {len(original.predictions):,} predictions, off by {original.error:.2f} "
        f"fantasy points on average; identical: {'yes' if same else 'NO'}. The whole backtest: "
        f"{format_ratio(totals['original'] / totals['optimized'])} as fast (medians, n = "
        f"{len(runs['original'])})."
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
