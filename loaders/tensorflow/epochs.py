"""The epochs of a tf.data pipeline, whose threads call `begin` at the start of each."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np

from ..base.settings import LoaderSettings
from ..base.stages import stage
from ..training.epochs import Order, Shard, block_share, strided_share
from ..training.parquet_rows import Chunk, Cut, ParquetRows
from ..training.spans import Arrays

PARTS = 16  # that the workers of a tf.data service divide, so there may be as many of them
EPOCHS_KEPT = 8  # unfinished epochs of a stream; a dropped iterator leaves one behind


@dataclass(frozen=True)
class EpochPlan:
    """The sequence of a dataset's epochs."""

    first: Order
    """The order of the first epoch; each further iteration uses the next epoch number."""
    shard: Shard

    @classmethod
    def of(cls, settings: LoaderSettings, shard: Shard, first_epoch: int) -> EpochPlan:
        """The epochs for some settings.

        Without a seed TensorFlow draws one, so that `tf.random.set_seed` repeats it. Several
        ranks must agree, so their seed is 0.
        """
        seed = settings.seed
        if seed is None:
            may_draw = settings.shuffle and shard.world_size == 1
            seed = _draw_seed() if may_draw else 0
        return cls(Order(settings.shuffle, seed, first_epoch, settings.shuffle_window), shard)

    def order(self, iteration: int) -> Order:
        """The order of an iteration, by its number from 0.

        All workers of a tf.data service iterate, and must have the same order.
        """
        if self.shard.by_service:
            return self.first
        return replace(self.first, epoch=self.first.epoch + iteration)


class MemoryEpochs:
    """The epochs of rows in memory.

    Args:
        rows: number of rows.
        plan: the epochs and the rank's share.
        nearby: rows move by fewer places than this; None shuffles all rows uniformly.
    """

    def __init__(self, rows: int, plan: EpochPlan, nearby: int | None = None) -> None:
        self._rows = rows
        self._plan = plan
        self._nearby = nearby
        self._numbers = itertools.count()

    def begin(self) -> np.ndarray:
        """Start the next epoch; return its row numbers in order, int64."""
        with stage("gather"):
            order = self._plan.order(next(self._numbers))
            (positions,) = strided_share(self._rows, self._plan.shard)
            rows = self._row_numbers(order)[positions.start : positions.stop : positions.step]
            return np.ascontiguousarray(rows)

    def _row_numbers(self, order: Order) -> np.ndarray:
        if not order.shuffle:
            return np.arange(self._rows)
        if self._nearby is None or self._nearby >= self._rows:
            return order.permutation(self._rows)
        # Row i sorts by i + d with d drawn from range(nearby), so it comes after all rows up to
        # i - nearby and before all from i + nearby on.
        random = np.random.default_rng((order.seed, order.epoch))
        sort_keys = np.arange(self._rows) + random.integers(self._nearby, size=self._rows)
        return np.argsort(sort_keys, kind="stable")


@dataclass
class _Epoch:
    parts: list[tuple[Chunk, Cut]]
    unread: int


class StreamEpochs:
    """The unfinished epochs of files' rows.

    Chunks share the state of large row groups that are decoded in slices, so the epoch of each
    iterator has its own list of chunks.

    Args:
        rows: the files' rows.
        plan: the epochs; a rank gets consecutive rows of an epoch's order, so that most files
            are read by one rank alone.
    """

    def __init__(self, rows: ParquetRows, plan: EpochPlan) -> None:
        self._rows = rows
        self._plan = plan
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._unfinished: OrderedDict[int, _Epoch] = OrderedDict()
        self._known_cuts: np.ndarray | None = None

    def begin(self) -> tuple[np.int64, np.int64]:
        """Plan the next iteration; return the number of its plan, and its number of chunks."""
        with self._lock:
            number = next(self._numbers)
        return self._begin(number)

    def begin_part(self, part: np.int64) -> tuple[np.int64, np.int64]:
        """As `begin`, for one of the `PARTS` parts of an iteration."""
        with self._lock:
            number = next(self._numbers) * PARTS + int(part)
        return self._begin(number)

    def _begin(self, number: int) -> tuple[np.int64, np.int64]:
        parts = self._parts(number)
        kept = 2 * PARTS if self._plan.shard.by_service else EPOCHS_KEPT
        with self._lock:
            if parts:
                self._unfinished[number] = _Epoch(parts, len(parts))
            while len(self._unfinished) > kept:
                self._unfinished.popitem(last=False)
        return np.int64(number), np.int64(len(parts))

    def read(self, number: np.int64, at: np.int64) -> Arrays:
        """Decode a chunk of an epoch.

        Raises:
            ParquetFileError: a file that can no longer be read, or has changed.
        """
        with self._lock:
            epoch = self._unfinished.get(int(number))
            if epoch is not None:
                epoch.unread -= 1
                if not epoch.unread:
                    del self._unfinished[int(number)]
        # If the epoch is no longer kept, list its chunks again, for this call alone.
        parts = self._parts(int(number)) if epoch is None else epoch.parts
        chunk, cut = parts[int(at)]
        return tuple(array[cut] for array in chunk.read(self._plan.order(int(number))))

    def _parts(self, number: int) -> list[tuple[Chunk, Cut]]:
        rows = block_share(len(self._rows), self._plan.shard)
        if self._plan.shard.by_service:
            rows = tuple(self._part_of(share, number % PARTS) for share in rows)
        return self._rows.parts(self._plan.order(number), rows)

    def _part_of(self, share: range, part: int) -> range:
        """One of `PARTS` parts of a share, which are cut only where `_cuts` allows it."""
        cuts = self._cuts()
        low, high = (
            cuts[np.searchsorted(cuts, share.start + len(share) * at // PARTS)]
            for at in (part, part + 1)
        )
        low = share.start if part == 0 else min(int(low), share.stop)
        high = share.stop if part == PARTS - 1 else min(int(high), share.stop)
        return range(low, high)

    def _cuts(self) -> np.ndarray:
        """Positions at which an iteration may be divided, so that nothing is decoded twice.

        They are those between chunks, but not within a large row group.
        """
        with self._lock:
            if self._known_cuts is None:
                cuts, start, before = [0], 0, set[int]()
                for chunk in self._rows.plan(self._plan.first):
                    readers = {id(piece.reader) for piece in chunk.pieces}
                    if not readers & before:
                        cuts.append(start)
                    start, before = start + chunk.rows, readers
                self._known_cuts = np.array([*cuts, start])
            return self._known_cuts


def _draw_seed() -> int:
    """A seed from TensorFlow's random numbers, drawn without touching a GPU."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        return int(tf.random.uniform([], maxval=tf.int64.max, dtype=tf.int64))
