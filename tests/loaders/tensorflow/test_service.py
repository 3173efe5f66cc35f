"""A real tf.data service: a dispatcher and two workers on loopback."""

import socket

import numpy as np
import pandas as pd
import pytest

tf = pytest.importorskip("tensorflow")

from feedrate.loaders import TensorFlowDataLoader  # noqa: E402
from feedrate.loaders.base.errors import InputError  # noqa: E402
from feedrate.loaders.tensorflow.epochs import StreamEpochs  # noqa: E402

pytestmark = pytest.mark.slow
ROWS, FILES = 2_000, 8


def free_ports(count):
    """Ports that nothing listens on."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


@pytest.fixture(scope="module")
def service():
    """The target of a service with two workers, which need to be known for sharding."""
    api = tf.data.experimental.service
    port, *worker_ports = free_ports(3)
    addresses = [f"127.0.0.1:{one}" for one in worker_ports]
    dispatcher = api.DispatchServer(
        api.DispatcherConfig(port=port, worker_addresses=addresses), start=True
    )
    workers = [
        api.WorkerServer(
            api.WorkerConfig(
                dispatcher_address=f"127.0.0.1:{port}", worker_address=address, port=worker_port
            )
        )
        for address, worker_port in zip(addresses, worker_ports, strict=True)
    ]
    yield dispatcher.target
    for server in (*workers, dispatcher):
        server._stop()


@pytest.fixture
def frame():
    return pd.DataFrame({"row": np.arange(ROWS), "y": np.arange(ROWS) / 2})


@pytest.fixture
def files(tmp_path, frame):
    paths = [tmp_path / f"{number}.parquet" for number in range(FILES)]
    for number, path in enumerate(paths):
        frame.iloc[number * ROWS // FILES : (number + 1) * ROWS // FILES].to_parquet(path)
    return paths


def dataset_of(job, files, frame, **options):
    loader = TensorFlowDataLoader(num_parallel_reads=1)
    options = {"batch_size": 32, "seed": 3, "shard": "service", **options}
    if job == "stream":
        return loader.create_streaming_dataset(files, ["row"], "y", **options)
    return loader.create_cached_dataset(frame, ["row"], "y", **options)


def epoch(dataset, service):
    """The rows of each batch that the service delivers, sorted by their first."""
    api = tf.data.experimental.service
    served = dataset.apply(api.distribute(processing_mode=api.ShardingPolicy.HINT, service=service))
    batches = []
    for x, y in served.as_numpy_iterator():
        np.testing.assert_array_equal(x[:, 0] / 2, y)
        batches.append(x[:, 0].astype(int).tolist())
    return sorted(batches)


@pytest.mark.parametrize("job", ["batches", "stream"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_two_workers_deliver_each_row_once_and_repeat_an_epoch_by_its_number(
    job, shuffle, service, files, frame
):
    first = epoch(dataset_of(job, files, frame, shuffle=shuffle), service)
    again = epoch(dataset_of(job, files, frame, shuffle=shuffle), service)
    second = epoch(dataset_of(job, files, frame, shuffle=shuffle, first_epoch=1), service)
    for batches in (first, second):
        assert sorted(row for batch in batches for row in batch) == list(range(ROWS))
    assert again == first
    assert (second == first) is not shuffle


def test_an_iteration_again_is_the_same_epoch(service, files, frame):
    dataset = dataset_of("stream", files, frame)
    assert epoch(dataset, service) == epoch(dataset, service)


def test_ranks_may_have_services_of_their_own(service, files, frame):
    rows = []
    for rank in range(2):
        dataset = dataset_of("stream", files, frame, rank=rank, world_size=2)
        rows += [row for batch in epoch(dataset, service) for row in batch]
    assert sorted(rows) == list(range(ROWS))


def test_a_large_row_group_is_decoded_by_one_worker_alone(service, tmp_path, monkeypatch):
    monkeypatch.setattr("feedrate.loaders.tensorflow.builders.CHUNK_ROWS", 100)
    made = []
    plain = StreamEpochs.__init__

    def noted(self, *arguments):
        plain(self, *arguments)
        made.append(self)

    monkeypatch.setattr(StreamEpochs, "__init__", noted)
    path = tmp_path / "large.parquet"
    pd.DataFrame({"row": np.arange(ROWS), "y": np.arange(ROWS) / 2}).to_parquet(path)
    batches = epoch(dataset_of("stream", [path], None), service)
    assert sorted(row for batch in batches for row in batch) == list(range(ROWS))
    (epochs,) = made
    assert list(epochs._cuts()) == [0, 0, ROWS]  # in no place within it
    assert not epochs._unfinished  # nothing was announced that no worker read


def test_each_worker_may_end_with_a_batch_that_is_not_full(service, files, frame):
    sizes = [len(batch) for batch in epoch(dataset_of("stream", files, frame), service)]
    assert sum(sizes) == ROWS
    assert sum(size < 32 for size in sizes) <= 2
    full = [len(one) for one in epoch(dataset_of("stream", files, frame, drop_last=True), service)]
    assert set(full) == {32}
    assert sum(full) > ROWS - 2 * 32


def test_other_words_for_shard_are_refused(files, frame):
    with pytest.raises(InputError, match="'auto', 'service' or None"):
        dataset_of("batches", files, frame, shard="services")
