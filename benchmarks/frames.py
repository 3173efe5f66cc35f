"""The frame job without a cache: from files in the page cache to one DataFrame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from . import requirements as names
from .data import Setup, expect_arrow, expect_frame
from .interleave import Comparison, Prepared, Side

Paths = Sequence[str]


def pandas_list(paths: Paths) -> pd.DataFrame:
    return pd.read_parquet(list(paths))


def pyarrow_dataset(paths: Paths) -> pd.DataFrame:
    return ds.dataset(list(paths)).to_table().to_pandas()


def polars_to_pandas(paths: Paths) -> pd.DataFrame:
    return polars_decode(paths).to_pandas()


def duckdb_to_pandas(paths: Paths) -> pd.DataFrame:
    import duckdb

    return duckdb.read_parquet(list(paths)).df()


def polars_decode(paths: Paths) -> Any:
    """Decoding alone, by the fastest decoder we know; other decoders may be faster."""
    import polars as pl

    return pl.read_parquet(list(paths))


def pyarrow_decode(paths: Paths, columns: Paths | None = None) -> list[Any]:
    """Decoding alone, one file per call in two threads: faster here than Arrow's own pool."""

    def read(path: str) -> Any:
        return pq.ParquetFile(path).read(columns, use_threads=False)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(read, paths))


PEERS: dict[str, Callable[[Paths], pd.DataFrame]] = {
    "pandas(list)": pandas_list,
    "pyarrow.dataset": pyarrow_dataset,
    "polars": polars_to_pandas,
    "duckdb": duckdb_to_pandas,
}
DECODERS: dict[str, Callable[[Paths], Any]] = {
    "polars, decode only": polars_decode,
    "pyarrow, decode only": pyarrow_decode,
}


def _flights(setup: Setup) -> Prepared:
    paths = setup.files("flights")
    original, ours = setup.original, setup.loader(backend="pytorch", cache="none")
    expected = original.load_files(paths)
    check = expect_frame(expected)
    sides = {
        names.ORIGINAL: Side(lambda: original.load_files(paths), check),
        names.PYTORCH: Side(lambda: ours.load_files(paths), check),
        **{name: Side(lambda way=way: way(paths), check) for name, way in PEERS.items()},
        **{name: Side(lambda way=way: way(paths)) for name, way in DECODERS.items()},
        "deep copy of the frame": Side(lambda: expected.copy(deep=True), check),
    }
    return Prepared(sides)


def _flights_tf(setup: Setup) -> Prepared:
    paths = setup.files("flights")
    original, ours = setup.original, setup.loader(backend="tensorflow", cache="none")
    check = expect_frame(original.load_files(paths))
    sides = {
        names.ORIGINAL: Side(lambda: original.load_files(paths), check),
        names.TENSORFLOW: Side(lambda: ours.load_files(paths), check),
    }
    return Prepared(sides)


def _lineitem(setup: Setup) -> Prepared:
    paths = setup.files("lineitem")
    original = setup.original
    ours = setup.loader(backend="pytorch", cache="none")
    arrow = setup.loader(backend="pytorch", cache="none", dtype_backend="pyarrow")

    # The original's frame holds gigabytes of Python objects: the one of its warm-up is kept only
    # until ours, the next warm-up, is compared with it.
    kept: list[pd.DataFrame] = []

    def check_all(frame: pd.DataFrame) -> None:
        pd.testing.assert_frame_equal(frame, kept.pop())

    def check_arrow(frame: pd.DataFrame) -> None:
        expect_arrow(ds.dataset(paths).to_table())(frame)

    sides = {
        names.ORIGINAL: Side(lambda: original.load_files(paths), kept.append),
        names.OURS: Side(lambda: ours.load_files(paths), check_all),
        f"{names.OURS} pyarrow dtypes": Side(lambda: arrow.load_files(paths), check_arrow),
        **{name: Side(lambda way=way: way(paths)) for name, way in DECODERS.items()},
    }
    return Prepared(sides)


COMPARISONS = (
    Comparison(
        "frame-flights",
        "frame, no cache, flights",
        (names.ORIGINAL, names.PYTORCH, *PEERS, *DECODERS, "deep copy of the frame"),
        rounds=9,
        prepare=_flights,
    ),
    Comparison(
        "frame-flights-tf",
        "frame, no cache, flights, TensorFlow",
        (names.ORIGINAL, names.TENSORFLOW),
        rounds=9,
        prepare=_flights_tf,
    ),
    Comparison(
        "frame-lineitem",
        "frame, no cache, lineitem",
        (names.ORIGINAL, names.OURS, f"{names.OURS} pyarrow dtypes", *DECODERS),
        rounds=3,
        prepare=_lineitem,
    ),
)
