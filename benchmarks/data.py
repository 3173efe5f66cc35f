"""The data of the comparisons (flights, lineitem and a matrix), and the checks of results."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feedrate.harness.datasets.data import write_flights, write_lineitem
from feedrate.harness.trial.fingerprint import fingerprint_batches
from feedrate.loaders import (
    HistoricalDataLoader,
    LoaderSettings,
    OptimizedHistoricalDataLoader,
    ParquetStorage,
)

MATRIX_ROWS = 1_000_000
FEATURES = tuple(f"x{number:02d}" for number in range(32))
TARGET = "y"
INTEGER_COLUMNS = ["l_orderkey", "l_partkey", "l_suppkey", "l_linenumber"]


@dataclass(frozen=True)
class Setup:
    """The folders of the data, and the data size of worker processes."""

    data: str
    """A storage's folder with flights and lineitem."""
    scratch: str
    """A folder for caches and links; it is removed after the run."""
    gib: float = 1.0
    """Data that worker processes share, in GiB."""

    def files(self, data_type: str) -> list[str]:
        """The paths of a data type's files."""
        return [str(path) for path in self.storage.files(data_type)]

    @property
    def storage(self) -> ParquetStorage:
        """The storage of the data."""
        return ParquetStorage(self.data)

    @property
    def original(self) -> HistoricalDataLoader:
        """The original loader, 1.0x of every frame."""
        return HistoricalDataLoader(self.storage)

    def loader(self, **settings: Any) -> OptimizedHistoricalDataLoader:
        """Our loader with these settings, otherwise the defaults, and no profile."""
        return OptimizedHistoricalDataLoader(
            self.storage, settings=LoaderSettings(**settings), profile=None
        )

    def many_times(self, data_type: str, times: int) -> list[str]:
        """A data type's files under `times` names each, by symbolic links."""
        folder = Path(self.scratch, f"{data_type}-{times}")
        folder.mkdir(exist_ok=True)
        links = []
        for copy in range(times):
            for path in map(Path, self.files(data_type)):
                link = folder / f"{path.stem}_{copy}{path.suffix}"
                if not link.exists():
                    link.symlink_to(path.absolute())
                links.append(str(link))
        return links


def make_data(folder: Path) -> None:
    """Write missing data: 365 files of flights, 60 of lineitem."""
    if not (folder / "flights").exists():
        write_flights(folder)
    if not (folder / "lineitem").exists():
        write_lineitem(folder, scale=1)


@functools.cache
def matrix_frame(rows: int = MATRIX_ROWS) -> pd.DataFrame:
    """Random float32 features and a target, the same in each process."""
    values = np.random.default_rng(0).standard_normal((rows, len(FEATURES) + 1), dtype=np.float32)
    return pd.DataFrame(values, columns=[*FEATURES, TARGET])


def matrix_arrays(rows: int = MATRIX_ROWS) -> tuple[np.ndarray, np.ndarray]:
    """The frame's values as contiguous arrays of shape (rows, features) and (rows,), for peers."""
    frame = matrix_frame(rows)
    return np.ascontiguousarray(frame[list(FEATURES)]), frame[TARGET].to_numpy(copy=True)


def read_every_number(frame: pd.DataFrame) -> list[Any]:
    """Read all values of all numeric columns by adding them up."""
    return [column.to_numpy().sum() for _, column in frame.select_dtypes("number").items()]


def expect_frame(expected: pd.DataFrame) -> Any:
    """A check that a frame equals the original's exactly."""

    def check(frame: pd.DataFrame) -> None:
        pd.testing.assert_frame_equal(frame, expected)

    return check


def expect_arrow(expected: pa.Table) -> Any:
    """A check that a frame of Arrow dtypes holds a table's values."""

    def check(frame: pd.DataFrame) -> None:
        if list(frame.columns) != expected.column_names:
            raise AssertionError(f"columns are {list(frame.columns)}")
        for name, column in frame.items():
            if not isinstance(column.dtype, pd.ArrowDtype):
                raise AssertionError(f"{name} is {column.dtype}")  # noqa: TRY004 - a wrong result
            given = pa.chunked_array(column.array.__arrow_array__())
            if not _wide_text(given).equals(_wide_text(expected[str(name)])):
                raise AssertionError(f"values of {name} differ")

    return check


def _wide_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cast text of any offset width to one type; return other values unchanged."""
    kind = values.type
    if pa.types.is_string_view(kind) or pa.types.is_string(kind):
        return values.cast(pa.large_string())
    return values


def expect_rows(expected: Iterable[Any], rows: int) -> Any:
    """A check that an epoch of batches holds every row exactly once, in any order.

    The check takes the result of `side.run` and iterates it for another epoch.
    """
    wanted = fingerprint_batches(expected, ordered=False)
    if wanted.rows != rows:
        raise AssertionError(f"{wanted.rows} rows are not {rows}")

    def check(batches: Iterable[Any]) -> None:
        found = fingerprint_batches(batches, ordered=False)
        if found != wanted:
            raise AssertionError(f"rows differ: {found} in place of {wanted}")

    return check


def integer_rows(paths: Iterable[str]) -> Iterator[np.ndarray]:
    """The integer columns of files of lineitem, one float32 matrix per file."""
    for path in paths:
        yield stacked(pd.read_parquet(path, columns=list(INTEGER_COLUMNS)), INTEGER_COLUMNS)


def stacked(columns: Any, names: Sequence[str]) -> np.ndarray:
    """Columns by name as a float32 matrix."""
    return np.column_stack([np.asarray(columns[name], dtype=np.float32) for name in names])
