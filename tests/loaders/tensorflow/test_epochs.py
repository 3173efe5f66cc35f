"""tf.data epochs that can be resumed and shared by ranks, and the threads that make them."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
from feedrate.loaders.base.errors import ColumnError, InputError, ParquetFileError
from feedrate.loaders.tensorflow_loader import TensorFlowDataLoader
from feedrate.loaders.training.epochs import Order

tf = pytest.importorskip("tensorflow")

ROWS = 1000
FEATURES = ["a", "b"]
LOADER = TensorFlowDataLoader(2, 2)


@pytest.fixture
def frame():
    numbers = np.arange(ROWS)
    return pd.DataFrame({"a": numbers, "b": numbers * 2.0, "y": numbers * 3, "text": "t"})


@pytest.fixture
def files(tmp_path, frame, monkeypatch):
    """Ten files, read in parts of at most 50 rows."""
    monkeypatch.setattr("feedrate.loaders.tensorflow.builders.CHUNK_ROWS", 50)
    paths = [tmp_path / f"{number}.parquet" for number in range(10)]
    for number, path in enumerate(paths):
        frame[number * 100 : number * 100 + 100].to_parquet(path)
    return paths


@pytest.fixture(params=["cached", "streamed"])
def make(request, frame, files):
    """Makes a dataset of the same rows, from memory and from files."""

    def made(target="y", loader=LOADER, **arguments):
        if request.param == "cached":
            return loader.create_cached_dataset(frame, FEATURES, target, **arguments)
        return loader.create_streaming_dataset(files, FEATURES, target, **arguments)

    return made


def rows_of(dataset):
    """An epoch's row numbers."""
    return np.concatenate([y for _, y in dataset.as_numpy_iterator()]).astype(int) // 3


# Epochs


def test_a_later_first_epoch_goes_on_where_a_run_was_stopped(make):
    dataset = make(seed=7)
    epochs = [rows_of(dataset).tolist() for _ in range(4)]
    resumed = make(seed=7, first_epoch=2)
    assert [rows_of(resumed).tolist() for _ in range(2)] == epochs[2:]


def test_a_seed_alone_decides_whatever_tensorflow_s_own_is(make):
    orders = []
    for global_seed in (1, 2):
        tf.random.set_seed(global_seed)
        orders.append(rows_of(make(seed=7)).tolist())
    tf.random.set_seed(None)
    assert orders[0] == orders[1]


def test_rows_in_memory_come_in_the_order_that_the_other_backend_has(frame):
    dataset = LOADER.create_cached_dataset(frame, FEATURES, "y", seed=7, first_epoch=3)
    assert np.array_equal(rows_of(dataset), Order(True, 7, 3).permutation(ROWS))


def test_iterators_at_the_same_time_have_epochs_of_their_own(make):
    dataset = make(seed=7, batch_size=100)
    pairs = list(zip(dataset.as_numpy_iterator(), dataset.as_numpy_iterator(), strict=True))
    first, second = ([y for _, y in epoch] for epoch in zip(*pairs, strict=True))
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second))
    assert not np.array_equal(first, second)


def test_a_shuffle_buffer_is_repeatable_too(frame):
    def epochs(**arguments):
        dataset = LOADER.create_cached_dataset(
            frame, FEATURES, "y", shuffle_buffer_size=20, seed=7, **arguments
        )
        return [rows_of(dataset).tolist() for _ in range(2)]

    assert epochs()[1] == epochs(first_epoch=1)[0]
    assert epochs()[0] != epochs()[1]


@pytest.mark.parametrize("wrong", [-1, 1.5, "last"])
def test_a_first_epoch_that_makes_no_sense_is_an_input_error(make, wrong):
    with pytest.raises(InputError, match="first_epoch"):
        make(first_epoch=wrong)


# Targets and types


@pytest.mark.parametrize("dtype", ["float16", "float32", tf.float64])
def test_several_targets_make_a_matrix_of_the_chosen_type(make, frame, dtype):
    dataset = make(["b", "a"], dtype=dtype, shuffle=False, batch_size=64)
    x, y = dataset.element_spec
    assert (x.shape.as_list(), y.shape.as_list()) == ([None, 2], [None, 2])
    assert x.dtype == y.dtype == tf.as_dtype(dtype)
    values = np.concatenate([y for _, y in dataset.as_numpy_iterator()])
    np.testing.assert_array_equal(values, frame[["b", "a"]].to_numpy(values.dtype))


def test_one_target_in_a_list_keeps_its_second_dimension(make):
    assert make(["y"]).element_spec[1].shape.as_list() == [None, 1]


def test_a_type_that_is_no_float_is_an_input_error(make):
    with pytest.raises(InputError, match="dtype"):
        make(dtype="int32")


def test_a_text_target_is_an_error_that_names_it(make):
    with pytest.raises(ColumnError, match=r"'text'.*not numeric"):
        make(["y", "text"])


# Ranks


