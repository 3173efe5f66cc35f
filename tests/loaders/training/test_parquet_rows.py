"""Rows of files as they are read: in one order for any workers, bounded, and never wrong."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.base.errors import ColumnError, ParquetFileError
from feedrate.loaders.training.epochs import Order
from feedrate.loaders.training.matrix import Columns
from feedrate.loaders.training.parquet_rows import Chunk, ParquetRows

FILES, ROWS = 8, 50
TOTAL = FILES * ROWS


def write(path, low, rows, group=ROWS, **columns):
    values = {"a": np.arange(low, low + rows), **columns}
    pq.write_table(pa.table(values), path, row_group_size=group)
    return str(path)


@pytest.fixture
def paths(tmp_path):
    return [write(tmp_path / f"{at}.parquet", at * ROWS, ROWS, 20) for at in range(FILES)]


def delivered(rows, order, **kwargs):
    return [int(value) for (x,) in rows.chunks(order, **kwargs) for value in x[:, 0]]


@pytest.mark.parametrize("chunk_rows", [7, 20, 50, 1000])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_a_seed_gives_one_order_whatever_the_workers_and_every_row_once(paths, chunk_rows, window):
    rows = ParquetRows(paths, Columns.of(["a"]), chunk_rows)
    order = Order(shuffle=True, seed=5, window=window)
    first = delivered(rows, order)
    assert sorted(first) == list(range(TOTAL))
    assert delivered(rows, order, num_workers=3, prefetch=4) == first
    assert rows.indices(order).tolist() == first
    assert delivered(rows, Order(shuffle=True, seed=6, window=window)) != first
    assert delivered(rows, Order(), num_workers=2) == list(range(TOTAL))


@pytest.mark.parametrize("window", [1, 2, 4, 8])
def test_a_window_reaches_its_share_of_the_uniform_shuffles_displacement(paths, window):
    rows = ParquetRows(paths, Columns.of(["a"]), ROWS)
    apart = []
    for seed in range(20):
        place = np.argsort(delivered(rows, Order(shuffle=True, seed=seed, window=window)))
        spans = place.reshape(FILES, ROWS)
        apart += [np.abs(span[:, None] - span[None, :]).mean() for span in spans]
    assert np.mean(apart) / (TOTAL / 3) == pytest.approx(window / FILES, rel=0.1)


@pytest.mark.parametrize(("workers", "prefetch"), [(1, 0), (2, 0), (2, 3)])
def test_no_more_chunks_are_under_way_than_workers_and_prefetch(
    paths, monkeypatch, workers, prefetch
):
    begun = itertools.count(1)
    latest = [0]
    read = Chunk.read

    def counted(self, order):
        latest[0] = max(latest[0], next(begun))
        return read(self, order)

    monkeypatch.setattr(Chunk, "read", counted)
    rows = ParquetRows(paths, Columns.of(["a"]), 10)
    taken = 0
    for _ in rows.chunks(Order(shuffle=True), num_workers=workers, prefetch=prefetch):
        taken += 1
        assert latest[0] <= taken - 1 + workers + prefetch
    assert taken == latest[0] > 20


def test_files_that_agree_share_what_is_known_of_their_columns(tmp_path):
    paths = [write(tmp_path / f"{at}.parquet", 0, 5, note=[str(at)] * 5) for at in range(FILES)]
    rows = ParquetRows(paths, Columns.of(["a"]), 100)
    assert len({id(span.schema) for span in rows.spans}) == 1
    assert len({id(span.groups) for span in rows.spans}) == 1
    assert rows.spans[0].schema.metadata is None


@pytest.mark.parametrize("chunk_rows", [10, 1000])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_replaced_while_it_is_streamed_is_an_error_that_names_it(
    paths, tmp_path, chunk_rows, workers
):
    replaced = tmp_path / "3.parquet"

    def told():
        with pytest.raises(ParquetFileError, match=r"3\.parquet") as caught:
            delivered(rows, Order(shuffle=True), num_workers=workers)
        return caught.value.reason

    rows = ParquetRows(paths, Columns.of(["a"]), chunk_rows)
    write(replaced, 0, ROWS + 20, 20)  # the row groups there were are there still
    assert told() == "its number of rows has changed since it was first opened"
    write(replaced, 0, ROWS, 7)
    assert told() == "its number of rows has changed since it was first opened"
    write(replaced, 0, ROWS, 20, a=np.full(ROWS, "text"))
    assert told() == "its columns have changed since it was first opened"
    pq.write_table(pa.table({"b": range(ROWS)}), replaced, row_group_size=20)
    assert told() == "its columns have changed since it was first opened"
    replaced.write_bytes(replaced.read_bytes()[:-40])
    assert "truncated" in told()
    replaced.unlink()
    assert "does not exist" in told()


def test_a_column_that_no_file_has_is_an_error_that_names_those_there_are(paths):
    with pytest.raises(ColumnError, match="no file has a column 'b'; the columns are: a"):
        ParquetRows(paths, Columns.of(["a", "b"]), 100)


def test_several_targets_and_a_dtype_reach_the_rows(tmp_path):
    path = write(tmp_path / "a.parquet", 0, 5, b=[1.5] * 5, c=[True] * 5)
    rows = ParquetRows([path], Columns.of(["a"], ["b", "c"], dtype="float64"), 2)
    for x, y in (rows.read_all(), rows.take(np.arange(5))):
        assert x.tolist() == [[0], [1], [2], [3], [4]]
        assert y.tolist() == [[1.5, 1]] * 5
        assert x.dtype == y.dtype == np.float64
