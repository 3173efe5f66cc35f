"""Worker processes: one order whatever their number, and one copy of the data for all."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import weakref
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from feedrate.loaders import ParquetDataset, PyTorchDataLoader, StreamingParquetDataset
from feedrate.loaders.base.errors import InputError, ParquetFileError, StorageError
from feedrate.loaders.pytorch import workers as torch_workers
from feedrate.loaders.pytorch.shared import SharedArrays
from feedrate.loaders.pytorch.workers import (
    SHARED_MEMORY,
    ChunkFetch,
    ChunkPiece,
    assembled,
    chunk_tasks,
)
from feedrate.loaders.training.epochs import Order
from torch.utils.data import default_collate

from .torch_rows import (
    FEATURES,
    KINDS,
    ROWS,
    dataset_of,
    feeding_threads,
    rows_of,
    write_files,
)

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("rows"))


def processes(count, prefetch=2, **options):
    return PyTorchDataLoader(count, prefetch_factor=prefetch, worker_kind="process", **options)


def private_bytes(loader):
    """The memory that a loader's worker processes share with no other, an epoch later."""
    for _ in loader:
        pass
    workers = loader._idle_workers.loader._iterator._workers
    assert len(workers) == loader.num_workers
    return sum(psutil.Process(worker.pid).memory_full_info().uss for worker in workers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "batch_size"), [(1, 32), (2, 7)])
def test_any_number_of_processes_gives_the_order_of_threads(kind, count, batch_size, files):
    thread = PyTorchDataLoader(1).create_dataloader(dataset_of(kind, files), batch_size, seed=4)
    loader = processes(count).create_dataloader(dataset_of(kind, files), batch_size, seed=4)
    assert (loader.num_workers, loader.batch_size) == (count, batch_size)
    for _ in range(2):
        assert rows_of(loader) == rows_of(thread)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("batch_size", [16, 100])
