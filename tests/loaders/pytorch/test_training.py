"""The DataLoader that feeds PyTorch training, over every kind of dataset."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from feedrate.loaders import (
    LoaderSettings,
    ParquetDataset,
    PyTorchDataLoader,
    StreamingParquetDataset,
    pytorch_loader,
)
from feedrate.loaders.base.errors import (
    InputError,
    MissingBackendError,
)
from feedrate.loaders.training.epochs import Order
from feedrate.loaders.training.spans import SpanReader
from torch.utils.data import DataLoader

from .torch_rows import (
    FEATURES,
    FILE_ROWS,
    KINDS,
    ROWS,
    dataset_of,
    feeding_threads,
    frame_of,
    pickled,
    rows_of,
    write_files,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def frame():
    return frame_of(0, ROWS)


@pytest.fixture(params=KINDS)
def dataset(request, files):
    return dataset_of(request.param, files)


def test_an_unshuffled_epoch_has_every_row_once_in_order(dataset):
    loader = PyTorchDataLoader(num_workers=2).create_dataloader(dataset, 32, shuffle=False)
    assert rows_of(loader) == list(range(ROWS))


def test_a_shuffled_epoch_has_every_row_once_in_another_order(dataset):
    loader = PyTorchDataLoader(num_workers=2).create_dataloader(dataset, 32)
    rows = rows_of(loader)
    assert rows != list(range(ROWS))
    assert sorted(rows) == list(range(ROWS))


def test_the_dataloader_is_torchs_and_tells_the_truth(dataset):
    loader = PyTorchDataLoader().create_dataloader(dataset, 32)
    assert isinstance(loader, DataLoader)
    assert loader.dataset.rows is dataset.rows
    assert PyTorchDataLoader().create_dataloader(dataset, shuffle=False).dataset is dataset
    assert (loader.batch_size, loader.drop_last, loader.num_workers) == (32, False, 0)
    assert len(dataset) == ROWS
    assert len(loader) == 8


@pytest.mark.parametrize("batch_size", [1, 7, 32, ROWS, 1000])
def test_all_batches_are_full_but_the_last(dataset, batch_size):
    loader = PyTorchDataLoader(num_workers=1).create_dataloader(dataset, batch_size)
    sizes = [len(y) for _, y in loader]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert sum(sizes) == ROWS
    assert len(loader) == len(sizes)


@pytest.mark.parametrize("batch_size", [7, 32, ROWS])
def test_drop_last_leaves_a_partial_batch_out(dataset, batch_size):
    loader = PyTorchDataLoader(0).create_dataloader(dataset, batch_size, drop_last=True)
    assert [len(y) for _, y in loader] == [batch_size] * (ROWS // batch_size)
    assert len(loader) == ROWS // batch_size


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_order_whatever_the_workers(kind, files):
    orders = {
        tuple(
            rows_of(
                PyTorchDataLoader(workers, prefetch_factor=prefetch).create_dataloader(
                    dataset_of(kind, files), 16, seed=5
                )
            )
        )
        for workers, prefetch in ((0, 2), (1, 0), (2, 2), (4, 1))
    }
    assert len(orders) == 1


def test_epochs_differ_and_can_be_repeated(dataset):
    loader = PyTorchDataLoader(2).create_dataloader(dataset, 16, seed=1)
    first, second = rows_of(loader), rows_of(loader)
    assert first != second
    loader.set_epoch(0)
    assert rows_of(loader) == first
    assert rows_of(loader) == second


def test_seeds_differ_and_without_one_torchs_is_followed(dataset):
    def order(seed):
        return rows_of(PyTorchDataLoader(0).create_dataloader(dataset, 16, seed=seed))

    assert order(1) != order(2)
    assert order(None) != order(None)
    torch.manual_seed(7)
    first = order(None)
    torch.manual_seed(7)
    assert order(None) == first


def test_held_batches_stay_as_they_were(dataset):
    loader = PyTorchDataLoader(2).create_dataloader(dataset, 16)
    held = []
    for _ in range(3):
        held += list(loader)
    copies = [(x.clone(), y.clone()) for x, y in held]
    rows_of(loader)
    assert all(
        torch.equal(x, x2) and torch.equal(y, y2)
        for (x, y), (x2, y2) in zip(held, copies, strict=True)
    )
    assert sorted(rows_of(held)) == sorted([*range(ROWS)] * 3)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_batch_may_be_changed_without_reaching_the_dataset(dataset, shuffle):
    loader = PyTorchDataLoader(0).create_dataloader(dataset, 16, shuffle=shuffle)
    for x, y in loader:
        x.zero_()
        y.zero_()
    assert sorted(rows_of(loader)) == list(range(ROWS))


def test_stopping_early_leaves_no_threads(dataset):
    loader = PyTorchDataLoader(3).create_dataloader(dataset, 8)
    for _ in loader:
        break
    assert feeding_threads() == []
    assert sorted(rows_of(loader)) == list(range(ROWS))
    assert feeding_threads() == []


def test_two_iterators_run_side_by_side(dataset):
    loader = PyTorchDataLoader(2).create_dataloader(dataset, 16)
    pairs = list(zip(loader, loader, strict=True))
    assert sorted(rows_of(one for one, _ in pairs)) == list(range(ROWS))
    assert sorted(rows_of(two for _, two in pairs)) == list(range(ROWS))


def test_without_a_target_batches_are_features(files):
    for dataset in (
        ParquetDataset.from_dataframe(frame_of(0, ROWS), FEATURES),
        StreamingParquetDataset(files, FEATURES),
    ):
        loader = PyTorchDataLoader(0).create_dataloader(dataset, 100, shuffle=False)
        assert [tuple(x.shape) for x in loader] == [(100, 3), (100, 3), (50, 3)]
    assert ParquetDataset.from_dataframe(frame_of(0, 5), FEATURES)[4].tolist() == [4, 2, 1]


@pytest.mark.parametrize("kind", ["frame", "files", "stream"])
def test_a_transform_gets_each_rows_features(kind, files):
    dataset = dataset_of(kind, files, transform=lambda x: x[:1] + 1000)
    loader = PyTorchDataLoader(2).create_dataloader(dataset, 32)
    batches = list(loader)
    assert [tuple(x.shape) for x, _ in batches[:2]] == [(32, 1), (32, 1)]
    assert all(torch.equal((x[:, 0] - 1000) * 10, y) for x, y in batches)
    assert sorted(int(value) for _, y in batches for value in y / 10) == list(range(ROWS))
    assert feeding_threads() == []


@pytest.mark.parametrize("kind", ["frame", "files", "stream"])
def test_a_collate_fn_gets_the_list_of_samples(kind, files):
    loader = PyTorchDataLoader(1).create_dataloader(
        dataset_of(kind, files), 100, shuffle=False, collate_fn=lambda samples: samples
    )
    batches = list(loader)
    assert [len(batch) for batch in batches] == [100, 100, 50]
    assert isinstance(batches[0], list)
    x, y = batches[1][5]
    assert (x.tolist(), y.item()) == ([105, 52.5, 0], 1050)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_get_disjoint_shares_of_equal_size(kind, shuffle, files):
    shares = []
    for rank in range(4):
        loader = PyTorchDataLoader(2).create_dataloader(
            dataset_of(kind, files), 10, shuffle, rank=rank, world_size=4
        )
        shares.append(rows_of(loader))
        assert len(loader) == 7
    assert [len(share) for share in shares] == [62] * 4
    assert len(set().union(*shares)) == 248


def test_rank_and_world_size_are_checked(dataset):
    loader = PyTorchDataLoader()
    for rank, world_size in ((0, None), (None, 2), (2, 2), (-1, 2), (0, 0)):
        with pytest.raises(InputError, match=r"rank|world_size"):
            loader.create_dataloader(dataset, rank=rank, world_size=world_size)


@pytest.mark.parametrize("worker_kind", ["thread", "process"])
def test_the_defaults_fit_every_dataset_without_workers(dataset, worker_kind):
    loader = PyTorchDataLoader(num_workers=0, worker_kind=worker_kind).create_dataloader(dataset)
    assert loader.batch_size == 32
    assert sorted(rows_of(loader)) == list(range(ROWS))


def test_no_rows_make_no_batches(tmp_path):
    pq.write_table(pa.table({"a": pa.array([], pa.float64())}), tmp_path / "a.parquet")
    for dataset in (
        ParquetDataset.from_dataframe(pd.DataFrame({"a": []}), ["a"]),
        ParquetDataset(tmp_path / "a.parquet", ["a"]),
        ParquetDataset(tmp_path / "a.parquet", ["a"], cache_in_memory=True),
        StreamingParquetDataset(tmp_path / "a.parquet", ["a"]),
    ):
        loader = PyTorchDataLoader().create_dataloader(dataset)
        assert (len(dataset), len(loader), list(loader)) == (0, 0, [])


def test_a_stream_reads_only_so_far_ahead(files, monkeypatch):
    started = []
    read = SpanReader.read
    monkeypatch.setattr(
        SpanReader, "read", lambda self, number: started.append(number) or read(self, number)
    )
    dataset = StreamingParquetDataset(files, FEATURES, "label", chunk_size=10)
    assert len(dataset.rows.plan(Order())) > 20
    loader = PyTorchDataLoader(2, prefetch_factor=3).create_dataloader(dataset, 10, shuffle=False)
    batches = iter(loader)
    for taken in range(1, 5):
        next(batches)
        assert len(started) <= taken + 2 + 3
    batches.close()
    assert feeding_threads() == []


def test_threads_gather_large_data_ahead(monkeypatch):
    monkeypatch.setattr("feedrate.loaders.pytorch.memory_rows.CHUNK_BYTES", 500)
    dataset = dataset_of("frame", ())
    loader = PyTorchDataLoader(2, prefetch_factor=1).create_dataloader(dataset, 8, seed=6)
    batches = iter(loader)
    first = next(batches)
    assert feeding_threads()
    rows = rows_of([first, *batches])
    assert feeding_threads() == []
    assert sorted(rows) == list(range(ROWS))
    assert rows == rows_of(PyTorchDataLoader(0).create_dataloader(dataset, 8, seed=6))


def test_a_window_mixes_files(files):
    dataset = StreamingParquetDataset(files, FEATURES, "label", chunk_size=1000)

    def files_in_turn(window):
        settings = LoaderSettings(shuffle_window=window, seed=1, num_workers=0)
        loader = PyTorchDataLoader.from_settings(settings).create_dataloader(dataset)
        edges = np.cumsum(FILE_ROWS)
        at = np.searchsorted(edges, rows_of(loader), side="right")
        return 1 + int(np.count_nonzero(np.diff(at)))

    assert files_in_turn(1) == 4
    assert files_in_turn(4) > 40


def test_arguments_are_checked(dataset, files):
    loader = PyTorchDataLoader()
    for arguments in ({"batch_size": 0}, {"batch_size": 2.5}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(arguments))):
            loader.create_dataloader(dataset, **arguments)
    with pytest.raises(InputError, match="TensorDataset"):
        loader.create_dataloader(torch.utils.data.TensorDataset(torch.zeros(3)))
    for arguments in ({"num_workers": -1}, {"prefetch_factor": -1}, {"worker_kind": "fork"}):
        with pytest.raises(InputError, match=next(iter(arguments))):
            PyTorchDataLoader(**arguments)
    with pytest.raises(InputError, match="chunk_size"):
        StreamingParquetDataset(files, FEATURES, chunk_size=0)


def test_settings_are_the_defaults_of_dataloaders(frame):
    settings = LoaderSettings(
        num_workers=1, batch_size=64, shuffle=False, drop_last=True, pin_memory=False, prefetch=1
    )
    loader = PyTorchDataLoader.from_settings(settings)
    assert loader.settings.backend == "pytorch"
    dataset = loader.create_dataset_from_dataframe(frame, FEATURES, "label")
    assert rows_of(loader.create_dataloader(dataset)) == list(range(192))
    given = loader.create_dataloader(dataset, 100, shuffle=True, drop_last=False)
    assert len(given) == 3
    assert sorted(rows_of(given)) == list(range(ROWS))


def test_everything_pickles(dataset):
    loader = PyTorchDataLoader(2)
    feed = loader.create_dataloader(dataset, 32, seed=2)
    wanted = rows_of(feed)
    feed.set_epoch(0)
    assert rows_of(pickled(feed)) == wanted
    again = pickled(loader).create_dataloader(pickled(dataset), 32, seed=2)
    assert rows_of(again) == wanted


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(pytorch_loader, "is_installed", lambda _: False)
    with pytest.raises(MissingBackendError, match=r'pip install "feedrate\[torch\]"'):
        PyTorchDataLoader()
    with pytest.raises(MissingBackendError, match="torch"):
        pytorch_loader.ParquetDataset  # noqa: B018 - the access is what is tested


def test_pinning_is_skipped_without_cuda_and_done_a_chunk_at_a_time_with_it(
    frame, monkeypatch, recwarn
):
    dataset = ParquetDataset.from_dataframe(frame, FEATURES, "label")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not PyTorchDataLoader().create_dataloader(dataset).pin_memory
    assert not recwarn.list
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    pinned = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda self: pinned.append(len(self)) or self.clone()
    )
    loader = PyTorchDataLoader().create_dataloader(dataset, 10)
    assert sorted(rows_of(loader)) == list(range(ROWS))
    assert pinned == [ROWS, ROWS]


def test_kept_worker_processes_stream_each_row_once_in_new_orders(files):
    dataset = dataset_of("stream", files, transform=torch.neg)
    loader = PyTorchDataLoader(2, worker_kind="process").create_dataloader(dataset, 32, seed=4)
    epochs = []
    for _ in range(2):
        batches = list(loader)
        assert sorted(len(y) for _, y in batches) == [26] + [32] * 7
        assert all(torch.equal(x[:, 0], -y / 10) for x, y in batches)
        epochs.append([int(value) for _, y in batches for value in y / 10])
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(ROWS))
    assert epochs[0] != epochs[1]
    next(iter(loader))
    loader.set_epoch(0)
    assert [int(value) for _, y in loader for value in y / 10] == epochs[0]


def test_a_batch_beyond_the_rows_is_one_partial_batch_or_an_error(dataset):
    loader = PyTorchDataLoader(0)
    assert [len(y) for _, y in loader.create_dataloader(dataset, 1000)] == [ROWS]
    with pytest.raises(InputError, match=r"batch_size is 1000 and there are 250 rows.*drop_last"):
        loader.create_dataloader(dataset, 1000, drop_last=True)
    with pytest.raises(InputError, match="batch_size is 200 and there are 125 rows"):
        loader.create_dataloader(dataset, 200, drop_last=True, rank=0, world_size=2)