@pytest.mark.parametrize(
    ("world_size", "shuffle", "seed"), [(2, True, 7), (3, True, None), (7, True, 7), (3, False, 7)]
)
def test_ranks_share_the_rows_in_equally_many_batches(make, world_size, shuffle, seed):
    shared = {"world_size": world_size, "batch_size": 32, "shuffle": shuffle, "seed": seed}
    datasets = [make(rank=rank, **shared) for rank in range(world_size)]
    share = ROWS // world_size
    for _ in range(2):
        epochs = [rows_of(dataset) for dataset in datasets]
        assert [len(rows) for rows in epochs] == [share] * world_size
        assert len(np.unique(np.concatenate(epochs))) == share * world_size
    assert {int(dataset.cardinality()) for dataset in datasets} == {-(-share // 32)}


def test_another_part_of_the_rows_is_left_out_in_each_epoch(make):
    datasets = [make(rank=rank, world_size=7, seed=7) for rank in range(7)]
    left_out = []
    for _ in range(3):
        seen = np.concatenate([rows_of(dataset) for dataset in datasets])
        left_out.append(set(range(ROWS)) - set(seen.tolist()))
    assert all(len(rows) == ROWS % 7 for rows in left_out)
    assert len(set(map(frozenset, left_out))) > 1


def test_a_share_is_not_sharded_again_by_a_strategy(make):
    policy = tf.data.experimental.AutoShardPolicy
    for sharing, expected in (({}, policy.DATA), ({"rank": 0, "world_size": 2}, policy.OFF)):
        assert make(**sharing).options().experimental_distribute.auto_shard_policy == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "world_size is missing"),
        ({"rank": 2, "world_size": 2}, "rank is 2"),
        ({"rank": 0, "world_size": ROWS + 1}, "world_size is 1001 and there are 1000 rows"),
        ({"shard": "rank"}, "shard is 'rank'"),
        (
            {"rank": 0, "world_size": 3, "batch_size": 334, "drop_last": True},
            "batch_size is 334 and there are 333 rows",
        ),
        (
            {"shard": "auto", "rank": 0, "world_size": 2},
            "finds rank and world_size; leave them out",
        ),
    ],
)
def test_a_share_that_makes_no_sense_is_an_input_error(make, wrong, message):
    with pytest.raises(InputError, match=message):
        make(**wrong)


def test_as_many_ranks_as_rows_have_one_row_each(make):
    assert len(rows_of(make(rank=ROWS - 1, world_size=ROWS))) == 1


CLUSTER = {"chief": ["h0:1"], "worker": ["h1:1", "h2:1"]}


@pytest.mark.parametrize(
    ("cluster", "task", "rank", "world_size"),
    [
        (CLUSTER, ("chief", 0), 0, 3),
        (CLUSTER, ("worker", 1), 2, 3),
        ({"worker": ["h1:1", "h2:1"]}, ("worker", 1), 1, 2),
        ({**CLUSTER, "evaluator": ["h3:1"]}, ("evaluator", 0), 0, 1),
        (None, None, 0, 1),
    ],
)
def test_auto_takes_the_rank_from_the_cluster(make, monkeypatch, cluster, task, rank, world_size):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if cluster:
        place = {"type": task[0], "index": task[1]}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": place}))
    found = rows_of(make(shard="auto", seed=7))
    assert np.array_equal(found, rows_of(make(rank=rank, world_size=world_size, seed=7)))


