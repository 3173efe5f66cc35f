"""The batches job in TensorFlow: in-graph, in a Python loop, and inside `model.fit`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import requirements as names
from .data import (
    FEATURES,
    MATRIX_ROWS,
    TARGET,
    Setup,
    expect_rows,
    matrix_arrays,
    matrix_frame,
)
from .interleave import Comparison, Prepared, Side

SHUFFLE_BUFFER = 10_000  # the usual size in the plain idiom
CONSTANT = "constant batches"
FEW_ROWS = 1 << 17  # 1M rows in batches of 32 would take 24 s a side: model.fit takes 0.7 ms a step


def plain_dataset(size: int, rows: int) -> Any:
    """The plain idiom; the first full epoch fills its cache."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(matrix_arrays(rows)).cache()
    return dataset.shuffle(SHUFFLE_BUFFER).batch(size).prefetch(tf.data.AUTOTUNE)


def our_dataset(size: int, rows: int) -> Any:
    """Ours, with the defaults of its constructor and methods."""
    from feedrate.loaders import TensorFlowDataLoader

    return TensorFlowDataLoader().create_cached_dataset(
        matrix_frame(rows), list(FEATURES), TARGET, batch_size=size, shuffle=True
    )


def constant_dataset(size: int, rows: int) -> Any:
    """One batch, repeated as often as an epoch has batches: the cost of iterating alone."""
    import tensorflow as tf

    x, y = (tf.constant(array[:size]) for array in matrix_arrays(rows))
    return tf.data.Dataset.from_tensors((x, y)).repeat(-(-rows // size))


def reducing() -> Callable[[Any], Any]:
    """Iterate over an epoch inside the graph, and count the rows."""
    import tensorflow as tf

    def count(rows: Any, batch: Any) -> Any:
        return rows + tf.shape(batch[1], out_type=tf.int64)[0]

    def reduce(dataset: Any) -> Any:
        dataset.reduce(tf.constant(0, tf.int64), count).numpy()
        return dataset

    return reduce


def looping() -> Callable[[Any], Any]:
    """Iterate over an epoch in a Python loop."""

    def loop(dataset: Any) -> Any:
        for _x, _y in dataset:
            pass
        return dataset

    return loop


def fitting() -> Callable[[Any], Any]:
    """Run one epoch of `model.fit` on a linear model, so that the cost of its input shows."""
    import keras

    model = keras.Sequential([keras.Input((len(FEATURES),)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")

    def fit(dataset: Any) -> Any:
        model.fit(dataset, epochs=1, verbose=0)
        return dataset

    return fit


def _prepare(way: Callable[[], Callable[[Any], Any]], size: int, rows: int, _: Setup) -> Prepared:
    go_through = way()
    check = expect_rows([matrix_arrays(rows)], rows)
    plain, ours = plain_dataset(size, rows), our_dataset(size, rows)
    sides = {
        names.TF_PLAIN: Side(lambda: go_through(plain), check),
        names.TENSORFLOW: Side(lambda: go_through(ours), check),
    }
    if way is not fitting:  # training on a repeated batch would be another computation
        constant = constant_dataset(size, rows)
        sides[CONSTANT] = Side(lambda: go_through(constant))
    return Prepared(sides)


def _comparison(
    name: str, title: str, way: Callable[[], Any], size: int, rows: int, rounds: int
) -> Comparison:
    sides = (names.TF_PLAIN, names.TENSORFLOW)
    return Comparison(
        f"tf-{name}-{size}",
        f"batches of {size}, shuffled, TensorFlow, {title}",
        sides if way is fitting else (*sides, CONSTANT),
        rounds,
        functools.partial(_prepare, way, size, rows),
    )


COMPARISONS = (
    # tf.data switches between a slow and a fast state: more rounds include both.
    _comparison("reduce", "in-graph", reducing, 32, MATRIX_ROWS, 9),
    _comparison("loop", "Python loop", looping, 32, MATRIX_ROWS, 5),
    _comparison("loop", "Python loop", looping, 1024, MATRIX_ROWS, 7),
    _comparison("fit", "model.fit", fitting, 32, FEW_ROWS, 5),
    _comparison("fit", "model.fit", fitting, 1024, MATRIX_ROWS, 7),
)
