"""Batches made by worker processes, in the order in which one process would make them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import (  # noqa: TID253 - it uses torch; imported when needed
    DataLoader,
    Dataset,
)

from ..base.errors import FeedrateError, InputError, StorageError
from ..training.epochs import Order, Positions
from ..training.parquet_rows import ParquetRows, overlapping
from .batches import (
    Batch,
    Tensors,
    as_batch,
    as_tensors,
    batches_of,
    copied,
    cut,
    joined,
    runs,
)
from .datasets import ParquetDataset, StreamingParquetDataset, samples

Collate = Callable[[list[Any]], Any]
PRELOADED = f"{__package__}.fork_server"  # by the server that worker processes are forked from
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's place for shared memory, not a file


class Tasks:
    """The sampler of a pool's loader: the tasks of the current epoch."""

    def __init__(self) -> None:
        self.current: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.current)


@dataclass(frozen=True)
class WorkerPool:
    """Worker processes of a plain DataLoader, which hands out tasks and results in order."""

    loader: DataLoader[Any]
    tasks: Tasks

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """The tasks' results, in order; a `FeedrateError` in a worker is raised here."""
        self.tasks.current = tasks
        for result in self.loader:
            if isinstance(result, _Failure):
                raise result.error
            yield result


@dataclass(frozen=True)
class _Failure:
    """A worker's error, returned as a result. torch would raise a RuntimeError with its text."""

    error: FeedrateError


class _ErrorReturningFetch(Dataset[Any]):
    """A fetch that returns a `FeedrateError` as a `_Failure`."""

    def __init__(self, fetch: Dataset[Any]) -> None:
        self.fetch = fetch

    def __getitem__(self, task: Any) -> Any:
        try:
            return self.fetch[task]
        except FeedrateError as error:
            return _Failure(error)


def start_workers(fetch: Dataset[Any], **options: Any) -> WorkerPool:
    """A pool whose workers answer a task with `fetch[task]`.

    Args:
        fetch: sent to each worker process once.
        options: num_workers, prefetch_factor, persistent_workers and pin_memory of torch's
            DataLoader.

    Raises:
        InputError: a transform or a collate_fn that cannot be pickled.
    """
    tasks = Tasks()
    loader = DataLoader(
        _ErrorReturningFetch(fetch),
        batch_size=None,  # each result is a batch already
        sampler=tasks,
        collate_fn=_unchanged,
        multiprocessing_context=_worker_context(),
        worker_init_fn=_end_with_parent,
        **options,
    )
    return WorkerPool(loader, tasks)


class RowFetch(Dataset[Any]):
    """Batches by their row numbers.

    Args:
        dataset: the rows.
        collate: makes a batch of samples; None gathers rows at once.
    """

    def __init__(self, dataset: ParquetDataset, collate: Collate | None) -> None:
        self.dataset, self.collate = dataset, collate

    def __getitem__(self, indices: np.ndarray) -> Any:
        if self.collate is None:
            return self.dataset.take(indices)
        return self.collate(self.dataset.__getitems__(indices))


@dataclass(frozen=True)
class ChunkTask:
    """Positions of an epoch, all in one decoded chunk."""

    order: Order
    positions: Positions
    head: int
    """Number of rows before the first that begins a batch."""

    @property
    def rows(self) -> int:
        """Number of positions."""
        return sum(map(len, self.positions))


class ChunkPiece(NamedTuple):
    """A chunk's whole batches, and the rows around them, whose batches cross chunks."""

    head: Tensors
    batches: list[Any]
    tail: Tensors


def chunk_tasks(
    rows: ParquetRows, order: Order, positions: Positions, batch_size: int
) -> Iterator[ChunkTask]:
    """One task for each chunk that holds any of `positions`, so that none is decoded twice."""
    before = 0
    for _, _, ranges in overlapping(rows.plan(order), positions):
        task = ChunkTask(order, tuple(ranges), -before % batch_size)
        yield task
        before += task.rows


