"""Data that the benchmarks share: all flights of 2013, one file a day."""

import pandas as pd
import pytest
from feedrate.harness.data import write_flights
from feedrate.loaders import ParquetStorage


@pytest.fixture(scope="session")
def flights(tmp_path_factory) -> list[str]:
    """The paths of 365 files, 336,776 rows together."""
    folder = tmp_path_factory.mktemp("data")
    write_flights(folder)
    return [str(path) for path in ParquetStorage(folder).files("flights")]


@pytest.fixture(scope="session")
def expected(flights) -> pd.DataFrame:
    """What the original makes of them."""
    return pd.concat([pd.read_parquet(path) for path in flights], ignore_index=True)
