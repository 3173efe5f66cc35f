"""How a tf.data pipeline runs: workers, prefetch, order, and what a strategy may do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .tf_schedule import AUTOTUNE

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Flow:
    """How tf.data runs a pipeline."""

    num_workers: int
    """Calls of a map at a time, in a private thread pool of that size; 0 is one after the
    other, -1 (`AUTOTUNE`) leaves the number and the threads to tf.data."""
    prefetch: int
    """Chunks or files that are ready ahead; -1 (`AUTOTUNE`) leaves it to tf.data.

    Not batches: handing small batches from thread to thread halved their rate."""
    deterministic: bool = True

    def map(self, dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
        """Map in parallel, and prefetch."""
        mapped = dataset.map(
            plain(function),
            **(
                {"num_parallel_calls": self.num_workers, "deterministic": self.deterministic}
                if self.num_workers
                else {}
            ),
        )
        return mapped.prefetch(self.prefetch) if self.prefetch else mapped

    def finish(self, dataset: tf.data.Dataset, elements: int) -> tf.data.Dataset:
        """Tell the number of elements, and set the options.

        Without a policy, a distribution strategy would shard by file, and there are none: each
        worker would get all rows. Sharding by data gives each its part.
        """
        import tensorflow as tf

        options = tf.data.Options()
        options.deterministic = self.deterministic
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        if self.num_workers != AUTOTUNE:
            options.threading.private_threadpool_size = max(1, self.num_workers)
        kept = dataset if elements else dataset.take(0)
        counted = kept.apply(tf.data.experimental.assert_cardinality(elements))
        return counted.with_options(options)


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep AutoGraph from translating a function that has nothing to translate."""
    import tensorflow as tf

    kept: Callable[..., Any] = tf.autograph.experimental.do_not_convert(function)
    return kept
