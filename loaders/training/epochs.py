"""The order in which an epoch visits rows, and each rank's share of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..base.errors import InputError
from ..base.settings import check_count

AutoShard = Literal["auto"]
ServiceShard = Literal["auto", "service"]


@dataclass(frozen=True)
class Order:
    """The order of one epoch: equal fields give the same order, with any number of workers."""

    shuffle: bool = False
    seed: int = 0
    epoch: int = 0
    window: int = 1
    """Number of file spans whose rows are mixed; rows in memory are all mixed."""

    def permutation(self, rows: int, *key: int) -> np.ndarray:
        """A permutation of `range(rows)` that depends on the key of positive integers."""
        generator = np.random.default_rng((self.seed, self.epoch, *key))
        # `choice` draws without rejection: 0.41 ms for 100,000 rows; `permutation` takes 0.95 ms.
        return generator.choice(rows, rows, replace=False)


@dataclass(frozen=True)
class Shard:
    """One rank's equal share of the rows: at most `world_size - 1` rows are left out."""

    rank: int = 0
    world_size: int = 1
    by_service: bool = False
    """Whether the workers of a tf.data service divide this share among themselves."""

    @classmethod
    def of(cls, rank: int | None, world_size: int | None) -> Shard:
        """The share for a user's arguments; all rows if both are None.

        Raises:
            InputError: only one is given, or the rank is not below the world size.
        """
        if rank is None and world_size is None:
            return cls()
        if rank is None or world_size is None:
            missing = "rank" if rank is None else "world_size"
            raise InputError(f"{missing} is missing; give both rank and world_size, or neither")
        check_count("rank", rank, 0)
        check_count("world_size", world_size, 1)
        if rank >= world_size:
            raise InputError(f"rank is {rank}; it must be below world_size, which is {world_size}")
        return cls(rank, world_size)

    @classmethod
    def chosen(
        cls,
        rank: int | None,
        world_size: int | None,
        shard: AutoShard | None,
        find: Callable[[], Shard],
    ) -> Shard:
        """The share as in `of`, or with `shard='auto'` the result of `find`.

        Raises:
            InputError: as `of`; an unknown `shard`, or a rank or world size given with it.
        """
        if shard is None:
            return cls.of(rank, world_size)
        if shard != "auto":
            raise InputError(f"shard is {shard!r}; it must be 'auto' or None")
        if rank is not None or world_size is not None:
            raise InputError("shard='auto' finds rank and world_size; leave them out")
        return find()

    def check(self, total: int, batch_size: int, drop_last: bool) -> None:
        """Raise `InputError` if one of several ranks has no rows, or `drop_last` drops all rows."""
        share = self.rows(total)
        if self.world_size > 1 and not share:
            raise InputError(
                f"world_size is {self.world_size} and there are {total} rows, so some ranks would "
                "have none; use fewer ranks"
            )
        if drop_last and 0 < share < batch_size:
            raise InputError(
                f"batch_size is {batch_size} and there are {share} rows, so drop_last "
                "leaves no batch; lower batch_size or set drop_last=False"
            )

    def rows(self, total: int) -> int:
        """Number of rows in a share of `total` rows."""
        return total // self.world_size

    def nearly(self, total: int) -> range:
        """The share as consecutive positions, of no row left out: sizes differ by up to one."""
        return range(
            total * self.rank // self.world_size, total * (self.rank + 1) // self.world_size
        )


@dataclass(frozen=True)
class Leg:
    """A part of an epoch that ranks have read, before it continues on another number of ranks."""

    world_size: int
    rows: int
    """The rows that each rank has read."""


Positions = tuple[range, ...]
"""Ascending positions in an epoch's order."""


def block_share(total: int, shard: Shard, legs: Sequence[Leg] = ()) -> Positions:
    """A rank's equal share of what is left of an epoch, in consecutive positions.

    Args:
        total: rows of the epoch.
        shard: the rank.
        legs: what has been read; in each leg, ranks read from the start of such a share.
    """
    left: Positions = (range(total),)
    for leg in legs:
        size = _count(left) // leg.world_size
        unread = [
            piece
            for rank in range(leg.world_size)
            for piece in _cut(left, rank * size + leg.rows, (rank + 1) * size)
        ]
        left = (*unread, *_cut(left, leg.world_size * size, _count(left)))
    size = _count(left) // shard.world_size
    return _cut(left, shard.rank * size, (shard.rank + 1) * size)


def strided_share(total: int, shard: Shard, legs: Sequence[Leg] = ()) -> Positions:
    """As `block_share`, in every `world_size`-th position: ranks read a common beginning."""
    start = min(total, sum(leg.world_size * leg.rows for leg in legs))
    left = range(start, total)
    return (left[shard.rank :: shard.world_size][: shard.rows(len(left))],)


def without_first(positions: Positions, rows: int) -> Positions:
    """The positions after the first `rows`."""
    return _cut(positions, rows, _count(positions))


def _count(positions: Positions) -> int:
    return sum(map(len, positions))


def _cut(positions: Positions, low: int, high: int) -> Positions:
    """The positions from the `low`-th to before the `high`-th."""
    cut, start = [], 0
    for piece in positions:
        part = piece[max(0, low - start) : max(0, high - start)]
        if len(part):
            cut.append(part)
        start += len(piece)
    return tuple(cut)


def batch_count(rows: int, batch_size: int, drop_last: bool) -> int:
    """Number of batches in `rows` rows; the last may be partial unless it is dropped."""
    return rows // batch_size if drop_last else -(-rows // batch_size)


def batch_slices(indices: np.ndarray, batch_size: int, drop_last: bool) -> Sequence[np.ndarray]:
    """Row numbers cut into batches."""
    count = batch_count(len(indices), batch_size, drop_last)
    return [indices[low * batch_size : (low + 1) * batch_size] for low in range(count)]
