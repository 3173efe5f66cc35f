"""The torch DataLoader that feeds training: batches cut from chunks, not built row by row."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch  # noqa: TID253 - it defines a torch subclass and is imported when that is needed
from torch.utils.data import (  # noqa: TID253 - the same
    DataLoader,
    Dataset,
    IterableDataset,
    default_collate,
    get_worker_info,
)

from .epochs import Order, Shard, batch_count, batch_slices
from .errors import InputError
from .memory_rows import MatrixRows
from .settings import LoaderSettings
from .torch_batches import Batch
from .torch_datasets import ParquetDataset, StreamingParquetDataset, samples, worker_rows

Collate = Callable[[list[Any]], Any]


class FeedDataLoader(DataLoader[Any]):
    """Epochs of `(X, y)` or `X` batches; torch's DataLoader to whoever asks.

    Rows are gathered from memory or read from files in chunks, by threads ahead of the caller,
    and batches are views of the chunks. Each `iter()` starts an epoch with an order of its own.

    With a `transform` or a `collate_fn` batches are made of single rows, which is many times
    slower; they run in the caller's thread, or in worker processes with `worker_kind='process'`.

    Args:
        dataset: what to load.
        settings: num_workers, worker_kind, prefetch, batch_size, shuffle, shuffle_window,
            drop_last, seed and pin_memory count.
        collate_fn: makes a batch of a list of samples.
        shard: the share of one rank.
        persistent_workers: keep worker processes from epoch to epoch.
    """

    def __init__(
        self,
        dataset: ParquetDataset | StreamingParquetDataset,
        settings: LoaderSettings,
        *,
        collate_fn: Collate | None = None,
        shard: Shard | None = None,
        persistent_workers: bool = False,
    ) -> None:
        processes = settings.num_workers if settings.worker_kind == "process" else 0
        numbered = isinstance(dataset, ParquetDataset) and len(dataset) > 0
        super().__init__(
            dataset,
            batch_size=settings.batch_size,
            shuffle=settings.shuffle and numbered,  # torch shuffles neither a stream nor nothing
            drop_last=settings.drop_last,
            collate_fn=collate_fn,
            pin_memory=settings.pin_memory and torch.cuda.is_available(),
            num_workers=processes,
            prefetch_factor=max(1, settings.prefetch) if processes else None,
            persistent_workers=persistent_workers and processes > 0,
        )
        self.settings = settings
        self.shard = shard or Shard()
        self.epoch = 0
        """The number of the epoch that the next `iter()` starts."""
        by_row = collate_fn is not None or dataset.transform is not None
        self._collate = (collate_fn or default_collate) if by_row else None
        self._idle_engine: _Engine | None = None

    def __len__(self) -> int:
        rows = self.shard.rows(len(self._source))
        return batch_count(rows, self.settings.batch_size, self.settings.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Make the next `iter()` start this epoch; only the order depends on it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch's own class is private
        order = self._next_order()
        if self.num_workers or self._collate is not None:
            return self._fetched(order)
        return self._fed(order)

    @property
    def _source(self) -> ParquetDataset | StreamingParquetDataset:
        """The dataset, by its own type."""
        return self.dataset  # type: ignore[return-value]  # the constructor takes nothing else

    def _next_order(self) -> Order:
        settings = self.settings
        seed = settings.seed
        if not settings.shuffle:
            seed = 0
        elif seed is None:
            # Ranks must agree on the order; alone, it follows torch.manual_seed, as torch's does.
            alone = self.shard.world_size == 1
            seed = int(torch.empty((), dtype=torch.int64).random_()) if alone else 0
        order = Order(settings.shuffle, seed, self.epoch, settings.shuffle_window)
        self.epoch += 1
        return order

    def _fed(self, order: Order) -> Iterator[Batch]:
        """Batches cut from chunks, in this process."""
        settings = self.settings
        common: dict[str, Any] = {
            "num_workers": settings.num_workers,
            "prefetch": settings.prefetch,
            "pin": self.pin_memory,
        }
        size, drop = settings.batch_size, settings.drop_last
        if isinstance(self._source, StreamingParquetDataset):
            rows = self.shard.block(len(self._source))
            return self._source.batches(order, size, drop, rows=rows, **common)
        return self._source.batches(order, size, drop, shard=self.shard, **common)

    def _fetched(self, order: Order) -> Iterator[Any]:
        """Batches fetched by torch, in worker processes or one row at a time."""
        engine, self._idle_engine = self._idle_engine or self._new_engine(), None
        try:
            engine.begin(order)
            yield from engine.loader
        finally:
            # Kept workers serve one iterator at a time; a second one starts its own.
            self._idle_engine = engine if self.persistent_workers else None

    def _new_engine(self) -> _Engine:
        dataset = self._source
        if self.num_workers:
            _check_sendable(dataset, self._collate)
        if isinstance(dataset, StreamingParquetDataset):
            stream = _StreamFetch(dataset, self._collate, self.settings, self.shard)
            return _Engine(self._plain_loader(stream, None), stream.begin)
        indices = _EpochIndices(dataset, self.settings, self.shard)
        return _Engine(
            self._plain_loader(_RowFetch(dataset, self._collate), indices), indices.begin
        )

    def _plain_loader(self, fetch: Dataset[Any], indices: _EpochIndices | None) -> DataLoader[Any]:
        return DataLoader(
            fetch,
            batch_size=None,  # what is fetched is a batch already
            sampler=indices,
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            multiprocessing_context=_worker_context() if self.num_workers else None,
            prefetch_factor=self.prefetch_factor,
            persistent_workers=self.persistent_workers,
            pin_memory=self.pin_memory,
        )

    def check_worker_number_rationality(self) -> None:
        """Leave torch's warning about too many workers to the DataLoader that starts them."""

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes stay here; a copy elsewhere starts its own.
        return {**self.__dict__, "_idle_engine": None}


