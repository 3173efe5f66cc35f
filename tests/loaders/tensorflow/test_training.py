"""tf.data datasets: every row once in an epoch, shuffled anew, in full batches, for model.fit."""

import datetime as dt
import decimal
import pickle
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.base.errors import (
    ColumnError,
    FeedrateWarning,
    InputError,
    MissingBackendError,
    ParquetFileError,
    SchemaError,
)
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.tensorflow.feed import _handed_over, _tensor
from feedrate.loaders.tensorflow_loader import AUTOTUNE, TensorFlowDataLoader

tf = pytest.importorskip("tensorflow")

ROWS = 1000
FEATURES = ["a", "b"]


@pytest.fixture
def frame():
    numbers = np.arange(ROWS)
    return pd.DataFrame({"a": numbers, "b": numbers * 2.0, "y": numbers * 3, "text": "t"})


@pytest.fixture
def files(tmp_path, frame):
    """Files of 0 to 300 rows, one of them in several row groups."""
    paths = []
    for number, (low, high) in enumerate(
        [(0, 100), (100, 107), (107, 107), (107, 400), (400, 700), (700, 999), (999, 1000)]
    ):
        path = tmp_path / f"{number}.parquet"
        frame[low:high].to_parquet(path, row_group_size=64)
        paths.append(path)
    return paths


@pytest.fixture
def small_spans(monkeypatch):
    """Files are read in parts of at most 50 rows, so that row groups are cut too."""
    monkeypatch.setattr("feedrate.loaders.tensorflow.builders.CHUNK_ROWS", 50)


def rows_of(dataset):
    """An epoch as arrays of X and y, once each row has been checked to be whole."""
    batches = [(x.numpy(), y.numpy()) for x, y in dataset]
    x = np.concatenate([x for x, _ in batches])
    y = np.concatenate([y for _, y in batches])
    assert x.dtype == y.dtype == np.float32
    np.testing.assert_array_equal(x, np.stack([y / 3, y / 3 * 2], axis=1))
    return y / 3


def sizes(dataset):
    return [len(x) for x, _ in dataset]


def cached(frame, loader=None, **arguments):
    return (loader or TensorFlowDataLoader()).create_cached_dataset(
        frame, FEATURES, "y", **arguments
    )


def streamed(files, loader=None, **arguments):
    return (loader or TensorFlowDataLoader()).create_streaming_dataset(
        files, FEATURES, "y", **arguments
    )


@pytest.fixture(params=["cached", "streamed"])
def make(request, frame, files):
    """Makes a dataset of the same rows, from memory and from files."""
    if request.param == "cached":
        return lambda *args, **kwargs: cached(frame, *args, **kwargs)
    return lambda *args, **kwargs: streamed(files, *args, **kwargs)


# What both kinds of dataset promise


@pytest.mark.parametrize("batch_size", [1, 32, 300, 1024])
def test_an_epoch_has_every_row_once(make, batch_size):
    dataset = make(batch_size=batch_size)
    for _ in range(2):
        assert sorted(rows_of(dataset)) == list(range(ROWS))


def test_epochs_differ_and_are_not_in_order(make):
    dataset = make()
    first, second = rows_of(dataset), rows_of(dataset)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(ROWS))


def test_repeated_epochs_differ_too(make):
    both = rows_of(make().repeat(2))
    assert sorted(both[:ROWS]) == sorted(both[ROWS:]) == list(range(ROWS))
    assert not np.array_equal(both[:ROWS], both[ROWS:])


def test_unshuffled_rows_keep_their_order(make):
    dataset = make(shuffle=False)
    for _ in range(2):
        assert np.array_equal(rows_of(dataset), np.arange(ROWS))


@pytest.mark.parametrize("arguments", [{}, {"shuffle": True}])
def test_the_same_seed_gives_the_same_epochs_for_any_number_of_workers(make, arguments):
    def epochs(loader):
        dataset = make(loader, seed=7, **arguments)
        return [rows_of(dataset).tolist() for _ in range(2)]

    loaders = [TensorFlowDataLoader(AUTOTUNE, workers) for workers in (0, 1, 4, AUTOTUNE)]
    first, *others = [epochs(loader) for loader in loaders]
    assert all(other == first for other in others)
    assert first[0] != first[1]