def test_auto_refuses_parameter_servers_and_names_the_remedy(make, monkeypatch):
    config = {"cluster": {**CLUSTER, "ps": ["h4:1"]}, "task": {"type": "chief", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(InputError, match=r"rank=context\.input_pipeline_id"):
        make(shard="auto")


STRATEGY = """
import sys
import numpy as np, pandas as pd, tensorflow as tf
from feedrate.loaders.tensorflow_loader import TensorFlowDataLoader

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
frame = pd.DataFrame({"a": np.arange(1000)})
frame.to_parquet(sys.argv[1])
loader = TensorFlowDataLoader()

def made(**arguments):
    yield loader.create_cached_dataset(frame, ["a"], batch_size=100, **arguments)
    yield loader.create_streaming_dataset(sys.argv[1], ["a"], batch_size=100, **arguments)

def delivered(distributed):
    sizes, rows = [], []
    for values in distributed:
        parts = [part.numpy() for part in strategy.experimental_local_results(values)]
        sizes.append([len(part) for part in parts])
        rows.extend(np.concatenate(parts)[:, 0])
    assert len(set(map(tuple, sizes))) == 1, sizes
    assert sorted(rows) == list(range(1000))
    return sizes[0]

with strategy.scope():
    for arguments in ({}, {"shard": "auto"}):
        for dataset in made(**arguments):
            for _ in range(2):
                assert delivered(strategy.experimental_distribute_dataset(dataset)) == [50, 50]

def by_context(kind):
    def make(context):
        here = {"rank": context.input_pipeline_id, "world_size": context.num_input_pipelines}
        return list(made(**here))[kind]
    return make

for kind in (0, 1):
    function = strategy.distribute_datasets_from_function(by_context(kind))
    assert delivered(function) == [100, 100]
print("every row once")
"""


@pytest.mark.slow
def test_a_mirrored_strategy_gives_its_replicas_every_row_once(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", STRATEGY, str(tmp_path / "a.parquet")],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip
    assert found.stdout.strip() == "every row once", found.stderr[-2000:]


# Memory

PEAK = """
import sys
from pathlib import Path
from feedrate.loaders.tensorflow_loader import TensorFlowDataLoader

files = sys.argv[1:]
dataset = TensorFlowDataLoader(2, 2).create_streaming_dataset(files, list("abcdefgh"), seed=1)
rows = sum(len(x) for x in dataset)
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(rows, status["VmHWM"].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.slow
@pytest.mark.alone
def test_ten_times_the_files_take_hardly_more_memory(tmp_path):
    """Were all of them held, the 190 MiB of rows would add 30% to the peak."""
    random = np.random.default_rng(0)
    files = [tmp_path / f"{number}.parquet" for number in range(60)]
    for number, path in enumerate(files):
        if number < 6:
            rows = random.random((100_000, 8), dtype=np.float32)
            pd.DataFrame(rows, columns=list("abcdefgh")).to_parquet(path)
        else:
            path.hardlink_to(files[number % 6])

    def peak(count):
        found = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, files[:count])],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        rows, kilobytes = map(int, found.stdout.split())
        assert rows == count * 100_000
        return kilobytes

    assert peak(60) < 1.1 * peak(6)


# Threads and queues


class Reads:
    """Counts the chunks that a stream reads, and by which threads."""

    def __init__(self, read):
        self.read = read
        self.threads = set()
        self.count = self.in_work = self.most_in_work = 0
        self.lock = threading.Lock()

    def __call__(self, epochs, *where):
        with self.lock:
            self.threads.add(threading.get_ident())
            self.count += 1
            self.in_work += 1
            self.most_in_work = max(self.most_in_work, self.in_work)
        time.sleep(0.01)  # long enough that idle threads take the next chunks
        try:
            return self.read(epochs, *where)
        finally:
            with self.lock:
                self.in_work -= 1

    def settled(self):
        """The count, once it no longer grows."""
        before = -1
        while self.count != before:
            before = self.count
            time.sleep(0.2)
        return before


@pytest.fixture
def reads(monkeypatch):
    from feedrate.loaders.tensorflow.epochs import StreamEpochs

    counted = Reads(StreamEpochs.read)

    def read(epochs, *where):
        return counted(epochs, *where)

    monkeypatch.setattr(StreamEpochs, "read", read)
    return counted


@pytest.mark.parametrize(("num_workers", "threads"), [(0, 1), (1, 1), (3, 3)])
def test_so_many_threads_read_as_there_are_workers(files, reads, num_workers, threads):
    loader = TensorFlowDataLoader(2, num_workers)
    for _ in loader.create_streaming_dataset(files, FEATURES, batch_size=50, shuffle=False):
        pass
    assert (len(reads.threads), reads.most_in_work) == (threads, threads)


@pytest.mark.parametrize(("num_workers", "prefetch"), [(0, 0), (0, 3), (2, 0), (2, 2), (3, 1)])
def test_workers_and_prefetch_are_what_is_read_ahead(files, reads, num_workers, prefetch):
    loader = TensorFlowDataLoader(prefetch, num_workers)
    dataset = loader.create_streaming_dataset(files, FEATURES, batch_size=50, shuffle=False)
    iterator = iter(dataset)
    next(iterator)
    assert reads.settled() == 1 + num_workers + prefetch


def test_settings_never_change_the_rows(make):
    orders = [
        rows_of(make(loader=TensorFlowDataLoader(prefetch, workers), seed=7, first_epoch=1))
        for workers, prefetch in itertools.product((0, 1, 3), (0, 1, 4))
    ]
    assert all(np.array_equal(order, orders[0]) for order in orders)


def test_autotune_behind_a_dataset_means_as_many_calls_as_workers(make):
    meeting = threading.Barrier(3)  # breaks unless so many calls are in work at a time

    def meet(x):
        meeting.wait(timeout=20)
        return x

    dataset = make(None, TensorFlowDataLoader(1, 3), batch_size=100, drop_last=True).take(9)
    assert dataset.options().autotune.enabled is False
    met = dataset.map(
        lambda x: tf.numpy_function(meet, [x], tf.float32), num_parallel_calls=tf.data.AUTOTUNE
    )
    assert sum(1 for _ in met) == 9


# Files that change


@pytest.mark.parametrize("how", ["deleted", "truncated"])
def test_a_file_that_breaks_in_mid_epoch_ends_the_iteration_and_is_named(files, how):
    dataset = TensorFlowDataLoader(0, 1).create_streaming_dataset(
        files, FEATURES, batch_size=50, shuffle=False
    )
    iterator = iter(dataset)
    next(iterator)
    if how == "deleted":
        files[8].unlink()
    else:
        os.truncate(files[8], 100)
    with pytest.raises(ParquetFileError, match=r"8\.parquet"):
        for _ in iterator:
            pass
    with pytest.raises(ParquetFileError, match=r"8\.parquet"):
        list(dataset)
