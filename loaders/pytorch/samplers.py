"""Samplers that let Accelerate, Lightning and other wrappers share a loader's rows among ranks.

Wrappers know only torch's samplers. They either take a loader's dataset and `batch_sampler` and
shard these themselves (Accelerate), or recreate the loader with a `DistributedSampler` unless its
`sampler` is one (Lightning). Rows are sharded once either way: the `batch_sampler` that a loader
exposes covers the rows of all ranks, even if the loader has only a rank's share, and the `sampler`
of a loader with a share is a `DistributedSampler`.

A stream has no sampler: wrappers make a DataLoader of the loader's `dataset`, which is therefore an
`OrderedStream` if the loader shuffles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253 - it subclasses torch's classes; imported when needed
from torch.utils.data import (  # noqa: TID253 - the same
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    get_worker_info,
)

from ..base.errors import InputError
from ..base.settings import LoaderSettings, with_changes
from ..training.epochs import Order, Shard
from .datasets import ParquetDataset, StreamingParquetDataset


@dataclass(frozen=True)
class SamplerChoice:
    """The settings, share and batches that follow from a loader's samplers."""

    settings: LoaderSettings
    shard: Shard
    batches: Iterable[Any] | None = None
    """The row numbers of each batch; None if the loader chooses them itself."""


def interpret_samplers(
    settings: LoaderSettings,
    shard: Shard,
    sampler: Iterable[int] | None,
    batch_sampler: Iterable[Any] | None,
) -> SamplerChoice:
    """Derive the order and the share from samplers.

    A `DistributedSampler` only sets this rank's share: rows then come in the loader's own order,
    which suits files, and ranks get equally many, none twice.

    Raises:
        InputError: a share that contradicts the loader's own.
    """
    if batch_sampler is not None:
        return SamplerChoice(settings, shard, batch_sampler)
    if isinstance(sampler, DistributedSampler):
        share = Shard.of(sampler.rank, sampler.num_replicas)
        if shard.world_size > 1 and shard != share:
            raise InputError(
                f"the loader was made for rank {shard.rank} of {shard.world_size} and got a "
                f"sampler for rank {share.rank} of {share.world_size}; leave rank and world_size "
                "out if a wrapper such as Lightning shards"
            )
        return SamplerChoice(settings, share)
    if sampler is None or isinstance(sampler, RowSampler):
        return SamplerChoice(settings, shard)
    if isinstance(sampler, SequentialSampler):
        return SamplerChoice(with_changes(settings, shuffle=False), shard)
    return SamplerChoice(
        settings, shard, BatchSampler(sampler, settings.batch_size, settings.drop_last)
    )


def process_group_shard() -> Shard:
    """The share of this process in torch.distributed; all rows if that is not initialized."""
    group = torch.distributed
    if not (group.is_available() and group.is_initialized()):
        return Shard()
    return Shard(group.get_rank(), group.get_world_size())


class RowSampler(RandomSampler):
    """All row numbers in an order that suits the dataset, for wrappers that use a sampler.

    Args:
        dataset: the rows.
        settings: only seed and shuffle_window are used.
    """

    def __init__(self, dataset: ParquetDataset, settings: LoaderSettings) -> None:
        super().__init__(dataset)
        self._settings = settings
        self._epoch = 0
        self.epoch = 0
        """The epoch that was set last, which the loader follows as well."""

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration follow this epoch's order."""
        self._epoch = self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        seed = self._settings.seed
        if seed is None:  # a wrapper may have put a generator here that ranks share
            seed = int(torch.empty((), dtype=torch.int64).random_(generator=self.generator))
        order = Order(True, seed, self._epoch, self._settings.shuffle_window)
        self._epoch += 1
        dataset: ParquetDataset = self.data_source  # type: ignore[assignment]  # as constructed
        return iter(dataset.indices(order).tolist())


def given_epoch(sampler: object) -> int:
    """The epoch that was last set on a sampler; 0 if none was."""
    return sampler.epoch if isinstance(sampler, DistributedSampler | RowSampler) else 0


