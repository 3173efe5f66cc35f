"""The frame job beside other ways to the same DataFrame: 365 files, warm page cache, no cache.

Run with `tox -e bench`. Compare the medians within one run; absolute figures move from run to run.
"""

import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest
from feedrate.loaders import HistoricalDataLoader, OptimizedHistoricalDataLoader, ParquetStorage


def original(paths):
    return HistoricalDataLoader(ParquetStorage()).load_files(paths)


def pandas_list(paths):
    return pd.read_parquet(paths)


def pyarrow_dataset(paths):
    return ds.dataset(paths).to_table().to_pandas()


def polars(paths):
    return pl.read_parquet(paths).to_pandas()


def ours(backend, workers):
    loader = OptimizedHistoricalDataLoader(
        ParquetStorage(), backend, workers, enable_cache=False, profile=None
    )
    return loader.load_files


WAYS = {
    "original": original,
    "pandas.read_parquet(list)": pandas_list,
    "pyarrow.dataset": pyarrow_dataset,
    "polars": polars,
    "feedrate pytorch": ours("pytorch", 2),
    "feedrate tensorflow": ours("tensorflow", 2),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.benchmark(group="frame, flights", warmup=True, warmup_iterations=1, min_rounds=7)
def test_frame_of_flights(benchmark, flights, expected, way):
    frame = benchmark(WAYS[way], flights)
    pd.testing.assert_frame_equal(frame, expected)
