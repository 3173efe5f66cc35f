"""The original loader: sequential, with pandas."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from .base.dates import (
    FIRST_DAY,
    LAST_DAY,
    as_closed_range,
    as_date,
    distinct_days,
    season_start,
    to_datetimes,
)
from .base.errors import ColumnError, InputError
from .base.settings import check_count
from .base.warn import warn
from .parquet.filters import Filters
from .parquet.original import read_frame
from .storage import ParquetStorage

SLATE_TYPES = ("dfs_salaries", "schedule", "betting_odds", "injuries")
HISTORICAL_TYPES = (*SLATE_TYPES, "box_scores")
DATE_COLUMN = "gameDate"
Paths = Sequence[str | os.PathLike[str]]


class HistoricalDataLoader:
    """Load dated data sequentially with pandas; the 1.0x baseline of every report.

    Args:
        storage: where the files are; a folder means `ParquetStorage(folder)`.

    Raises:
        InputError: `storage` is neither.
    """

    def __init__(self, storage: ParquetStorage | str | os.PathLike[str]) -> None:
        if isinstance(storage, str | os.PathLike):
            storage = ParquetStorage(storage)
        if not hasattr(storage, "base_dir"):
            raise InputError(f"storage is {storage!r}; give a ParquetStorage, or the folder of one")
        self.storage = storage

    def load_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        columns: Sequence[str] | None = None,
        filters: Filters | None = None,
    ) -> pd.DataFrame:
        """The rows of files, in the order given.

        Args:
            paths: Parquet files.
            columns: columns to load, in this order; all by default.
            filters: rows to keep, in the form that `pandas.read_parquet` takes.

        Raises:
            ColumnError: a column that no file has, or a filter column that some file lacks.
            InputError: a single path instead of several, or invalid filters.
            ParquetFileError: a file that cannot be read.
        """
        return read_frame(paths, columns, filters)

    def load_slate_data(
        self, date: object, data_types: Sequence[str] | None = None
    ) -> dict[str, str | pd.DataFrame]:
        """The data known for one date, one frame per type.

        Args:
            date: `YYYYMMDD`.
            data_types: the types to load; by default salaries, schedule, odds and injuries.

        Returns:
            `'date'`, and one frame per type, empty if there is no file for the date.

        Raises:
            InputError: an invalid date, or an unknown data type.
        """
        day = as_date(date)
        slate: dict[str, str | pd.DataFrame] = {"date": day}
        for name in _types(data_types, SLATE_TYPES):
            slate[name] = self.load_files(self.storage.files(name, day, day))
        return slate

    def load_historical_data(
        self, start_date: object, end_date: object, data_types: Sequence[str] | None = None
    ) -> dict[str, pd.DataFrame]:
        """All rows of files dated within a range, both ends inclusive, one frame per type.

        Args:
            start_date: `YYYYMMDD`.
            end_date: `YYYYMMDD`.
            data_types: the types to load; by default those of a slate and `box_scores`.

        Raises:
            InputError: an invalid date, a reversed range, or an unknown data type.
        """
        start, end = as_closed_range(start_date, end_date)
        return {
            name: self.load_files(self.storage.files(name, start, end))
            for name in _types(data_types, HISTORICAL_TYPES)
        }

    def load_historical_player_logs(
        self, start_date: object = None, end_date: object = None, num_seasons: int = 2
    ) -> pd.DataFrame:
        """Box scores of games before a date: the rows that a model for that date may use.

        Rows are selected by `gameDate`, not by file name, so that later rows cannot leak in.

        Args:
            start_date: first game date, inclusive; by default 1 October of the season that is
                `num_seasons - 1` seasons before that of `end_date`.
            end_date: end of the range, exclusive; required.
            num_seasons: seasons to go back, including the current one.

        Returns:
            The rows in file order, renumbered, with `gameDate` as datetimes.

        Raises:
            InputError: no `end_date`, an invalid date, or a reversed range.
            ColumnError: `gameDate` is missing, or holds values that are not dates.
        """
        if end_date is None:
            raise InputError("end_date is required: only games before it are loaded")
        check_count("num_seasons", num_seasons, 1)
        end = as_date(end_date, "end_date")
        first = season_start(end, num_seasons) if start_date is None else start_date
        start, end = as_closed_range(first, end)
        logs, left_out = self._logs_within(self._box_scores(), start, end)
        if logs.columns.empty:
            return logs
        days = self._days(logs, "box_scores", left_out)
        logs[DATE_COLUMN] = days
        return _rows_of(logs, _between(days, pd.Timestamp(start), pd.Timestamp(end)))

    def load_slate_dates(self, start_date: object, end_date: object) -> list[str]:
        """Dates with games: the sorted distinct `gameDate`s of `schedule` in a range.

        Args:
            start_date: `YYYYMMDD`, inclusive.
            end_date: `YYYYMMDD`, inclusive.

        Raises:
            InputError: an invalid date, or a reversed range.
            ColumnError: `gameDate` is missing, or holds values that are not dates.
        """
        start, end = as_closed_range(start_date, end_date)
        files = self.storage.files("schedule")
        if not files:
            return []
        days = self._days(self.load_files(files, [DATE_COLUMN]), "schedule").dt.normalize()
        kept = (days >= pd.Timestamp(start)) & (days <= pd.Timestamp(end))
        return list(distinct_days(days[kept]))

    def _box_scores(self) -> Paths:
        files = self.storage.files("box_scores")
        if not files:
            types = ", ".join(self.storage.data_types()) or "none"
            warn(
                f"{self.storage.base_dir} has no box_scores, which player logs need; its data "
                f"types are: {types}. load_historical_data(start, end, data_types=[...]) and "
                "load_files(paths) load others"
            )
        return files

    def _logs_within(self, files: Paths, start: str, end: str) -> tuple[pd.DataFrame, int]:
        """Box scores with all rows of a range, and the number of other dated rows left out."""
        del start, end
        return self.load_files(files), 0

    def _days(self, frame: pd.DataFrame, data_type: str, left_out: int = 0) -> pd.Series:
        if DATE_COLUMN not in frame.columns:
            raise ColumnError(
                f"{data_type} has no column {DATE_COLUMN!r}, which gives the date of each row. Its "
                f"columns are: {', '.join(map(str, frame.columns))}"
            )
        days = to_datetimes(frame[DATE_COLUMN], DATE_COLUMN)
        missing = int(np.isnat(days.to_numpy()).sum())
        if missing:
            rows = len(days) + left_out
            warn(
                f"{missing} of {rows} rows of {data_type} have no {DATE_COLUMN} and belong to no "
                "date; they are left out"
            )
        return days


def _between(days: pd.Series, start: pd.Timestamp, end: pd.Timestamp) -> np.ndarray:
    """A mask of the datetimes from `start` on and before `end`."""
    if start >= FIRST_DAY and end <= LAST_DAY:
        times = days.to_numpy()  # pandas takes ten times as long to compare a few thousand
        return (times >= start.to_datetime64()) & (times < end.to_datetime64())
    # numpy would convert the bounds to the column's unit, which may be too fine for them.
    return ((days >= start) & (days < end)).to_numpy()


def _rows_of(frame: pd.DataFrame, kept: np.ndarray) -> pd.DataFrame:
    """The kept rows of a frame, renumbered.

    Contiguous rows are not copied, unless the view would keep a much larger frame in memory.
    """
    positions = np.flatnonzero(kept)
    if len(positions) == len(frame):
        return frame
    if len(positions) > len(frame) // 2 and positions[-1] - positions[0] + 1 == len(positions):
        return frame[positions[0] : positions[-1] + 1].reset_index(drop=True)
    return frame[kept].reset_index(drop=True)


def _types(data_types: Sequence[str] | None, default: Sequence[str]) -> Sequence[str]:
    if isinstance(data_types, str):
        raise InputError(f"data_types is {data_types!r}; give a list, [{data_types!r}]")
    return default if data_types is None else data_types
