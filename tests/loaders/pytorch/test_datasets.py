"""The torch datasets: rows by number, rows as files are read, and what they refuse."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from feedrate.loaders import (
    ParquetDataset,
    PyTorchDataLoader,
    StreamingParquetDataset,
)
from feedrate.loaders.base.errors import (
    ColumnError,
    FeedrateWarning,
    InputError,
    ParquetFileError,
)
from feedrate.loaders.training.epochs import Order
from feedrate.loaders.training.matrix import Columns
from feedrate.loaders.training.parquet_rows import ParquetRows
from torch.utils.data import DataLoader

from .torch_rows import (
    FEATURES,
    KINDS,
    ROWS,
    dataset_of,
    epoch_of,
    feeding_threads,
    frame_of,
    rows_of,
    write_files,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("rows"))


def test_both_ways_of_reading_files_give_one_order(files):
    dataset = ParquetDataset(files, FEATURES, "label")
    dataset.rows = ParquetRows([str(path) for path in files], dataset.columns, 32)
    order = Order(shuffle=True, seed=3, window=2)
    fast = rows_of(epoch_of(dataset, order, 16))
    by_number = rows_of([dataset.take(dataset.rows.indices(order))])
    assert fast == by_number == rows_of([dataset.take(fast)])


def test_rows_can_be_had_by_number(files):
    for kind in ("frame", "frame, kept", "files in memory", "files"):
        dataset = dataset_of(kind, files)
        x, y = dataset[71]
        assert (x.shape, y.shape, x.dtype, y.dtype) == ((3,), (), torch.float32, torch.float32)
        assert (x.tolist(), y.item()) == ([71, 35.5, 0], 710)
        assert dataset[-1][1].item() == (ROWS - 1) * 10
        assert rows_of([dataset.take(torch.tensor([200, 3, 3, -1]))]) == [200, 3, 3, ROWS - 1]
        assert [x[0].item() for x, _ in dataset.__getitems__([5, 240])] == [5, 240]
        with pytest.raises(IndexError, match="250"):
            dataset[ROWS]


def test_torchs_own_dataloader_takes_the_datasets(files):
    assert rows_of(DataLoader(ParquetDataset(files, FEATURES, "label"), 60)) == list(range(ROWS))
    assert rows_of(DataLoader(dataset_of("stream", files), 60)) == list(range(ROWS))


def test_a_row_group_above_the_chunk_size_is_read_in_slices(tmp_path):
    path = tmp_path / "a.parquet"
    frame_of(0, ROWS).to_parquet(path, row_group_size=ROWS)
    rows = ParquetRows([str(path)], Columns.of(FEATURES, "label"), 60)
    sizes = [len(x) for x, _ in rows.chunks(Order(), num_workers=4, prefetch=4)]
    assert sizes == [50] * 5
    dataset = StreamingParquetDataset(path, FEATURES, "label", 60)
    part = rows_of(epoch_of(dataset, Order(), 16, positions=(range(117, 190),)))
    assert part == list(range(117, 190))
    parts = (range(3, 20), range(50, 70), range(130, 131))
    part = rows_of(epoch_of(dataset, Order(), 16, positions=parts))
    assert part == list(itertools.chain(*parts))


def test_nan_and_null_become_the_null_value(tmp_path):
    table = pa.table({"a": [1.0, None, float("nan"), float("inf")], "b": [True, None, False, True]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    wanted = [[1, 1], [-1, -1], [-1, 0], [float("inf"), 1]]
    for dataset in (
        ParquetDataset.from_dataframe(table.to_pandas(), ["a", "b"], null_value=-1),
        ParquetDataset(path, ["a", "b"], null_value=-1),
        ParquetDataset([path], ["a", "b"], cache_in_memory=True, null_value=-1),
        StreamingParquetDataset(path, ["a", "b"], null_value=-1),
        PyTorchDataLoader().create_dataset_from_dataframe(
            table.to_pandas(), ["a", "b"], null_value=-1
        ),
    ):
        loader = PyTorchDataLoader(0).create_dataloader(dataset, 4, shuffle=False)
        assert next(iter(loader)).tolist() == wanted


def test_nulls_in_a_target_are_warned_about_once(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1.0, 2.0], "y": [None, 1.0]}), path)
    dataset = StreamingParquetDataset([path, path], ["a"], "y", chunk_size=2)
    loader = PyTorchDataLoader(0).create_dataloader(dataset, 4, shuffle=False)
    with pytest.warns(FeedrateWarning, match="target 'y' has 1 nulls") as told:
        assert next(iter(loader))[1].tolist() == [0, 1, 0, 1]
    assert len(told) == 1
    list(loader)


def test_a_column_that_a_file_lacks_is_null_there(tmp_path):
    both, other = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(pa.table({"a": [1.0], "b": [2]}), both)
    pq.write_table(pa.table({"b": [3]}), other)
    for chunk_size in (1, 100):
        dataset = StreamingParquetDataset([both, other], ["a", "b"], chunk_size=chunk_size)
        loader = PyTorchDataLoader(0).create_dataloader(dataset, 2, shuffle=False)
        assert next(iter(loader)).tolist() == [[1, 2], [0, 3]]
    assert ParquetDataset([both, other], ["a"])[1].tolist() == [0]


@pytest.mark.parametrize("kind", KINDS)
def test_columns_that_cannot_be_used_are_named(kind, files):
    def with_features(features):
        if kind.startswith("frame"):
            return ParquetDataset.from_dataframe(
                frame_of(0, 9), features, cache_in_memory=kind == "frame"
            )
        if kind == "stream":
            return StreamingParquetDataset(files, features)
        return ParquetDataset(files, features, cache_in_memory=kind == "files in memory")

    with pytest.raises(ColumnError, match=r"'text' is .*string"):
        with_features(["row", "text"])
    with pytest.raises(ColumnError, match="column 'weight'"):
        with_features(["row", "weight"])
    with pytest.raises(ColumnError, match="feature_columns is empty"):
        with_features([])


def test_text_in_one_of_the_files_names_the_file(tmp_path, files):
    odd = tmp_path / "odd.parquet"
    pq.write_table(pa.table({"row": ["a"], "half": [1.0]}), odd)
    with pytest.raises(ColumnError, match=r"odd\.parquet: column 'row'"):
        StreamingParquetDataset([*files, odd], ["row", "half"])


@pytest.mark.parametrize("kind", ["files in memory", "files", "stream"])
def test_files_that_cannot_be_read_are_named(kind, files, tmp_path):
    with pytest.raises(ParquetFileError, match=r"gone\.parquet: the file does not exist"):
        dataset_of(kind, [*files, tmp_path / "gone.parquet"])
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    with pytest.raises(ParquetFileError, match=r"broken\.parquet"):
        dataset_of(kind, [*files, broken])
    with pytest.raises(InputError, match="file_paths is empty"):
        dataset_of(kind, [])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("chunk_size", [10, 1000])
def test_a_file_that_changes_under_a_stream_is_an_error(tmp_path, workers, chunk_size):
    paths = [tmp_path / f"{number}.parquet" for number in range(3)]
    for path in paths:
        frame_of(0, 100).to_parquet(path)
    dataset = StreamingParquetDataset(paths, FEATURES, "label", chunk_size)
    frame_of(0, 50).to_parquet(paths[1])
    loader = PyTorchDataLoader(workers).create_dataloader(dataset, 10)
    with pytest.raises(ParquetFileError, match=r"1\.parquet: its number of rows has changed"):
        list(loader)
    paths[1].unlink()
    with pytest.raises(ParquetFileError, match="does not exist"):
        list(loader)
    assert feeding_threads() == []


def test_later_changes_to_the_frame_do_not_reach_the_dataset():
    for cached in (True, False):
        frame = frame_of(0, 5)
        dataset = ParquetDataset.from_dataframe(frame, FEATURES, "label", cache_in_memory=cached)
        frame.loc[:, "row"] = 0
        assert rows_of([dataset.take(range(5))]) == list(range(5))


TARGETS = ["label", "half"]


def with_targets(kind, files, **options):
    arguments = {"feature_columns": ["row"], "target_column": TARGETS, **options}
    if kind.startswith("frame"):
        return PyTorchDataLoader().create_dataset_from_dataframe(
            frame_of(0, ROWS), cache_in_memory=kind == "frame", **arguments
        )
    if kind == "stream":
        return StreamingParquetDataset(files, **arguments)
    return ParquetDataset(files, cache_in_memory=kind == "files in memory", **arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("worker_kind", ["thread", "process"])
def test_several_targets_make_a_matrix(kind, worker_kind, files):
    loader = PyTorchDataLoader(1, worker_kind=worker_kind).create_dataloader(
        with_targets(kind, files), 100
    )
    assert [(tuple(x.shape), tuple(y.shape)) for x, y in loader] == [
        ((100, 1), (100, 2)),
        ((100, 1), (100, 2)),
        ((50, 1), (50, 2)),
    ]
    rows = []
    for x, y in loader:
        assert torch.equal(y, x * torch.tensor([10, 0.5]))
        rows += x[:, 0].int().tolist()
    assert sorted(rows) == list(range(ROWS))
    one = next(iter(with_targets(kind, files)))
    assert [tuple(part.shape) for part in one] == [(1,), (2,)]
    single = PyTorchDataLoader(0).create_dataloader(
        with_targets(kind, files, target_column=["label"]), 100
    )
    assert tuple(next(iter(single))[1].shape) == (100, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_is_a_choice(kind, dtype, files):
    loader = PyTorchDataLoader(2).create_dataloader(
        with_targets(kind, files, dtype=dtype, target_column="half"), 100
    )
    rows = []
    for x, y in loader:
        assert x.dtype == y.dtype == getattr(torch, dtype)
        assert torch.equal(y, x[:, 0] / 2)
        rows += x[:, 0].int().tolist()
    assert sorted(rows) == list(range(ROWS))


def test_another_dtype_is_refused(files):
    for kind in ("frame", "files", "stream"):
        with pytest.raises(InputError, match="dtype"):
            with_targets(kind, files, dtype="int8")


def test_a_transform_and_several_targets_go_together(files):
    dataset = with_targets("stream", files, transform=lambda x: x + 1)
    x, y = next(iter(PyTorchDataLoader(0).create_dataloader(dataset, 100)))
    assert torch.equal((x - 1) * torch.tensor([10, 0.5]), y)
