"""Which column a name means, and which numbers files may hold it in: one rule for every way."""

import os
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders import (
    OptimizedHistoricalDataLoader,
    ParquetDataset,
    ParquetStorage,
    PyTorchDataLoader,
    StreamingParquetDataset,
    TensorFlowDataLoader,
)
from feedrate.loaders.base.errors import ColumnError, ParquetFileError

from ..repeated_field import write_repeated

pytestmark = pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")


def _streamed(files, features):
    return PyTorchDataLoader(0).create_dataloader(
        StreamingParquetDataset(files, features), 100, shuffle=False
    )


def _streamed_in_slices(files, features):
    dataset = StreamingParquetDataset(files, features, chunk_size=2)
    return PyTorchDataLoader(2).create_dataloader(dataset, 100, shuffle=False)


def _numbered(files, features):
    dataset = ParquetDataset(files, features, cache_in_memory=True)
    return PyTorchDataLoader(0).create_dataloader(dataset, 100, shuffle=False)


def _batches(files, features, workers=0):
    loader = OptimizedHistoricalDataLoader(ParquetStorage("."), "pytorch", workers, profile=None)
    return loader.batches(files, features, batch_size=100, shuffle=False)


def _tensorflow(files, features):
    return TensorFlowDataLoader(0).create_streaming_dataset(
        files, features, batch_size=100, shuffle=False
    )


WAYS = {
    "stream": _streamed,
    "stream in slices": _streamed_in_slices,
    "dataset of files": _numbered,
    "batches of files": _batches,
    "batches by workers": lambda files, features: _batches(files, features, 2),
    "TensorFlow stream": _tensorflow,
}


@pytest.fixture(params=WAYS)
def features_of(request):
    """A function that loads files one way and gives all features, (rows, features)."""

    def load(files, features):
        found = WAYS[request.param]([str(file) for file in files], features)
        return np.concatenate([np.asarray(batch) for batch in found])

    return load


def test_a_column_named_like_a_field_of_a_struct_is_that_column(tmp_path, features_of):
    file = tmp_path / "file.parquet"
    shots = [{"made": None if at % 2 else at, "x": [at]} for at in range(5)]
    table = pa.table({"shot": shots, "shot.made": range(10, 15), "shot.x.y": range(20, 25)})
    pq.write_table(table, file)
    expected = [[20 + at, 10 + at] for at in range(5)]
    assert features_of([file], ["shot.x.y", "shot.made"]).tolist() == expected


def test_nulls_in_a_field_of_a_struct_change_no_other_columns_dtype(tmp_path):
    file = tmp_path / "file.parquet"
    large = [2**53 + 1, 2**53 + 3]
    field = pa.array([{"id": None}, {"id": 1}], pa.struct([("id", pa.int64())]))
    lists = pa.array([[{"k": 1, "v": None}], []], pa.list_(pa.struct([("k", "i8"), ("v", "i8")])))
    for names in (["shot", "lists", "shot.id"], ["lists", "shot.id", "shot"]):
        columns = {"shot": field, "lists": lists, "shot.id": pa.array(large)}
        pq.write_table(pa.table({name: columns[name] for name in names}), file)
        found = TensorFlowDataLoader(0).load_parquet_files_parallel(
            [str(file)], columns=["shot.id"]
        )
        tensor = next(iter(found))["shot.id"].numpy()
        assert tensor.dtype == np.int64
        assert tensor.tolist() == large


def test_nulls_of_a_column_are_found_behind_columns_of_many_leaves(tmp_path):
    file = tmp_path / "file.parquet"
    struct = pa.array([{"a": 1, "b": {"c": 2, "d": 3}}] * 3)
    mapping = pa.array([[("k", 1)]] * 3, pa.map_(pa.string(), pa.int8()))
    table = {"s": struct, "m": mapping, "whole": [1, 2, 3], "gaps": [1, None, 3]}
    pq.write_table(pa.table(table), file)
    found = TensorFlowDataLoader(0).load_parquet_files_parallel(
        [str(file)], columns=["whole", "gaps"]
    )
    tensors = next(iter(found))
    assert tensors["whole"].dtype == "int64"
    np.testing.assert_array_equal(tensors["gaps"].numpy(), [1, np.nan, 3])


