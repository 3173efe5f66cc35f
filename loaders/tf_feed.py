"""Rows to epochs of batches through tf.data: from memory, and from files as they are read."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .epochs import Order, batch_count
from .parquet_rows import Chunk, ParquetRows
from .settings import LoaderSettings
from .spans import Arrays
from .tf_exit import exit_gate
from .tf_flow import Flow, plain

if TYPE_CHECKING:
    import tensorflow as tf

# Rows are gathered in chunks and cut into batches by `Dataset.rebatch`, since per batch a
# gather costs more than its copying. On 1M rows of 32 features, in the graph and at batch
# 1024, chunks of 4k to 64k rows fed 5 to 7 M rows/s, a gather for each batch 3 to 4; at batch
# 8192 64k rows were the fastest. The bound in bytes keeps chunks of wide rows in the cache.
CHUNK_ROWS = 65_536
CHUNK_BYTES = 8 << 20
FLOAT_BYTES = 4
EPOCHS_KEPT = 8  # epochs of a stream under way; an iterator that was dropped leaves one behind


def memory_batches(
    x: np.ndarray,
    y: np.ndarray | None,
    settings: LoaderSettings,
    flow: Flow,
    shuffle_rows: int | None = None,
) -> tf.data.Dataset:
    """Batches of rows in memory.

    Args:
        x: float32, shape (rows, features).
        y: float32, shape (rows,), or None.
        settings: batch_size, shuffle, drop_last and seed count.
        flow: how the pipeline runs.
        shuffle_rows: rows move by fewer places than this; None shuffles all rows uniformly.
    """
    import tensorflow as tf

    rows, features = x.shape
    tensors = tuple(_tensor(part) for part in (x, y) if part is not None)
    chunk_rows = _chunk_rows(features + (y is not None), settings.batch_size)
    if settings.shuffle:
        order = _seeds(settings.seed).map(plain(_permutation(rows, shuffle_rows)))
        chunks = flow.map(
            order.rebatch(chunk_rows),
            lambda indices: _element(tf.gather(tensor, indices) for tensor in tensors),
        )
    else:
        chunks = flow.map(
            tf.data.Dataset.range(0, rows, chunk_rows),
            lambda low: _element(tensor[low : low + chunk_rows] for tensor in tensors),
        )
    batches = chunks.rebatch(settings.batch_size, drop_remainder=settings.drop_last)
    return flow.finish(batches, batch_count(rows, settings.batch_size, settings.drop_last))


def stream_batches(rows: ParquetRows, settings: LoaderSettings, flow: Flow) -> tf.data.Dataset:
    """Batches of rows of files, decoded in chunks of which a few are in memory at a time.

    Args:
        rows: the files' rows.
        settings: batch_size, shuffle, shuffle_window, drop_last and seed count.
        flow: how the pipeline runs.
    """
    import tensorflow as tf

    gate = exit_gate()
    epochs = Epochs(rows, settings.shuffle, settings.shuffle_window)
    features = len(rows.columns.features)
    shapes = [[None, features], *([[None]] if rows.columns.target is not None else [])]

    def begin(seed: Any) -> tf.data.Dataset:
        number, count = tf.numpy_function(gate.through(epochs.begin), [seed], [tf.int64, tf.int64])
        chunks = tf.data.Dataset.range(tf.ensure_shape(count, []))
        return chunks.map(plain(lambda chunk: (seed, number, chunk)))

    def read(seed: Any, number: Any, chunk: Any) -> Any:
        arrays = tf.numpy_function(
            gate.through(epochs.read), [seed, number, chunk], [tf.float32] * len(shapes)
        )
        return _element(map(tf.ensure_shape, arrays, shapes))

    # A seed is drawn for unshuffled epochs too: it is what begins each of them.
    chunks = flow.map(_seeds(settings.seed).flat_map(plain(begin)), read)
    batches = chunks.rebatch(settings.batch_size, drop_remainder=settings.drop_last)
    return flow.finish(batches, batch_count(len(rows), settings.batch_size, settings.drop_last))


@dataclass
class _Epoch:
    chunks: list[Chunk]
    left: int


class Epochs:
    """The epochs of a stream that are under way; what tf.data calls, from its threads.

    Chunks share the state of large row groups that are decoded in slices, so the epoch of each
    iterator has a plan of its own.

    Args:
        rows: the files' rows.
        shuffle: whether epochs are shuffled.
        window: spans of files that are mixed together.
    """

    def __init__(self, rows: ParquetRows, shuffle: bool, window: int) -> None:
        self.rows = rows
        self.shuffle = shuffle
        self.window = window
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._under_way: OrderedDict[int, _Epoch] = OrderedDict()

    def begin(self, seed: np.int64) -> tuple[np.int64, np.int64]:
        """Plan an epoch; its number, and how many chunks it has."""
        chunks = self._plan(seed)
        with self._lock:
            number = next(self._numbers)
            self._under_way[number] = _Epoch(chunks, len(chunks))
            while len(self._under_way) > EPOCHS_KEPT:
                self._under_way.popitem(last=False)
        return np.int64(number), np.int64(len(chunks))

    def read(self, seed: np.int64, number: np.int64, chunk: np.int64) -> Arrays:
        """Decode a chunk of an epoch.

        Raises:
            ParquetFileError: a file that can no longer be read, or has changed.
        """
        with self._lock:
            epoch = self._under_way.get(int(number))
            if epoch is not None:
                epoch.left -= 1
                if not epoch.left:
                    del self._under_way[int(number)]
        # More iterators than are kept: the plan is made again for this chunk alone.
        chunks = self._plan(seed) if epoch is None else epoch.chunks
        return chunks[int(chunk)].read(self._order(seed))

    def _plan(self, seed: np.int64) -> list[Chunk]:
        chunks = self.rows.plan(self._order(seed))
        for chunk in chunks:
            for piece in chunk.pieces:
                piece.reader.want(piece.number)
        return chunks

    def _order(self, seed: np.int64) -> Order:
        return Order(shuffle=self.shuffle, seed=int(seed), window=self.window)


_handed_over: dict[int, np.ndarray] = {}
_numbers = itertools.count()


def _tensor(array: np.ndarray) -> tf.Tensor:
    """An array as a tensor in host memory, made with one copy, or none if it is aligned.

    `convert_to_tensor` copies twice: 0.5 GiB took it 1.9 s and 1 GiB more, this 0.45 s and 0.5.
    """
    number = next(_numbers)
    _handed_over[number] = array
    return _take_over()(np.int64(number))


@lru_cache
def _take_over() -> Callable[[np.int64], tf.Tensor]:
    """A function that returns the array of a number as a tensor, traced once for the process."""
    import tensorflow as tf

    def take(number: Any) -> Any:
        with tf.device("CPU:0"):
            return tf.numpy_function(lambda at: _handed_over.pop(int(at)), [number], tf.float32)

    traced: Callable[[np.int64], tf.Tensor] = tf.function(
        take, autograph=False, input_signature=[tf.TensorSpec([], tf.int64)]
    )
    return traced


def _seeds(seed: int | None) -> tf.data.Dataset:
    """One number each time it is iterated, another one each time."""
    import tensorflow as tf

    return tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)


def _permutation(rows: int, window: int | None) -> Callable[[Any], Any]:
    """A function from a seed to the order of an epoch's rows, integers of shape (rows,)."""
    import tensorflow as tf

    kind = tf.int32 if rows <= tf.int32.max else tf.int64

    def shuffled(seed: Any) -> Any:
        return tf.random.experimental.stateless_shuffle(
            tf.range(rows, dtype=kind), tf.stack([seed, 0])
        )

    def shuffled_nearby(seed: Any) -> Any:
        # Row i sorts by i + d with d drawn from range(window), so it comes after all rows up
        # to i - window and before all from i + window on.
        moved = tf.random.stateless_uniform(
            [rows], tf.stack([seed, 0]), maxval=window, dtype=tf.int64
        )
        return tf.argsort(tf.range(rows, dtype=tf.int64) + moved)

    return shuffled if window is None or window >= rows else shuffled_nearby


def _element(parts: Iterable[Any]) -> Any:
    """X and y as a dataset's element: a pair, or X alone."""
    found = tuple(parts)
    return found if len(found) > 1 else found[0]


def _chunk_rows(width: int, batch_size: int) -> int:
    """Rows to gather at once: whole batches, at least one."""
    rows = min(CHUNK_ROWS, CHUNK_BYTES // (FLOAT_BYTES * width))
    return max(1, rows // batch_size) * batch_size
