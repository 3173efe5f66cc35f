"""tf.data as the scheduler of decoding.

Arrow tables stay in Python: only the number of a part goes through tensors. The pipeline is
traced once per process and settings; then a call costs 2 ms more than the work (5 to 12 ms if
each call makes and iterates a dataset, most of it for rewriting its graph).
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from ..base.schedule import ThreadScheduler
from ..base.settings import check_count, default_workers

Part = TypeVar("Part")
Result = TypeVar("Result")

Pipeline = Callable[[np.int64, np.int64], object]

AUTOTUNE = -1  # the value of tf.data.AUTOTUNE, which takes seconds to import


@dataclass
class _Call:
    """A call of `run` in progress."""

    work: Callable[[int], Any]
    results: dict[int, Any] = field(default_factory=dict)
    errors: dict[int, BaseException] = field(default_factory=dict)
    stop_at: float = sys.maxsize
    """Parts from this number on are skipped."""

    def do(self, index: int) -> None:
        if index >= self.stop_at:
            return
        try:
            self.results[index] = self.work(index)
        except BaseException as error:  # noqa: BLE001 - `run` raises it in the caller's thread
            self.errors[index] = error
            self.stop_at = min(self.stop_at, index)


_calls: dict[int, _Call] = {}
_call_numbers = itertools.count()
_main_pid = os.getpid()  # in a process forked from this one, TensorFlow's threads are gone


@dataclass
class TfDataScheduler:
    """Runs work in the threads of a tf.data pipeline; any number of calls at once.

    TensorFlow creates its devices before it runs the first Python function, and takes nearly all
    memory of a GPU. Decoding needs no GPU, so plain threads do the work where TensorFlow sees
    one, and also in a forked process, where TensorFlow would hang.

    Args:
        num_workers: parts in progress at a time, in a private thread pool of that size. 0 does
            one part at a time, -1 (`AUTOTUNE`) leaves the number and the threads to tf.data.
        prefetch: size of the pipeline's prefetch buffer; -1 (`AUTOTUNE`) leaves it to tf.data.
    """

    num_workers: int
    prefetch: int = 0

    def __post_init__(self) -> None:
        check_count("num_workers", self.num_workers, AUTOTUNE)
        check_count("prefetch", self.prefetch, AUTOTUNE)

    ahead = 0  # the number of parts must be known before the pipeline starts

    def run(self, parts: Iterable[Part], work: Callable[[Part], Result]) -> list[Result]:
        """The results in the parts' order.

        Raises:
            BaseException: the error of `work` for the first part that failed, unchanged. Later
                parts are not started.
        """
        parts = list(parts)
        if not parts:
            return []
        if not _may_run_tensorflow():
            workers = default_workers() if self.num_workers == AUTOTUNE else self.num_workers
            return ThreadScheduler(workers, max(self.prefetch, 0)).run(parts, work)
        call = _Call(lambda index: work(parts[index]))
        _run_parts(call, len(parts), _pipeline(self.num_workers, self.prefetch))
        if call.errors:
            raise call.errors[min(call.errors)]
        return [call.results[index] for index in range(len(parts))]


def _run_parts(call: _Call, count: int, pipeline: Pipeline) -> None:
    """Let a pipeline do the parts of a call.

    It runs in a separate thread: in the caller's, Ctrl-C would wait for the last part.
    """
    number = next(_call_numbers)
    _calls[number] = call
    with ThreadPoolExecutor(1, thread_name_prefix="feedrate-tf") as pool:
        try:
            pool.submit(pipeline, np.int64(number), np.int64(count)).result()
        finally:
            del _calls[number]  # after Ctrl-C, running parts finish and others are skipped


def _do_part(number: np.int64, index: np.int64) -> np.int64:
    """Do one part of one call; tf.data runs this."""
    if (call := _calls.get(int(number))) is not None:
        call.do(int(index))
    return index


@lru_cache
def _pipeline(num_workers: int, prefetch: int) -> Pipeline:
    """A function of (call number, number of parts) that does the parts; made once per process.

    The thread pool and the draining are raw operations, since an iterator would rewrite the
    dataset's graph in each call.
    """
    import tensorflow as tf

    def run(number: Any, count: Any) -> Any:
        def step(index: Any) -> Any:
            return tf.numpy_function(_do_part, [number, index], tf.int64)

        # Results are kept by number, so no finished part has to wait for its turn.
        parallel = {"num_parallel_calls": num_workers, "deterministic": False}
        dataset = tf.data.Dataset.range(count).map(
            tf.autograph.experimental.do_not_convert(step), **(parallel if num_workers else {})
        )
        if prefetch:
            dataset = dataset.prefetch(prefetch)
        variant = tf.data.experimental.to_variant(dataset.batch(count))
        element = {"output_types": [tf.int64], "output_shapes": [[None]]}
        if num_workers != AUTOTUNE:
            variant = tf.raw_ops.PrivateThreadPoolDataset(
                input_dataset=variant, num_threads=max(1, num_workers), **element
            )
        return tf.raw_ops.DatasetToSingleElement(dataset=variant, **element)

    traced: Pipeline = tf.function(
        run, autograph=False, input_signature=[tf.TensorSpec([], tf.int64)] * 2
    )
    return traced


def _may_run_tensorflow() -> bool:
    """Whether TensorFlow would neither hang in this process nor claim a GPU."""
    if os.getpid() != _main_pid:
        return False
    import tensorflow as tf

    return not tf.config.get_visible_devices("GPU")