@dataclass(frozen=True)
class _Engine:
    """A plain DataLoader that fetches whole batches, and how to tell it an epoch's order."""

    loader: DataLoader[Any]
    begin: Callable[[Order], None]


class _EpochIndices:
    """Samples the row numbers of one batch after another."""

    def __init__(self, dataset: ParquetDataset, settings: LoaderSettings, shard: Shard) -> None:
        self.dataset, self.settings, self.shard = dataset, settings, shard
        self._order = Order()

    def begin(self, order: Order) -> None:
        """Set the order of the next epoch."""
        self._order = order

    def __iter__(self) -> Iterator[np.ndarray]:
        indices = self.dataset.order(self._order, self.shard)
        return iter(batch_slices(indices, self.settings.batch_size, self.settings.drop_last))


class _RowFetch(Dataset[Any]):
    """Batches by the row numbers in them."""

    def __init__(self, dataset: ParquetDataset, collate: Collate | None) -> None:
        self.dataset, self.collate = dataset, collate

    def __getitem__(self, indices: np.ndarray) -> Any:
        if self.collate is None:
            return self.dataset.take(indices)
        return self.collate(self.dataset.__getitems__(indices))


class _StreamFetch(IterableDataset[Any]):
    """Batches of a stream; each worker process reads its part of the files."""

    def __init__(
        self,
        dataset: StreamingParquetDataset,
        collate: Collate | None,
        settings: LoaderSettings,
        shard: Shard,
    ) -> None:
        self.dataset, self.collate, self.settings, self.shard = dataset, collate, settings, shard
        # Seed and epoch, shared with workers that were started for an earlier epoch.
        self._state = torch.zeros(2, dtype=torch.int64)
        self._state.share_memory_()  # type: ignore[no-untyped-call]  # torch annotates it not

    def begin(self, order: Order) -> None:
        """Set the order of the next epoch."""
        self._state.copy_(torch.tensor([order.seed, order.epoch]))

    def __iter__(self) -> Iterator[Any]:
        settings = self.settings
        seed, epoch = self._state.tolist()
        threads = settings.num_workers if get_worker_info() is None else 0
        batches = self.dataset.batches(
            Order(settings.shuffle, seed, epoch, settings.shuffle_window),
            settings.batch_size,
            settings.drop_last,
            rows=worker_rows(self.shard.block(len(self.dataset)), settings.batch_size),
            num_workers=threads,
            prefetch=settings.prefetch,
        )
        if self.collate is None:
            return batches
        return (self.collate(self._samples(batch)) for batch in batches)

    def _samples(self, batch: Batch) -> list[Any]:
        tensors = batch if isinstance(batch, tuple) else (batch,)
        return list(samples(tensors, self.dataset.transform))


def _worker_context() -> Any:
    """How worker processes start: never by a plain fork, which can hang after Arrow's threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The server imports torch once for all workers: 52 instead of 168 MiB each.
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _check_sendable(
    dataset: ParquetDataset | StreamingParquetDataset, collate: Collate | None
) -> None:
    """Raise where worker processes cannot be given what they need."""
    for name, function in (("transform", dataset.transform), ("collate_fn", collate)):
        try:
            pickle.dumps(function)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"{name} cannot be sent to worker processes ({error}); define it at the top of "
                "a module, or use worker_kind='thread'"
            ) from error
    if isinstance(dataset.rows, MatrixRows):
        dataset.rows.check_shared_memory()


def _as_it_is(batch: Any) -> Any:
    return batch