def test_another_seed_gives_another_order(make):
    assert not np.array_equal(rows_of(make(seed=1)), rows_of(make(seed=2)))


def test_without_a_seed_the_global_seed_of_tensorflow_counts(make):
    orders = []
    for _ in range(2):
        tf.random.set_seed(3)
        orders.append(rows_of(make()).tolist())
    tf.random.set_seed(None)
    assert orders[0] == orders[1]


def test_all_batches_but_the_last_are_full(make):
    dataset = make(batch_size=64)
    assert sizes(dataset) == [64] * 15 + [40]
    assert dataset.cardinality() == 16


def test_drop_last_leaves_out_the_partial_batch(make):
    dataset = make(batch_size=64, drop_last=True)
    assert sizes(dataset) == [64] * 15
    assert dataset.cardinality() == 15
    assert dataset.element_spec[0].shape == (64, 2)


def test_a_batch_larger_than_the_data_is_partial_and_dropping_it_an_error(make):
    assert sizes(make(batch_size=5000)) == [ROWS]
    with pytest.raises(InputError, match=r"batch_size is 5000 and there are 1000 rows.*drop_last"):
        make(batch_size=5000, drop_last=True)


def test_the_number_of_features_is_known_in_advance(make):
    x, y = make().element_spec
    assert (x.shape.as_list(), x.dtype) == ([None, 2], tf.float32)
    assert (y.shape.as_list(), y.dtype) == ([None], tf.float32)


def test_a_strategy_may_not_shard_by_file(make):
    policy = make().options().experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.DATA


def test_a_strategy_gets_every_row(make):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    dataset = strategy.experimental_distribute_dataset(make(batch_size=64))
    assert sorted(rows_of(dataset)) == list(range(ROWS))


def test_workers_are_a_private_pool_of_that_size(make):
    assert make(TensorFlowDataLoader(2, 3)).options().threading.private_threadpool_size == 3
    assert make(TensorFlowDataLoader(0, 0)).options().threading.private_threadpool_size == 1


def test_an_iterator_that_is_left_early_disturbs_no_other(make):
    dataset = make(batch_size=10)
    for _ in range(12):
        next(iter(dataset))
    iterators = [iter(dataset) for _ in range(12)]
    for iterator in iterators:
        next(iterator)
    for iterator in iterators:
        assert sum(len(y) for _, y in iterator) == ROWS - 10


