"""The torch DataLoader that feeds training: batches cut from chunks, not built row by row."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch  # noqa: TID253 - it subclasses torch's class; imported when needed
from torch.utils.data import (  # noqa: TID253 - the same
    DataLoader,
    default_collate,
)

from ..base.errors import InputError
from ..base.settings import LoaderSettings, with_changes
from ..training.epochs import (
    Leg,
    Order,
    Positions,
    Shard,
    batch_count,
    batch_slices,
    without_first,
)
from .batches import ChunkTransfer, Progress, Run, batches_of, mapped, runs
from .datasets import ParquetDataset, StreamingParquetDataset
from .samplers import (
    OrderedStream,
    all_ranks_batch_sampler,
    check_share,
    exposed_dataset,
    given_epoch,
    interpret_samplers,
    torch_batching,
    torch_workers,
)
from .state import Position, check_position, from_document, identify, to_document
from .workers import (
    ChunkFetch,
    Collate,
    RowFetch,
    WorkerPool,
    assembled,
    check_sendable,
    check_shared_memory,
    chunk_tasks,
    collated,
    start_workers,
)

Visit = tuple[Order, Positions]
"""An epoch's order, and the positions in it of one rank."""


class FeedDataLoader(DataLoader[Any]):
    """A torch DataLoader whose epochs are batches `(X, y)`, or `X`.

    Threads gather rows from memory, or read them from files, in chunks ahead of the caller. Batches
    are views of the chunks: holding a batch keeps its chunk of about 2 MiB (for a stream: its
    decoded part of a file) in memory. Each `iter()` starts an epoch with a new order, which depends
    on the seed but not on the workers.

    With a `transform` or a `collate_fn` batches are made of single rows, which is many times
    slower; both run in the caller's thread, or in worker processes with `worker_kind='process'`.

    Args:
        dataset: the dataset to load.
        settings: num_workers, worker_kind, prefetch, batch_size, shuffle, shuffle_window,
            drop_last, seed and pin_memory are used.
        collate_fn: makes a batch of a list of samples.
        shard: the share of one rank.
        persistent_workers: keep worker processes from epoch to epoch.
        sampler: given by wrappers that recreate loaders, such as Lightning with its
            `DistributedSampler`, which then sets this rank's share.
        batch_sampler: the row numbers of each batch, in place of the loader's order.
        batch_size: overrides the settings.
        shuffle: overrides the settings, unless there is a sampler.
        drop_last: overrides the settings.

    Raises:
        InputError: settings that leave no batch, a rank without rows, or a sampler for another
            share.
    """

    def __init__(
        self,
        dataset: ParquetDataset | StreamingParquetDataset,
        settings: LoaderSettings,
        *,
        collate_fn: Collate | None = None,
        shard: Shard | None = None,
        persistent_workers: bool = False,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        batch_size: int | None = None,
        shuffle: bool | None = None,
        drop_last: bool | None = None,
    ) -> None:
        if batch_sampler is None:
            settings = with_changes(settings, batch_size=batch_size, drop_last=drop_last)
            if sampler is None:
                settings = with_changes(settings, shuffle=shuffle)
        if isinstance(dataset, OrderedStream):  # from a wrapper that recreates this loader
            dataset = dataset.source
        choice = interpret_samplers(settings, shard or Shard(), sampler, batch_sampler)
        check_share(dataset, choice)
        super().__init__(
            exposed_dataset(dataset, choice.settings),
            collate_fn=collate_fn,
            **torch_workers(settings, persistent_workers),
            **torch_batching(dataset, choice, sampler),
        )
        if choice.shard.world_size > 1 and isinstance(dataset, ParquetDataset):
            # torch forbids assigning it, since its own iterators would not see the change.
            self.__dict__["batch_sampler"] = all_ranks_batch_sampler(dataset, choice.settings)
        self.settings = choice.settings
        self.shard = choice.shard
        self.epoch = 0
        """The number of the epoch that the next `iter()` starts."""
        self._given_batches = choice.batches
        self._collate = _row_collate(dataset, collate_fn)
        self._drawn_seed: int | None = None
        self._resume_at = Position(0)
        self._running: tuple[Position, Progress] | None = None
        self._idle_workers: WorkerPool | None = None
        self._sampler_epoch = 0
        self.watch: Callable[[int, float, float], None] | None = None
        """Called after each complete epoch with its rows, its seconds, and the seconds waited."""

    def __len__(self) -> int:
        if self._given_batches is not None:
            return len(self._given_batches)  # type: ignore[arg-type]  # its maker provides it
        rows = self.shard.rows(len(self._source))
        return batch_count(rows, self.settings.batch_size, self.settings.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Make the next `iter()` start this epoch; only the order depends on it."""
        self.epoch = epoch
        self._running = None

    @property
    def in_chunks(self) -> bool:
        """Whether batches are cut from chunks of rows, not made or fetched one by one."""
        by_row = self._collate is not None or self._given_batches is not None
        return not by_row and not (self.num_workers and isinstance(self._source, ParquetDataset))

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch's own class is private
        return self.start_epoch()

    def start_epoch(self, transfer: ChunkTransfer | None = None) -> Generator[Any, None, None]:
        """Start an epoch as `iter()` does, and move its chunks with `transfer`.

        Args:
            transfer: moves chunks before they are cut into batches, such as to a device. Threads
                then do not pin them, and `watch` is not called, since the time of `transfer` is
                not waiting for rows.

        Returns:
            The epoch's batches.

        Raises:
            InputError: `transfer` is given, but this loader's batches are not cut from chunks.
        """
        if transfer is not None and not self.in_chunks:
            raise InputError("batches that are made or fetched one by one have no chunks")
        progress = Progress()
        visit = self._begin(progress, transfer)
        if self.num_workers:
            return self._process_batches(visit, progress, transfer)
        if self._given_batches is not None:
            return progress.count_batches(map(self._fetch_rows, self._given_batches))
        epoch_runs = self._thread_runs(visit, progress, transfer)
        if self._collate is None:
            return progress.count_runs(epoch_runs)
        return progress.count_batches(self._collate_runs(epoch_runs, self._collate))

    def _begin(self, progress: Progress, transfer: ChunkTransfer | None) -> Visit:
        """Choose the order and the positions of an epoch."""
        order = self._next_order()
        start = self._start_of(order.epoch)
        self._resume_at = Position(0)
        is_whole = not start.batches and not start.legs
        watched = is_whole and transfer is None and self.watch is not None
        progress.begin(start.batches, self._epoch_ended if watched else None)
        self._running = start, progress
        share = self._source.share(self.shard, start.legs)
        return order, without_first(share, start.batches * self.settings.batch_size)

    def _epoch_ended(self, seconds: float, waited: float) -> None:
        if self.watch is not None:
            self.watch(self.shard.rows(len(self._source)), seconds, waited)

    def state_dict(self, unused: int = 0) -> dict[str, Any]:
        """The loader's position as a small JSON document.

        It counts the batches that the latest iterator has yielded, not those prepared ahead. A
        loader made with the same arguments, and any workers, continues there: no row is lost or
        repeated, and the order is that of the seed, given or drawn. Every rank may load the state
        of any rank, also if there are more or fewer ranks than before: they divide the rest of
        the epoch equally, and leave out fewer rows than there are ranks, or with `drop_last`
        less than a batch of each rank.

        Args:
            unused: number of latest batches to count as not yet yielded, since the consumer has
                not received them, as with `to_device`.

        Raises:
            InputError: a sampler or batch_sampler that was given chooses the batches.
        """
        self._require_own_batches()
        return to_document(self._position(unused), self._identity, self.shard.world_size)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Make the next `iter()` continue where a `state_dict` was taken.

        Raises:
            InputError: `state_dict` is no state, or is of another dataset, batch size, order or
                seed; the message lists the differences.
        """
        self._require_own_batches()
        seed = self.settings.seed if self.settings.shuffle else None
        position = from_document(state_dict, self._identity, seed, self.shard.world_size)
        check_position(position, len(self._source), self._batches_from(position.legs))
        self._resume_at = position
        self._drawn_seed = position.seed
        self.set_epoch(position.epoch)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return identify(self._source, self.settings)

    @property
    def _source(self) -> ParquetDataset | StreamingParquetDataset:
        """The dataset that the loader was made for."""
        dataset = self.dataset
        return dataset.source if isinstance(dataset, OrderedStream) else dataset  # type: ignore[return-value]  # the constructor takes nothing else

    def _require_own_batches(self) -> None:
        if self._given_batches is not None:
            raise InputError(
                "this loader was recreated with a sampler or batch_sampler, and only that knows "
                "the position; keep the state of the loader that create_dataloader returned"
            )

    def _start_of(self, epoch: int) -> Position:
        """Where an epoch starts: at the position of a state, if it is of this epoch."""
        return self._resume_at if self._resume_at.epoch == epoch else Position(epoch)

    def _position(self, unused: int = 0) -> Position:
        seed = self._seed() if self.settings.shuffle else 0
        if self._running is None:
            return replace(self._start_of(self.epoch), seed=seed)
        start, progress = self._running
        done = progress.batches - unused
        if done < self._batches_from(start.legs):
            return replace(start, batches=done, seed=seed)
        return Position(start.epoch + 1, seed=seed)

    def _batches_from(self, legs: Sequence[Leg]) -> int:
        """Batches of a rank in what is left of an epoch after some legs."""
        rows = sum(map(len, self._source.share(self.shard, legs)))
        return batch_count(rows, self.settings.batch_size, self.settings.drop_last)

    def _seed(self) -> int:
        """The seed of all epochs, drawn once if none is given."""
        if self.settings.seed is not None:
            return self.settings.seed
        if self._drawn_seed is None:
            if self.shard.world_size == 1:  # then it follows torch.manual_seed, as in torch
                self._drawn_seed = int(torch.empty((), dtype=torch.int64).random_())
            else:  # ranks must agree on the order
                self._drawn_seed = getattr(self.sampler, "seed", 0)
        return self._drawn_seed

    def _next_order(self) -> Order:
        epoch = given_epoch(self.sampler)
        if epoch != self._sampler_epoch:  # Lightning sets it on samplers only
            self.epoch = self._sampler_epoch = epoch
        settings = self.settings
        seed = self._seed() if settings.shuffle else 0
        order = Order(settings.shuffle, seed, self.epoch, settings.shuffle_window)
        self.epoch += 1
        return order

    def _followed(self, visit: Visit, progress: Progress, transfer: ChunkTransfer | None) -> Visit:
        """The visit, or one of the epoch that has been set since it was chosen.

        Lightning sets the epoch of a resumed run after it has made the iterator.
        """
        epoch = given_epoch(self.sampler)
        if epoch in (self._sampler_epoch, visit[0].epoch):
            return visit
        return self._begin(progress, transfer)

    def _thread_runs(
        self, visit: Visit, progress: Progress, transfer: ChunkTransfer | None
    ) -> Iterator[Run]:
        """Batches cut from chunks, in this process."""
        order, positions = self._followed(visit, progress, transfer)
        settings = self.settings
        yield from self._source.runs(
            order,
            settings.batch_size,
            settings.drop_last,
            positions=positions,
            num_workers=settings.num_workers,
            prefetch=settings.prefetch,
            pin=self.pin_memory and self._collate is None and transfer is None,
            transfer=transfer,
        )

    def _collate_runs(self, epoch_runs: Iterable[Run], collate: Collate) -> Iterator[Any]:
        for run in epoch_runs:
            for rows in batches_of(run):
                batch = collated(rows, self._source, collate)
                yield mapped(batch, torch.Tensor.pin_memory) if self.pin_memory else batch

    def _fetch_rows(self, indices: Any) -> Any:
        """The batch of the row numbers that a batch_sampler gives."""
        batch = RowFetch(self._source, self._collate)[indices]  # type: ignore[arg-type]  # streams take no sampler
        return mapped(batch, torch.Tensor.pin_memory) if self.pin_memory else batch

    def _process_batches(
        self, visit: Visit, progress: Progress, transfer: ChunkTransfer | None
    ) -> Generator[Any, None, None]:
        """Batches that worker processes fetch."""
        order, positions = self._followed(visit, progress, transfer)
        workers, self._idle_workers = self._idle_workers or self._new_workers(), None
        try:
            yield from self._fetch_batches(workers, order, positions, progress, transfer)
        finally:
            # Kept workers serve one iterator at a time; a second one starts its own.
            self._idle_workers = workers if self.persistent_workers else None

    def _fetch_batches(
        self,
        workers: WorkerPool,
        order: Order,
        positions: Positions,
        progress: Progress,
        transfer: ChunkTransfer | None,
    ) -> Iterator[Any]:
        size, drop = self.settings.batch_size, self.settings.drop_last
        dataset = self._source
        if isinstance(dataset, ParquetDataset):
            batches = self._given_batches
            if batches is None:
                batches = batch_slices(dataset.indices(order, positions), size, drop)
            return progress.count_batches(workers.run(batches))
        results = workers.run(chunk_tasks(dataset.rows, order, positions, size))
        if self._collate is None:
            return progress.count_runs(runs(results, size, drop, transfer=transfer))
        return progress.count_batches(assembled(results, dataset, self._collate, size, drop))

    def _new_workers(self) -> WorkerPool:
        dataset, settings = self._source, self.settings
        check_sendable(dataset, self._collate)
        ahead = self.num_workers * max(1, settings.prefetch)
        if isinstance(dataset, StreamingParquetDataset):
            fetch: Any = ChunkFetch(dataset, self._collate, settings.batch_size)
            check_shared_memory(min(ahead * dataset.rows.chunk_rows, len(dataset)), dataset)
        else:
            fetch = RowFetch(dataset, self._collate)
            check_shared_memory(min(ahead * settings.batch_size, len(dataset)), dataset)
        return start_workers(
            fetch,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor,
            persistent_workers=self.persistent_workers,
            pin_memory=self.pin_memory,
        )

    def check_worker_number_rationality(self) -> None:
        """Leave torch's warning about too many workers to the DataLoader that starts them."""

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes and running epochs stay here; a copy elsewhere starts its own.
        return {**self.__dict__, "_idle_workers": None, "_running": None}


def _row_collate(
    dataset: ParquetDataset | StreamingParquetDataset, collate: Collate | None
) -> Collate | None:
    """The function that makes batches of single rows; None if they are cut from chunks."""
    if dataset.transform is None and collate in (None, default_collate):
        return None
    return collate or default_collate