class ChunkFetch(Dataset[Any]):
    """The rows of a stream's chunks; made into batches if `collate` (slow) is given.

    Args:
        dataset: the files.
        collate: makes a batch of samples; None returns a chunk's tensors.
        batch_size: rows of a batch.
    """

    def __init__(
        self, dataset: StreamingParquetDataset, collate: Collate | None, batch_size: int
    ) -> None:
        self.dataset, self.collate, self.batch_size = dataset, collate, batch_size

    def __getitem__(self, task: ChunkTask) -> Tensors | ChunkPiece:
        parts = map(as_tensors, self.dataset.rows.chunks(task.order, task.positions))
        tensors = joined(list(parts))
        if self.collate is None:
            return tensors
        head = min(task.head, task.rows)
        full_rows = (task.rows - head) // self.batch_size * self.batch_size
        middle = [cut(tensors, head, head + full_rows)] if full_rows else []
        batches = [
            collated(batch, self.dataset, self.collate)
            for run in runs(middle, self.batch_size, drop_last=False)
            for batch in batches_of(run)
        ]
        # Copies: sending a view would send all memory behind it, here the chunk.
        before, after = cut(tensors, 0, head), cut(tensors, head + full_rows, None)
        return ChunkPiece(copied(before), batches, copied(after))


def assembled(
    pieces: Iterable[ChunkPiece],
    dataset: StreamingParquetDataset,
    collate: Collate,
    batch_size: int,
    drop_last: bool,
) -> Iterator[Any]:
    """The batches of pieces; those that cross pieces are made here."""
    leftover: list[Tensors] = []
    for piece in pieces:
        leftover += _unless_empty(piece.head)
        if sum(len(part[0]) for part in leftover) == batch_size:
            yield collated(as_batch(joined(leftover)), dataset, collate)
            leftover = []
        yield from piece.batches
        leftover += _unless_empty(piece.tail)
    if leftover and not drop_last:
        yield collated(as_batch(joined(leftover)), dataset, collate)


def _unless_empty(part: Tensors) -> list[Tensors]:
    """The part, unless it has no rows: holding an empty part keeps all its memory."""
    return [part] if len(part[0]) else []


def collated(
    batch: Batch, dataset: ParquetDataset | StreamingParquetDataset, collate: Collate
) -> Any:
    """Apply transform and collate_fn to a batch's rows."""
    tensors = batch if isinstance(batch, tuple) else (batch,)
    return collate(list(samples(tensors, dataset.transform)))


def check_sendable(
    dataset: ParquetDataset | StreamingParquetDataset, collate: Collate | None
) -> None:
    """Raise `InputError` if transform or collate_fn cannot be sent to worker processes."""
    for name, function in (("transform", dataset.transform), ("collate_fn", collate)):
        try:
            pickle.dumps(function)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"{name} cannot be sent to worker processes ({error}); define it at the top of "
                "a module, or use worker_kind='thread'"
            ) from error


def check_shared_memory(rows: int, dataset: ParquetDataset | StreamingParquetDataset) -> None:
    """Raise `StorageError` if results in transit do not fit in shared memory.

    Args:
        rows: maximum number of rows in transit.
        dataset: gives their columns and dtype.
    """
    if not SHARED_MEMORY.is_dir():
        return
    columns = dataset.columns
    width = len(columns.features) + len(columns.targets)
    needed = rows * width * columns.dtype.itemsize
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        raise StorageError(
            f"batches on their way from worker processes take {needed >> 20} MiB of shared memory "
            f"and {SHARED_MEMORY} has {free >> 20} MiB free; make it larger (docker run "
            "--shm-size), lower num_workers, prefetch, batch_size or a stream's chunk_size, or "
            "use worker_kind='thread'"
        )


def _worker_context() -> Any:
    """How worker processes start: never by a plain fork, which can hang with Arrow's threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The server imports torch once for all workers: 52 instead of 168 MiB each, and 48 less where
    # garbage is collected. Modules that the user set to preload are kept; there is no public way
    # to read them.
    preloaded = getattr(forkserver._forkserver, "_preload_modules", ["__main__"])  # noqa: SLF001
    if PRELOADED not in preloaded:
        context.set_forkserver_preload([*preloaded, PRELOADED])
    return context


def _end_with_parent(_: int) -> None:
    """End this worker when the process that uses its batches has died, even by SIGKILL.

    torch compares the parent's process id, which is the fork server's, so workers would stay.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _unchanged(batch: Any) -> Any:
    return batch