def test_a_model_fits_for_several_epochs(make):
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mae")
    history = model.fit(make(batch_size=100), epochs=2, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 2


def test_without_a_target_batches_are_features_alone(frame, files):
    loader = TensorFlowDataLoader()
    for dataset in (
        loader.create_cached_dataset(frame, FEATURES, shuffle=False),
        loader.create_streaming_dataset(files, FEATURES, shuffle=False),
    ):
        x = np.concatenate([batch.numpy() for batch in dataset])
        np.testing.assert_array_equal(x, frame[FEATURES].to_numpy(np.float32))
        assert dataset.element_spec.shape.as_list() == [None, 2]


def test_nulls_become_the_null_value_and_infinities_pass(tmp_path):
    frame = pd.DataFrame({"a": [1.0, np.nan, np.inf], "b": pd.array([1, None, 3], "Int64")})
    path = tmp_path / "a.parquet"
    frame.to_parquet(path)
    loader = TensorFlowDataLoader()
    for make_one, data in (
        (loader.create_cached_dataset, frame),
        (loader.create_streaming_dataset, [path]),
    ):
        (batch,) = make_one(data, FEATURES, shuffle=False, null_value=-1)
        np.testing.assert_array_equal(batch, [[1, 1], [-1, -1], [np.inf, 3]])


def test_nulls_in_the_target_are_warned_about_once(tmp_path):
    frame = pd.DataFrame({"a": [1.0, 2.0], "y": [1.0, None]})
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in paths:
        frame.to_parquet(path)
    loader = TensorFlowDataLoader(num_parallel_reads=1)
    dataset = loader.create_streaming_dataset(paths, ["a"], "y", shuffle=False)
    with pytest.warns(FeedrateWarning, match=r"target 'y' has \d nulls") as told:
        batches = [y.numpy().tolist() for _, y in dataset.repeat(2)]
    assert batches == [[1, 0, 1, 0]] * 2
    assert len(told) == 1
    with pytest.warns(FeedrateWarning, match="target 'y' has 1 nulls"):
        loader.create_cached_dataset(frame, ["a"], "y")


def test_a_text_column_is_an_error_that_names_it(frame, files):
    loader = TensorFlowDataLoader()
    with pytest.raises(ColumnError, match=r"'text'.*not numeric"):
        loader.create_cached_dataset(frame, ["a", "text"])
    with pytest.raises(ColumnError, match=r"0\.parquet.*'text'.*not numeric"):
        loader.create_streaming_dataset(files, ["a", "text"])


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"batch_size": 1.5}, {"seed": -1}, {"batch_size": True}],
)
def test_a_value_that_makes_no_sense_is_an_input_error(make, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        make(**wrong)


# Rows in memory


def test_a_shuffle_buffer_limits_how_far_rows_move(frame):
    order = rows_of(cached(frame, shuffle_buffer_size=20))
    moved = np.abs(order - np.arange(ROWS))
    assert sorted(order) == list(range(ROWS))
    assert 0 < moved.max() < 20
    with pytest.raises(InputError, match="shuffle_buffer_size"):
        cached(frame, shuffle_buffer_size=0)


def test_rows_are_shuffled_over_their_whole_length(frame):
    order = rows_of(cached(frame, seed=0))
    assert abs(np.corrcoef(order, np.arange(ROWS))[0, 1]) < 0.2


@pytest.mark.parametrize("batch_size", [7, 64, 100])
def test_batches_cross_the_chunks_that_are_gathered(frame, monkeypatch, batch_size):
    monkeypatch.setattr("feedrate.loaders.tensorflow.feed.CHUNK_BYTES", 64 * 12)
    dataset = cached(frame, batch_size=batch_size)
    assert set(sizes(dataset)[:-1]) == {batch_size}
    assert sorted(rows_of(dataset)) == list(range(ROWS))


def test_an_empty_frame_makes_an_empty_dataset(frame):
    for shuffle in (True, False):
        dataset = cached(frame[:0], shuffle=shuffle)
        assert list(dataset) == []
        assert dataset.cardinality() == 0


def test_later_changes_of_the_frame_do_not_reach_the_dataset(frame):
    dataset = cached(frame, shuffle=False)
    frame.loc[:, "a"] = -1
    assert np.array_equal(rows_of(dataset), np.arange(ROWS))


# Rows of files


@pytest.mark.usefixtures("small_spans")
@pytest.mark.parametrize("window", [1, 3, 100])
@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_stream_of_parts_of_files_has_every_row_once(files, window, num_workers):
    dataset = streamed(files, TensorFlowDataLoader(2, num_workers), window=window, batch_size=30)
    for _ in range(2):
        assert sorted(rows_of(dataset)) == list(range(ROWS))


@pytest.mark.usefixtures("small_spans")
def test_more_epochs_under_way_than_are_kept_have_every_row_too(files, monkeypatch):
    monkeypatch.setattr("feedrate.loaders.tensorflow.epochs.EPOCHS_KEPT", 1)
    dataset = streamed(files, TensorFlowDataLoader(0, 2), batch_size=30, seed=1)
    iterators = [iter(dataset) for _ in range(3)]
    epochs = [[], [], []]
    for _ in range(-(-ROWS // 30)):
        for epoch, iterator in zip(epochs, iterators, strict=True):
            epoch.extend(next(iterator)[1].numpy() / 3)
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)


def test_a_window_mixes_rows_of_several_files(files):
    def changes(window):
        """How often the next row is of another file."""
        order = rows_of(streamed(files, window=window, seed=4))
        return np.count_nonzero(np.diff(np.digitize(order, [100, 107, 400, 700, 999])))

    assert changes(1) == 5
    assert changes(2) > 50
    assert changes(7) > 500


def test_a_nondeterministic_stream_has_every_row_once(files):
    loader = TensorFlowDataLoader(num_parallel_reads=4, deterministic=False)
    assert sorted(rows_of(streamed(files, loader))) == list(range(ROWS))


def test_a_stream_s_file_that_is_missing_or_no_parquet_is_named_at_once(files, tmp_path):
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(b"PAR1 and then nothing more")
    loader = TensorFlowDataLoader()
    for path in (torn, tmp_path / "absent.parquet"):
        with pytest.raises(ParquetFileError, match=path.name):
            streamed([*files, path])
        with pytest.raises(ParquetFileError, match=path.name):
            loader.load_parquet_files_parallel([*files, path])
        with pytest.raises(ParquetFileError, match=path.name):
            loader.load_parquet_to_dataframe_parallel([*files, path])


def test_a_file_that_breaks_later_is_named(files, frame):
    dataset = streamed(files)
    columns = TensorFlowDataLoader().load_parquet_files_parallel(files)
    frame[:5].to_parquet(files[4])
    with pytest.raises(ParquetFileError, match=r"cannot read .*4\.parquet"):
        list(dataset)
    with pytest.raises(ParquetFileError, match=r"4\.parquet.*changed"):
        list(columns)


def test_no_files_are_an_input_error():
    loader = TensorFlowDataLoader()
    with pytest.raises(InputError, match="file_paths is empty"):
        loader.create_streaming_dataset([], ["a"])
    with pytest.raises(InputError, match="file_paths is empty"):
        loader.load_parquet_files_parallel([])


# Columns of files


def test_without_a_batch_size_an_element_is_a_file(files, frame):
    dataset = TensorFlowDataLoader().load_parquet_files_parallel(files)
    elements = list(dataset)
    assert [len(element["a"]) for element in elements] == [100, 7, 0, 293, 300, 299, 1]
    assert dataset.cardinality() == len(files)
    assert {name: spec.dtype for name, spec in dataset.element_spec.items()} == {
        "a": tf.int64, "b": tf.float64, "y": tf.int64, "text": tf.string,
    }  # fmt: skip
    for name in frame:
        values = np.concatenate([element[name].numpy() for element in elements])
        expected = [b"t"] * ROWS if name == "text" else frame[name]
        np.testing.assert_array_equal(values, expected)


def test_a_batch_size_cuts_elements_across_files(files, frame):
    dataset = TensorFlowDataLoader().load_parquet_files_parallel(files, 64)
    for _ in range(2):  # the second time from the cache
        elements = list(dataset)
        assert [len(element["text"]) for element in elements] == [64] * 15 + [40]
        values = np.concatenate([element["a"].numpy() for element in elements])
        np.testing.assert_array_equal(values, frame["a"])
    assert dataset.cardinality() == 16


def test_a_transform_maps_each_dict(files):
    loader = TensorFlowDataLoader(cache=False)
    dataset = loader.load_parquet_files_parallel(
        files, 500, lambda columns: {"sum": columns["a"] + columns["y"]}, columns=["y", "a"]
    )
    values = np.concatenate([element["sum"].numpy() for element in dataset])
    np.testing.assert_array_equal(values, np.arange(ROWS) * 4)


@pytest.mark.parametrize(("cache", "reads_again"), [(True, False), (False, True)])
def test_the_cache_spares_reading_from_the_second_epoch_on(files, cache, reads_again):
    dataset = TensorFlowDataLoader(cache=cache).load_parquet_files_parallel(files)
    list(dataset)
    files[0].unlink()
    if reads_again:
        with pytest.raises(ParquetFileError, match="does not exist"):
            list(dataset)
    else:
        assert len(list(dataset)) == len(files)


def test_an_array_that_tensorflow_does_not_take_is_let_go():
    dates = np.zeros(3, "datetime64[s]")
    with pytest.raises(TypeError):
        _tensor(dates)
    assert not any(held is dates for held in _handed_over.values())


def test_every_type_has_its_tensor(tmp_path):
    day = dt.date(1970, 1, 3)
    moment = dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)
    none = np.iinfo(np.int64).min
    cases = {
        "int8": (pa.array([1, 2], pa.int8()), tf.int8, [1, 2]),
        "int_null": (pa.array([1, None], pa.int32()), tf.float64, [1, np.nan]),
        "uint": (pa.array([1, 2**64 - 1], pa.uint64()), tf.uint64, [1, 2**64 - 1]),
        "half": (pa.array([1.5, None], pa.float16()), tf.float16, [1.5, np.nan]),
        "float": (pa.array([1.5, None], pa.float32()), tf.float32, [1.5, np.nan]),
        "bool": (pa.array([True, False]), tf.bool, [True, False]),
        "bool_null": (pa.array([True, None]), tf.float64, [1, np.nan]),
        "null": (pa.nulls(2), tf.float64, [np.nan, np.nan]),
        "decimal": (pa.array([decimal.Decimal("1.25"), None]), tf.float64, [1.25, np.nan]),
        "text": (pa.array(["é", None]), tf.string, ["é".encode(), b""]),
        "binary": (pa.array([b"\x00", b""]), tf.string, [b"\x00", b""]),
        "category": (pa.array(["x", None]).dictionary_encode(), tf.string, [b"x", b""]),
        "codes": (pa.array([5, None]).dictionary_encode(), tf.float64, [5, np.nan]),
        "date": (pa.array([day, None]), tf.int64, [2, none]),
        "ms": (pa.array([moment, None], pa.timestamp("ms", "UTC")), tf.int64, [1000, none]),
        "us": (pa.array([moment, None], pa.timestamp("us")), tf.int64, [1_000_000, none]),
        "time": (pa.array([1, None], pa.time32("ms")), tf.int64, [1, none]),
        "wait": (pa.array([7, None], pa.duration("ns")), tf.int64, [7, none]),
    }
    table = pa.table({name: values for name, (values, _, _) in cases.items()})
    pq.write_table(table, tmp_path / "a.parquet")
    (element,) = TensorFlowDataLoader().load_parquet_files_parallel(tmp_path / "a.parquet")
    for name, (_, dtype, expected) in cases.items():
        assert element[name].dtype == dtype, name
        if dtype == tf.string:  # numpy would drop trailing zero bytes
            assert element[name].numpy().tolist() == expected
        else:
            np.testing.assert_array_equal(element[name], expected, err_msg=name)


def write_two(folder, first, second):
    for name, columns in (("one", first), ("two", second)):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return [folder / "one.parquet", folder / "two.parquet"]


def test_nulls_and_types_of_any_file_decide_for_all(tmp_path):
    first = {"nulls": [1], "mixed": [1], "none": ["x"]}
    second = {"nulls": pa.array([None], pa.int64()), "mixed": [0.5], "none": pa.nulls(1)}
    paths = write_two(tmp_path, first, second)
    (element,) = TensorFlowDataLoader().load_parquet_files_parallel(paths, 2)
    np.testing.assert_array_equal(element["nulls"], [1, np.nan])
    np.testing.assert_array_equal(element["mixed"], [1, 0.5])
    assert element["none"].numpy().tolist() == [b"x", b""]


@pytest.mark.parametrize(
    ("first", "second", "error", "message"),
    [
        ({"a": [1], "b": [1]}, {"a": [1]}, ColumnError, r"two\.parquet has no column 'b'"),
        ({"a": [1]}, {"a": [1], "b": [1]}, SchemaError, r"two\.parquet has a column 'b'"),
        ({"a": [1]}, {"a": ["x"]}, SchemaError, r"'a' is int64 in .*one.* string in .*two"),
        ({"a": [[1]]}, {"a": [[1]]}, ColumnError, "'a' is list"),
    ],
)
def test_files_that_do_not_agree_are_refused_by_name(tmp_path, first, second, error, message):
    paths = write_two(tmp_path, first, second)
    with pytest.raises(error, match=message):
        TensorFlowDataLoader().load_parquet_files_parallel(paths)


def test_named_columns_leave_the_others_alone(tmp_path):
    paths = write_two(tmp_path, {"a": [1], "b": [[1]]}, {"a": [2], "c": ["x"]})
    loader = TensorFlowDataLoader()
    (element,) = loader.load_parquet_files_parallel(paths, 2, columns=["a"])
    assert element["a"].numpy().tolist() == [1, 2]
    with pytest.raises(ColumnError, match="no file has a column 'z'"):
        loader.load_parquet_files_parallel(paths, columns=["z"])


# The loader


def test_a_frame_equals_the_original_s(files):
    expected = pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)
    for loader in (TensorFlowDataLoader(), TensorFlowDataLoader(0, 0, cache=False)):
        for _ in range(2):  # the second time from the cache
            loaded = loader.load_parquet_to_dataframe_parallel(files)
            pd.testing.assert_frame_equal(loaded, expected)
        some = loader.load_parquet_to_dataframe_parallel(files, columns=["y", "a"])
        pd.testing.assert_frame_equal(some, expected[["y", "a"]])


