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

SHUFFLE_BUFFER = 10_000  # as the plain idiom is usually written
CONSTANT = "constant batches"
FEW_ROWS = 1 << 17  # a step of model.fit takes 0.7 ms, so that 1M rows in 32s take 24 s a side


def plain_dataset(size: int, rows: int) -> Any:
    """The plain idiom; a full epoch fills its cache."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(matrix_arrays(rows)).cache()
    return dataset.shuffle(SHUFFLE_BUFFER).batch(size).prefetch(tf.data.AUTOTUNE)


def our_dataset(size: int, rows: int) -> Any:
    """Ours, as its constructor's and methods' defaults make it."""
    from feedrate.loaders import TensorFlowDataLoader

    return TensorFlowDataLoader().create_cached_dataset(
        matrix_frame(rows), list(FEATURES), TARGET, batch_size=size, shuffle=True
    )


def constant_dataset(size: int, rows: int) -> Any:
    """One and the same batch as often as an epoch has batches: what iterating alone costs."""
    import tensorflow as tf

    x, y = (tf.constant(array[:size]) for array in matrix_arrays(rows))
    return tf.data.Dataset.from_tensors((x, y)).repeat(-(-rows // size))


def reducing() -> Callable[[Any], Any]:
    """A way through an epoch inside the graph, which counts the rows."""
    import tensorflow as tf

    def count(rows: Any, batch: Any) -> Any:
        return rows + tf.shape(batch[1], out_type=tf.int64)[0]

    def reduce(dataset: Any) -> Any:
        dataset.reduce(tf.constant(0, tf.int64), count).numpy()
        return dataset

    return reduce


def looping() -> Callable[[Any], Any]:
    """A Python loop over an epoch."""

    def loop(dataset: Any) -> Any:
        for _x, _y in dataset:
            pass
        return dataset

    return loop


def fitting() -> Callable[[Any], Any]:
    """One epoch of `model.fit`, of a linear model, so that feeding it shows."""
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
    if way is not fitting:  # training on one batch alone would be another computation
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
    # tf.data switches between a slow and a fast state from run to run: more rounds see both.
    _comparison("reduce", "in-graph", reducing, 32, MATRIX_ROWS, 9),
    _comparison("loop", "Python loop", looping, 32, MATRIX_ROWS, 5),
    _comparison("loop", "Python loop", looping, 1024, MATRIX_ROWS, 7),
    _comparison("fit", "model.fit", fitting, 32, FEW_ROWS, 5),
    _comparison("fit", "model.fit", fitting, 1024, MATRIX_ROWS, 7),
)
