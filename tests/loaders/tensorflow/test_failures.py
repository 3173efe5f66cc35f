"""A file that breaks while TensorFlow reads it is the same error as with PyTorch."""

import gc
import os
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders import PyTorchDataLoader, StreamingParquetDataset, TensorFlowDataLoader
from feedrate.loaders.base.errors import ParquetFileError
from feedrate.loaders.tensorflow.failures import Failures, naming

tf = pytest.importorskip("tensorflow")
pytest.importorskip("torch")

PATIENCE_S = 30  # this only ends a failing test
ROWS, GROUP = 100, 40
FEATURES = ["a", "b"]
CHANGED = "3.parquet: it has changed since it was first opened; repair or remove the file"


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.parquet" for number in range(6)]
    for path in paths:
        write(path)
    return paths


def write(path, rows=ROWS, **changes):
    numbers = np.arange(rows)
    columns = {"a": numbers, "b": numbers * 1.0, "y": numbers, **changes}
    frame = pd.DataFrame({name: one for name, one in columns.items() if one is not None})
    frame.to_parquet(path, row_group_size=GROUP)


def overwrite(path):
    data = bytearray(path.read_bytes())
    data[30:400] = b"\xff" * 370
    path.write_bytes(data)


def twice(path):
    numbers = list(range(ROWS))
    table = pa.table([numbers, numbers, [1.0] * ROWS, numbers], names=["a", "a", "b", "y"])
    pq.write_table(table, path, row_group_size=GROUP)


DAMAGE = {
    "vanished": lambda path: path.unlink(),
    "truncated": lambda path: os.truncate(path, 100),
    "emptied": lambda path: path.write_bytes(b""),
    "overwritten": overwrite,
    "fewer rows": lambda path: write(path, rows=5),
    "another type": lambda path: write(path, a=["text"] * ROWS),
    "a lost column": lambda path: write(path, a=None),
    "a column twice": twice,
}


@pytest.fixture(params=DAMAGE)
def damage(request):
    return DAMAGE[request.param]


def streamed(files):
    loader = TensorFlowDataLoader(num_parallel_reads=2)
    return loader.create_streaming_dataset(files, FEATURES, "y", batch_size=50, shuffle=False)


def raised_by(iterable):
    with pytest.raises(ParquetFileError) as caught:
        for _ in iterable:
            pass
    return caught.value


def test_a_stream_raises_what_pytorch_s_raises(files, damage):
    torch = PyTorchDataLoader(num_workers=2, pin_memory=False).create_dataloader(
        StreamingParquetDataset(files, FEATURES, "y"), batch_size=50, shuffle=False
    )
    dataset = streamed(files)
    damage(files[3])
    expected, found = raised_by(torch), raised_by(dataset)
    assert type(found) is type(expected)
    assert str(found) == str(expected)
    assert found.path == expected.path == str(files[3])
    if expected.__cause__ is None:
        assert isinstance(found.__cause__, tf.errors.OpError)
    else:
        assert type(found.__cause__) is type(expected.__cause__)


def test_columns_of_files_raise_it_too(files, damage):
    dataset = TensorFlowDataLoader(num_parallel_reads=2).load_parquet_files_parallel(files)
    damage(files[3])
    assert "3.parquet" in str(raised_by(dataset))


@pytest.mark.parametrize("changes", [{"rows": 5}, {"a": ["text"] * ROWS}, {"a": None}])
def test_columns_of_a_file_that_changed_say_so(files, changes):
    dataset = TensorFlowDataLoader().load_parquet_files_parallel(files, columns=["b", "a"])
    write(files[3], **changes)
    assert str(raised_by(dataset)).endswith(CHANGED)


@pytest.mark.parametrize(
    "further",
    [
        lambda dataset: dataset.map(lambda x, y: (x, y)).prefetch(2).take(100),
        lambda dataset: dataset.repeat(2).unbatch().batch(7).enumerate(),
        lambda dataset: dataset.apply(lambda found: found.cache()),
        lambda dataset: dataset.as_numpy_iterator(),
    ],
)
def test_datasets_that_are_made_of_it_raise_it_too(files, further):
    dataset = further(streamed(files))
    files[3].unlink()
    assert "the file does not exist" in str(raised_by(dataset))