def test_settings_are_the_defaults_of_the_methods(frame, files):
    settings = LoaderSettings(
        num_workers=3, prefetch=1, cache="none", batch_size=100, shuffle=False, drop_last=True,
        seed=1, shuffle_window=2,
    )  # fmt: skip
    loader = TensorFlowDataLoader.from_settings(settings)
    assert loader.settings == LoaderSettings(
        backend="tensorflow", num_workers=3, prefetch=1, cache="none", batch_size=100,
        shuffle=False, drop_last=True, seed=1, shuffle_window=2,
    )  # fmt: skip
    for dataset in (cached(frame[:250], loader), streamed(files[:4], loader)):
        assert set(sizes(dataset)) == {100}
        order = rows_of(dataset)
        assert np.array_equal(order, np.arange(len(order)))
    assert sizes(streamed(files, loader, batch_size=300, drop_last=False))[-1] == 100


def test_the_constructor_s_numbers_are_in_the_settings():
    settings = TensorFlowDataLoader(0, 2, cache=False).settings
    assert (settings.backend, settings.prefetch, settings.num_workers, settings.cache) == (
        "tensorflow", 0, 2, "none",
    )  # fmt: skip
    assert TensorFlowDataLoader().settings == LoaderSettings(backend="tensorflow")


def test_streams_have_larger_batches_by_default(frame, files):
    assert sizes(cached(frame))[0] == 32
    assert sizes(streamed([*files, *files]))[0] == 1024


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_parallel_reads": -2},
        {"prefetch_buffer_size": -5},
        {"cache": "ram"},
        {"schema": "stric"},
        {"on_error": "ignore"},
    ],
)
def test_a_constructor_s_value_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError):
        TensorFlowDataLoader(**wrong)


def test_a_loader_pickles(frame, files):
    loader = TensorFlowDataLoader(1, 2, deterministic=False)
    before = loader.load_parquet_to_dataframe_parallel(files)
    again = pickle.loads(pickle.dumps(loader))  # noqa: S301 - what the test itself pickled
    assert again.settings == loader.settings
    assert again.deterministic is False
    pd.testing.assert_frame_equal(again.load_parquet_to_dataframe_parallel(files), before)
    assert sorted(rows_of(cached(frame, again))) == list(range(ROWS))


def test_without_tensorflow_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingBackendError, match=r'pip install "feedrate\[tensorflow\]"'):
        TensorFlowDataLoader()