class OrderedStream(StreamingParquetDataset):
    """A stream that yields its rows in its loader's shuffled order, a new one in each epoch.

    `set_epoch` sets the epoch; without it, epochs are counted here. Torch's worker processes that
    are started for an epoch have counted none: without `set_epoch` their order also depends on
    `torch.manual_seed`, and with several ranks of torch.distributed it is the same in each epoch.

    Args:
        source: the stream.
        settings: only seed and shuffle_window are used. Without a seed each epoch draws one; it is
            0 for several ranks, which must agree.
    """

    def __init__(self, source: StreamingParquetDataset, settings: LoaderSettings) -> None:
        self.source = source
        self.columns, self.transform, self.rows = source.columns, source.transform, source.rows
        self._settings = settings
        self._epoch = 0
        self._epoch_given = False
        self._ranks: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration follow this epoch's order."""
        self._epoch, self._epoch_given = epoch, True

    def _next_order(self) -> Order:
        seed, epoch = self._settings.seed, self._epoch
        self._epoch += 1
        if (self._ranks or process_group_shard().world_size) > 1:
            seed = 0 if seed is None else seed
        else:
            worker = get_worker_info()
            # The same in all workers of an epoch, and new in each epoch that starts workers.
            worker_seed = None if worker is None else worker.seed - worker.id
            if seed is None:
                scalar = torch.empty((), dtype=torch.int64)
                seed = int(scalar.random_()) if worker_seed is None else worker_seed
            elif worker_seed is not None and not self._epoch_given:
                epoch += worker_seed
        return Order(True, seed, epoch, self._settings.shuffle_window)

    def __getstate__(self) -> dict[str, Any]:
        # A worker process is in no process group of torch.distributed.
        return {**self.__dict__, "_ranks": process_group_shard().world_size}


def exposed_dataset(
    dataset: ParquetDataset | StreamingParquetDataset, settings: LoaderSettings
) -> ParquetDataset | StreamingParquetDataset:
    """The dataset that a loader exposes to wrappers."""
    if settings.shuffle and isinstance(dataset, StreamingParquetDataset):
        return OrderedStream(dataset, settings)
    return dataset


def row_sampler(dataset: ParquetDataset, settings: LoaderSettings) -> Sampler[int]:
    """The sampler over all ranks' rows that a loader exposes."""
    # torch's RandomSampler refuses zero rows.
    shuffled = settings.shuffle and len(dataset) > 0
    return RowSampler(dataset, settings) if shuffled else SequentialSampler(dataset)


def exposed_sampler(
    dataset: ParquetDataset, settings: LoaderSettings, shard: Shard
) -> Sampler[int]:
    """The sampler that a loader exposes: a `DistributedSampler` if it has a rank's share."""
    if shard.world_size == 1:
        return row_sampler(dataset, settings)
    return DistributedSampler(
        dataset,
        num_replicas=shard.world_size,
        rank=shard.rank,
        shuffle=settings.shuffle,
        seed=settings.seed or 0,
        drop_last=True,
    )


def all_ranks_batch_sampler(dataset: ParquetDataset, settings: LoaderSettings) -> BatchSampler:
    """Batches of all ranks' rows, for wrappers that shard them themselves (Accelerate)."""
    return BatchSampler(row_sampler(dataset, settings), settings.batch_size, settings.drop_last)


def torch_batching(
    dataset: ParquetDataset | StreamingParquetDataset,
    choice: SamplerChoice,
    sampler: Iterable[int] | None,
) -> dict[str, Any]:
    """Batch arguments for torch's constructor, which wrappers read from the loader."""
    if choice.batches is not None:
        return {"batch_sampler": choice.batches}
    settings = choice.settings
    arguments: dict[str, Any] = {"batch_size": settings.batch_size, "drop_last": settings.drop_last}
    if isinstance(dataset, ParquetDataset):
        arguments["sampler"] = sampler or exposed_sampler(dataset, settings, choice.shard)
    return arguments


def check_share(dataset: ParquetDataset | StreamingParquetDataset, choice: SamplerChoice) -> None:
    """Raise `InputError` if the share of a rank makes no batch."""
    if choice.batches is None:
        settings = choice.settings
        choice.shard.check(len(dataset), settings.batch_size, settings.drop_last)


def torch_workers(settings: LoaderSettings, persistent_workers: bool) -> dict[str, Any]:
    """Worker arguments for torch's constructor, for which only processes are workers."""
    processes = settings.num_workers if settings.worker_kind == "process" else 0
    return {
        "num_workers": processes,
        "prefetch_factor": max(1, settings.prefetch) if processes else None,
        "persistent_workers": persistent_workers and processes > 0,
        "pin_memory": settings.pin_memory and torch.cuda.is_available(),
    }