def test_batches_of_a_transform_cross_files_alike_in_processes(batch_size, drop_last, files):
    dataset = dataset_of("stream", files, transform=torch.neg)
    options = {"batch_size": batch_size, "drop_last": drop_last, "seed": 2}
    wanted = list(PyTorchDataLoader(0).create_dataloader(dataset, **options))
    found = list(processes(2).create_dataloader(dataset, **options))
    assert [len(y) for _, y in found] == [len(y) for _, y in wanted]
    for (x, y), (x2, y2) in zip(found, wanted, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_rows_between_batches_are_sent_without_the_chunk_they_come_from(files):
    dataset = dataset_of("stream", files, transform=torch.neg)
    fetch = ChunkFetch(dataset, default_collate, 9)
    tasks = list(chunk_tasks(dataset.rows, Order(), (range(ROWS),), 9))
    assert len(tasks) > 4
    for piece in map(fetch.__getitem__, tasks):
        for tensor in (*piece.head, *piece.tail):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_chunks_that_end_where_a_batch_ends_are_not_held():
    dataset = dataset_of("frame")
    sent = []

    def pieces():
        for _ in range(20):
            head, tail = (torch.zeros(0, 3), torch.zeros(0)), (torch.zeros(0, 3), torch.zeros(0))
            sent.extend(weakref.ref(part[0]) for part in (head, tail))
            yield ChunkPiece(head, ["batch"], tail)

    found = assembled(pieces(), dataset, default_collate, 16, drop_last=False)
    for _ in range(20):
        assert next(found) == "batch"
        assert sum(part() is not None for part in sent) <= 4
    assert list(found) == []


def test_ranks_of_processes_share_a_stream(files):
    shares = []
    for rank in range(3):
        loader = processes(2).create_dataloader(
            dataset_of("stream", files), 10, seed=1, rank=rank, world_size=3
        )
        shares.append(rows_of(loader))
    assert [len(share) for share in shares] == [83] * 3
    assert len(set().union(*shares)) == 249


@pytest.mark.parametrize(
    ("kind", "method"), [("frame", "forkserver"), ("frame, kept", "forkserver")]
)
@pytest.mark.slow
def test_the_rows_are_not_copied_to_each_worker(kind, method, monkeypatch):
    context = multiprocessing.get_context(method)
    monkeypatch.setattr("feedrate.loaders.pytorch.workers._worker_context", lambda: context)
    size, batch_size = 8 * MEBIBYTE, 4096
    rows = size // (16 * 4)
    x = np.ones((rows, 16), dtype=np.float32)
    frame = pd.DataFrame(x, columns=[f"c{number}" for number in range(16)])
    loaders = []
    for data in (frame.iloc[: 8 * batch_size], frame):  # few batches, and more
        dataset = ParquetDataset.from_dataframe(
            data, list(data.columns), cache_in_memory=kind == "frame"
        )
        loaders.append(processes(1).create_dataloader(dataset, batch_size))
    small, large = (private_bytes(loader) for loader in loaders)
    assert large - small < size / 2


TRAINER = """
import multiprocessing, sys, time
from feedrate.loaders import ParquetDataset, PyTorchDataLoader

if __name__ == "__main__":
    dataset = ParquetDataset(sys.argv[1:], ["row"])
    loader = PyTorchDataLoader(2, worker_kind="process").create_dataloader(dataset, 4)
    batches = iter(loader)
    next(batches)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_workers_end_within_seconds_of_a_parent_that_was_killed(files, tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    trainer = subprocess.Popen(
        [sys.executable, str(script), *files], stdout=subprocess.PIPE, text=True
    )
    workers = [psutil.Process(int(pid)) for pid in trainer.stdout.readline().split()]
    assert len(workers) == 2
    trainer.kill()
    trainer.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    for worker in alive:
        worker.kill()
    assert not alive


def test_what_the_user_has_the_fork_server_import_stays(monkeypatch):
    server = forkserver._forkserver
    monkeypatch.setattr(server, "_preload_modules", ["__main__", "json"])
    for _ in range(2):
        torch_workers._worker_context()
        assert server._preload_modules == ["__main__", "json", torch_workers.PRELOADED]


def held():
    """What this process has open, and what lies in shared memory by name."""
    return len(list(Path("/proc/self/fd").iterdir())), set(SHARED_MEMORY.iterdir())


def test_shared_arrays_are_the_same_in_any_process_and_leave_nothing_behind():
    arrays = (np.arange(10.0).reshape(5, 2), np.arange(3, dtype=np.float32), np.empty((0, 4)))
    before = held()
    shared = SharedArrays(arrays)
    for ours, wanted in zip(shared.arrays, arrays, strict=True):
        np.testing.assert_array_equal(ours, wanted)
        assert (ours.dtype, ours.shape) == (wanted.dtype, wanted.shape)
    shared.arrays[0][1, 1] = 99
    shared.release()
    assert shared.arrays[0][1, 1] == 99
    del shared, ours
    assert held() == before


def test_a_dataset_whose_rows_are_shared_is_used_and_copied_as_before():
    dataset = dataset_of("frame")
    loader = processes(1).create_dataloader(dataset, 32, seed=1)
    rows = rows_of(loader)
    assert rows_of(PyTorchDataLoader(2).create_dataloader(dataset, 32, seed=1)) == rows
    assert rows_of([dataset.take(range(5))]) == list(range(5))
    x, _ = dataset.take([3])
    x.zero_()
    assert rows_of([dataset.take([3])]) == [3]


def test_results_that_do_not_fit_shared_memory_are_told_before_they_crash(monkeypatch, files):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    for kind in ("frame", "stream"):
        loader = processes(2).create_dataloader(dataset_of(kind, files))
        with pytest.raises(StorageError, match=r"shared memory.*worker_kind='thread'"):
            next(iter(loader))


@pytest.mark.parametrize("kind", KINDS)
def test_functions_that_cannot_be_sent_are_told(kind, files):
    transformed = dataset_of(kind, files, transform=lambda x: x)
    with pytest.raises(InputError, match=r"transform cannot be sent.*worker_kind='thread'"):
        next(iter(processes(1).create_dataloader(transformed)))
    loader = processes(1).create_dataloader(dataset_of(kind, files), collate_fn=lambda rows: rows)
    with pytest.raises(InputError, match=r"collate_fn cannot be sent.*at the top of a module"):
        next(iter(loader))


def test_a_file_that_cannot_be_read_in_a_worker_is_named(tmp_path):
    paths = write_files(tmp_path)
    dataset = StreamingParquetDataset(paths, FEATURES, "label")
    paths[3].unlink()
    with pytest.raises(ParquetFileError, match=r"3\.parquet: the file does not exist"):
        list(processes(2).create_dataloader(dataset, 16))
    assert feeding_threads() == []