def test_plain_columns_beside_a_repeated_field_are_read(tmp_path, features_of):
    file = tmp_path / "file.parquet"
    write_repeated(file)
    assert pd.read_parquet(file)["r"].map(list).tolist() == [[1, 2], [3], []]
    assert features_of([file], ["x"]).tolist() == [[10], [20], [30]]


@pytest.fixture
def twice(tmp_path):
    file = tmp_path / "file.parquet"
    columns = [pa.array([1, 2]), pa.array([3, 4]), pa.array([5.0, 6.0])]
    pq.write_table(pa.Table.from_arrays(columns, ["a", "a", "b"]), file)
    return file


def test_a_name_that_two_columns_have_is_an_error_and_other_columns_are_read(twice, features_of):
    with pytest.raises(ColumnError, match="there are several columns 'a'"):
        features_of([twice], ["a"])
    assert features_of([twice], ["b"]).tolist() == [[5], [6]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("columns", [None, ["a"], ["b", "a"]])
def test_a_frame_of_two_columns_of_one_name_is_an_error_that_names_file_and_column(
    twice, workers, columns
):
    loader = OptimizedHistoricalDataLoader(ParquetStorage("."), "pytorch", workers, profile=None)
    with pytest.raises(ColumnError, match=r"file\.parquet: there are several columns 'a'"):
        loader.load_files([twice], columns)
    tensors = TensorFlowDataLoader(workers)
    with pytest.raises(ColumnError, match=r"file\.parquet: there are several columns 'a'"):
        list(tensors.load_parquet_files_parallel([str(twice)], columns=columns))


AGREEING = {
    "decimal, double": ([Decimal("1.25"), None], [2.5, -1.0], [1.25, 0, 2.5, -1]),
    "boolean with nulls, integer": ([True, None, False], [1, 7], [1, 0, 0, 1, 7]),
    "boolean, double": ([True, False], [0.5], [1, 0, 0.5]),
    "integer, decimal": ([3, 4], [Decimal("0.5")], [3, 4, 0.5]),
    "integer with nulls, boolean": ([3, None], [True], [3, 0, 1]),
    "null, boolean": ([None, None], [True, None], [0, 0, 1, 0]),
}


@pytest.mark.parametrize("kinds", AGREEING)
def test_numbers_of_any_kind_agree_with_each_other(tmp_path, kinds, features_of):
    *columns, expected = AGREEING[kinds]
    files = [tmp_path / f"{at}.parquet" for at in range(len(columns))]
    for file, column in zip(files, columns, strict=True):
        pq.write_table(pa.table({"p": column}), file)
    assert features_of(files, ["p"])[:, 0].tolist() == expected


NOON = datetime(2025, 1, 2, 12)  # noqa: DTZ001 - as files without a zone have it
DIFFERING = {
    "date, timestamp": ([date(2025, 1, 1)], [NOON]),
    "timestamp, date": ([NOON], [date(2025, 1, 1)]),
    "integer, timestamp": ([1], [NOON]),
    "time, duration": ([NOON.time()], [timedelta(days=1, hours=12)]),
}


@pytest.mark.parametrize("kinds", DIFFERING)
def test_a_column_of_dates_and_of_timestamps_is_an_error(tmp_path, kinds, features_of):
    files = [tmp_path / f"{at}.parquet" for at in range(2)]
    for file, column in zip(files, DIFFERING[kinds], strict=True):
        pq.write_table(pa.table({"p": column}), file)
    with pytest.raises(ColumnError, match=r"column 'p' is .* in .*0\.parquet and .* in .*1\.parq"):
        features_of(files, ["p"])


def test_a_column_of_text_in_one_file_is_an_error_that_names_the_file(tmp_path, features_of):
    files = [tmp_path / f"{at}.parquet" for at in range(2)]
    for file, column in zip(files, ([1], ["one"]), strict=True):
        pq.write_table(pa.table({"p": column}), file)
    with pytest.raises(ColumnError, match=r"1\.parquet: column 'p' is string, not numeric"):
        features_of(files, ["p"])


def test_the_files_are_named_beside_one_that_is_skipped(tmp_path):
    files = [tmp_path / f"{at}.parquet" for at in range(3)]
    for file, column in zip(files[:2], DIFFERING["date, timestamp"], strict=True):
        pq.write_table(pa.table({"p": column}), file)
    files[2].write_bytes(b"no Parquet")
    loader = OptimizedHistoricalDataLoader(
        ParquetStorage("."), "original", profile=None, on_error="skip"
    )
    with pytest.raises(ColumnError, match=r"column 'p' is .* in .*0\.parquet and .* in .*1\.parq"):
        loader.batches(files, ["p"])


def test_a_frame_of_objects_is_an_error_without_files():
    loader = OptimizedHistoricalDataLoader(ParquetStorage("."), "original", profile=None)
    with pytest.raises(ColumnError, match="column 'p' is object, not numeric"):
        loader.batches(pd.DataFrame({"p": [date(2025, 1, 1), NOON]}, dtype=object), ["p"])


def test_timestamps_of_any_unit_and_zone_agree(tmp_path, features_of):
    files = [tmp_path / f"{at}.parquet" for at in range(2)]
    zoned = pa.array([NOON.replace(tzinfo=UTC)], pa.timestamp("ms", "UTC"))
    for file, column in zip(files, (zoned, pa.array([NOON], pa.timestamp("us"))), strict=True):
        pq.write_table(pa.table({"p": column}), file)
    seconds = np.float32(NOON.replace(tzinfo=UTC).timestamp())
    assert features_of(files, ["p"])[:, 0].tolist() == [seconds, seconds]


@pytest.mark.parametrize("last", [5, 2.5, None])
def test_integers_beyond_64_bits_become_the_nearest_float(last):
    frame = pd.DataFrame({"p": np.array([2**70, -(2**70) - 1, 10**400, last], object)})
    dataset = ParquetDataset.from_dataframe(frame, ["p"], dtype="float64")
    found = [float(x[0]) for x in dataset]
    assert found == [2.0**70, -(2.0**70), np.inf, last or 0]


def test_dates_with_what_pandas_puts_for_a_missing_one_are_days():
    dates = pd.DataFrame({"p": pd.Series([date(1970, 1, 3), pd.NaT, None], dtype=object)})
    assert [float(x[0]) for x in ParquetDataset.from_dataframe(dates, ["p"])] == [2, 0, 0]


@pytest.mark.parametrize("name", [0, None, b"a"])
def test_a_column_whose_name_is_no_text_is_an_error_that_names_those_there_are(
    tmp_path, features_of, name
):
    file = tmp_path / "file.parquet"
    pq.write_table(pa.table({"a": [1], "b": [2]}), file)
    told = rf"no file has a column {name!r}; the columns are: a, b"
    with pytest.raises(ColumnError, match=told):
        features_of([file], [name])
    for workers in (0, 2):
        storage = ParquetStorage(tmp_path)
        loader = OptimizedHistoricalDataLoader(storage, "pytorch", workers, profile=None)
        with pytest.raises(ColumnError, match=told):
            loader.load_files([file], [name])


def test_a_file_whose_name_is_not_utf_8_is_an_error_that_says_so(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "file.parquet")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.parquet"))
    (tmp_path / "file.parquet").rename(odd)
    loader = OptimizedHistoricalDataLoader(ParquetStorage(tmp_path), "pytorch", 2, profile=None)
    with pytest.raises(ParquetFileError, match="its name is not UTF-8, as Arrow requires; rename"):
        loader.load_files([odd])
    assert len(loader.load_files([])) == 0
