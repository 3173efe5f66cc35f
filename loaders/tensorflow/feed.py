"""Epochs of batches through tf.data: of rows in memory, and of files as they are read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.settings import LoaderSettings
from ..training.epochs import Shard, batch_count
from ..training.parquet_rows import ParquetRows
from ..training.spans import Arrays
from .epochs import PARTS, EpochPlan, MemoryEpochs, StreamEpochs
from .exit import exit_gate
from .failures import Failures, naming
from .flow import Flow, plain

if TYPE_CHECKING:
    import tensorflow as tf

# Rows are gathered in chunks, since starting a gather costs more than copying a batch, and cut into
# batches by `Dataset.rebatch`, which copies only unaligned parts. On 1M rows of 32 features, at
# batch 1024, chunks of 2 to 24 MiB fed 8 to 9 M rows/s, of 1 MiB 7 to 8, of 0.5 MiB 6 to 7.
# Fresh memory for each chunk costs little: when numpy gathered into reused buffers, under the
# interpreter's lock, a Python loop got 7.2 M rows/s instead of 8.3, and model.fit the same.
CHUNK_ROWS = 65_536
CHUNK_BYTES = 8 << 20

Part = tuple[Any, list[int | None]]
"""The dtype and shape of a tensor that a Python function returns."""


def memory_batches(
    arrays: Arrays,
    settings: LoaderSettings,
    plan: EpochPlan,
    flow: Flow,
    nearby: int | None = None,
) -> tf.data.Dataset:
    """Batches of rows in memory.

    Args:
        arrays: X of shape (rows, features) and, with a target, y of shape (rows, ...).
        settings: only batch_size and drop_last are used.
        plan: the epochs, and the rank's share of them.
        flow: how the pipeline runs.
        nearby: rows move by fewer places than this; None shuffles all rows uniformly.
    """
    import tensorflow as tf

    rows = len(arrays[0])
    by_service = plan.shard.by_service
    tensors = [] if by_service else [_tensor(array) for array in arrays]
    chunk_rows = _chunk_rows(arrays, settings.batch_size)
    if by_service:
        chunk_rows = max(1, min(chunk_rows, rows // PARTS))
    failures = Failures()
    sharded = plan.shard.world_size > 1
    if not sharded and not plan.first.shuffle and not by_service:
        chunks = flow.map(
            tf.data.Dataset.range(0, rows, chunk_rows),
            lambda low: _element(tensor[low : low + chunk_rows] for tensor in tensors),
        )
    else:
        epochs = MemoryEpochs(rows, plan, nearby)
        starts = _epoch_starts(failures.noted(epochs.begin), [(tf.int64, [None])])
        indices = starts.rebatch(chunk_rows)
        if by_service:
            chunks = flow.map(_of_this_worker(indices), _gathering(arrays, failures))
        else:
            chunks = flow.map(
                indices, lambda rows: _element(tf.gather(tensor, rows) for tensor in tensors)
            )
    dataset = _finish(chunks, rows, settings, flow, plan.shard)
    return naming(dataset, failures)


def stream_batches(
    rows: ParquetRows, settings: LoaderSettings, plan: EpochPlan, flow: Flow
) -> tf.data.Dataset:
    """Batches of files' rows, decoded in chunks, of which a few are in memory at a time.

    Args:
        rows: the files' rows.
        settings: only batch_size and drop_last are used.
        plan: the epochs, and the rank's share of them.
        flow: how the pipeline runs.
    """
    import tensorflow as tf

    epochs, failures = StreamEpochs(rows, plan), Failures()
    dtype = tf.as_dtype(rows.columns.dtype)
    parts = [(dtype, [None, *array.shape[1:]]) for array in rows.columns.empty(0)]

    def chunk_numbers(epoch: Any, count: Any) -> tf.data.Dataset:
        return tf.data.Dataset.range(count).map(plain(lambda chunk: (epoch, chunk)))

    def read(epoch: Any, chunk: Any) -> Any:
        return _element(_call_python(failures.noted(epochs.read), [epoch, chunk], parts))

    numbers: list[Part] = [(tf.int64, []), (tf.int64, [])]
    if plan.shard.by_service:
        begin = failures.noted(epochs.begin_part)
        starts = _of_this_worker(tf.data.Dataset.range(PARTS)).map(
            plain(lambda part: _element(_call_python(begin, [part], numbers)))
        )
    else:
        starts = _epoch_starts(failures.noted(epochs.begin), numbers)
    chunks = flow.map(starts.flat_map(plain(chunk_numbers)), read)
    dataset = _finish(chunks, len(rows), settings, flow, plan.shard)
    return naming(dataset, failures)


def _epoch_starts(begin: Callable[[], Any], parts: Sequence[Part]) -> tf.data.Dataset:
    """A dataset of one element: the result of `begin`, called again in each iteration."""
    import tensorflow as tf

    return tf.data.Dataset.range(1).map(plain(lambda _: _element(_call_python(begin, [], parts))))


def _call_python(
    function: Callable[..., Any], arguments: Sequence[Any], parts: Sequence[Part]
) -> list[Any]:
    """The results of a Python function as tensors, of the dtypes and shapes in `parts`."""
    import tensorflow as tf

    dtypes = [dtype for dtype, _ in parts]
    results = tf.numpy_function(exit_gate().through(function), arguments, dtypes)
    return [tf.ensure_shape(part, shape) for part, (_, shape) in zip(results, parts, strict=True)]


def _of_this_worker(elements: tf.data.Dataset) -> tf.data.Dataset:
    """The elements that one worker of a tf.data service gets.

    TensorFlow refuses to divide fewer elements than there are workers.
    """
    import tensorflow as tf

    hint = tf.data.experimental.SHARD_HINT  # replaced by the numbers of workers and of this one
    return elements.shard(hint, hint)


def _gathering(arrays: Arrays, failures: Failures) -> Callable[[Any], Any]:
    """A function from row numbers to an element, which gathers outside of TensorFlow.

    Tensors would be in the graph that a tf.data service sends, which may have 2 GiB at most.
    """
    import tensorflow as tf

    def gather(rows: np.ndarray) -> Arrays:
        return tuple(np.take(array, rows, axis=0) for array in arrays)

    parts = [(tf.as_dtype(array.dtype), [None, *array.shape[1:]]) for array in arrays]
    return lambda rows: _element(_call_python(failures.noted(gather), [rows], parts))


def _finish(
    chunks: tf.data.Dataset, rows: int, settings: LoaderSettings, flow: Flow, shard: Shard
) -> tf.data.Dataset:
    batches = chunks.rebatch(settings.batch_size, drop_remainder=settings.drop_last)
    count = batch_count(shard.rows(rows), settings.batch_size, settings.drop_last)
    sharded = shard.world_size > 1
    return flow.finish(batches, None if shard.by_service else count, sharded=sharded)


_handed_over: dict[int, np.ndarray] = {}
_array_numbers = itertools.count()


def _tensor(array: np.ndarray) -> tf.Tensor:
    """An array as a tensor in host memory, made with one copy, or none if it is aligned.

    `convert_to_tensor` copies twice: for 0.5 GiB it took 1.9 s and 1 GiB more memory, this 0.45 s
    and 0.5 GiB.
    """
    number = next(_array_numbers)
    _handed_over[number] = array
    try:
        return _array_taker(array.dtype.name)(np.int64(number))
    except BaseException:
        _handed_over.pop(number, None)  # it was not taken: nothing else would drop it
        raise


@lru_cache
def _array_taker(dtype: str) -> Callable[[np.int64], tf.Tensor]:
    """A function from an array's number to its tensor; traced once per dtype."""
    import tensorflow as tf

    def take(number: Any) -> Any:
        with tf.device("CPU:0"):
            return tf.numpy_function(lambda at: _handed_over.pop(int(at)), [number], dtype)

    traced: Callable[[np.int64], tf.Tensor] = tf.function(
        take, autograph=False, input_signature=[tf.TensorSpec([], tf.int64)]
    )
    return traced


def _element(parts: Iterable[Any]) -> Any:
    """X and y as a dataset's element: a pair, or X alone."""
    tensors = tuple(parts)
    return tensors if len(tensors) > 1 else tensors[0]


def _chunk_rows(arrays: Arrays, batch_size: int) -> int:
    """Rows to gather at once: whole batches, at least one."""
    row_bytes = sum(array[:1].nbytes for array in arrays)
    rows = min(CHUNK_ROWS, CHUNK_BYTES // max(1, row_bytes))
    return max(1, rows // batch_size) * batch_size