def test_get_next_and_reduce_raise_it_too(files):
    dataset = streamed(files)
    files[0].unlink()
    with pytest.raises(ParquetFileError, match=r"0\.parquet"):
        iter(dataset).get_next()
    with pytest.raises(ParquetFileError, match=r"0\.parquet"):
        dataset.reduce(0, lambda count, _: count + 1)


def test_the_error_comes_again_in_the_next_epoch(files):
    dataset = streamed(files)
    files[3].unlink()
    for _ in range(3):
        assert "3.parquet" in str(raised_by(dataset))
    write(files[3])
    assert sum(len(x) for x, _ in dataset) == 6 * ROWS


def test_two_broken_files_are_named_in_their_order(files):
    dataset = streamed(files)
    files[2].unlink()
    files[3].unlink()
    assert "2.parquet" in str(raised_by(dataset))


def test_model_fit_and_functions_of_tensorflow_say_the_sentence(files):
    model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    dataset = streamed(files)
    model.fit(dataset, verbose=0)

    @tf.function
    def step(iterator):
        return next(iterator)

    files[0].unlink()
    said = r"cannot read .*0\.parquet: the file does not exist .*; repair or remove the file"
    with pytest.raises(tf.errors.OpError, match=said):
        model.fit(dataset, verbose=0)
    with pytest.raises(tf.errors.OpError, match=said):
        step(iter(dataset))


def test_a_function_of_tensorflow_takes_its_iterator(files):
    @tf.function
    def rows(iterator):
        count = 0
        for x, _ in iterator:
            count += tf.shape(x)[0]
        return count

    assert rows(iter(streamed(files))) == 6 * ROWS


def test_an_error_of_the_user_s_own_stays_tensorflow_s(files):
    def fail(_):
        raise ZeroDivisionError("mine")

    dataset = streamed(files).map(lambda x, _: tf.numpy_function(fail, [x], tf.float32))
    with pytest.raises(tf.errors.OpError, match="ZeroDivisionError: mine"):
        list(dataset)


def test_what_a_function_raises_keeps_its_type_cause_and_place():
    failures = Failures()

    def fail(_):
        raise OverflowError("too much") from KeyError("deep")

    source = tf.data.Dataset.range(3)
    dataset = naming(
        source.map(lambda x: tf.numpy_function(failures.noted(fail), [x], tf.int64)), failures
    )
    with pytest.raises(OverflowError, match="too much") as caught:
        list(dataset)
    assert isinstance(caught.value.__cause__, KeyError)
    assert isinstance(caught.value.__context__, tf.errors.OpError | KeyError)
    assert "fail" in {entry.name for entry in caught.traceback}


def test_the_dataset_s_options_element_spec_and_length_are_kept(files):
    dataset = streamed(files)
    assert dataset.options().autotune.enabled is False
    assert len(dataset) == 12
    x, y = dataset.element_spec
    assert (x.shape[1], y.shape.rank) == (2, 1)
    assert dataset.map(lambda x, _: x).take(3).cardinality() == 3


def test_garbage_can_be_collected_while_a_function_waits_for_the_collecting_thread():
    lock, begun, collected = threading.Lock(), threading.Event(), threading.Event()

    def wait(number):
        if number == 5:
            begun.set()
            with lock:
                pass
        return number

    numbers = tf.data.Dataset.range(8).map(lambda n: tf.numpy_function(wait, [n], tf.int64))

    def collect():
        iterator = iter(naming(numbers.prefetch(2), Failures()))
        cycle = [iterator]
        cycle.append(cycle)  # only a collection of garbage ends it
        with lock:
            for _ in range(4):
                next(iterator)
            assert begun.wait(PATIENCE_S)
            del iterator, cycle
            gc.collect()
        collected.set()

    threading.Thread(target=collect, daemon=True).start()
    assert collected.wait(PATIENCE_S)
