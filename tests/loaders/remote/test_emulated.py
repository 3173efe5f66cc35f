"""Emulated storage: the same rows as local files, each request paid for by a clock of the test."""

import os
import subprocess
import sys

import msgspec
import numpy as np
import pandas as pd
import pytest
from feedrate.loaders import OptimizedHistoricalDataLoader
from feedrate.loaders.base.errors import InputError, ParquetFileError, StorageError
from feedrate.loaders.parquet.original import read_frame
from feedrate.loaders.remote import emulated, requests
from feedrate.loaders.remote.emulated import BURST_S, EmulatedStore, SharedTimes
from feedrate.loaders.remote.emulated_files import AT_ONCE, PlainObject
from feedrate.loaders.remote.emulation import (
    Emulation,
    emulated_path,
    emulated_paths,
    publish,
    published,
)
from feedrate.loaders.remote.faults import Fault
from feedrate.loaders.remote.plain import plain_file
from feedrate.loaders.remote.store import PAGE, Span
from feedrate.loaders.remote.stores import store_of
from feedrate.loaders.storage import ParquetStorage

MB = 1_000_000
LATENCY = 0.03


class Clock:
    """Seconds that pass only in `sleep`."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture(autouse=True)
def _no_emulation_is_left():
    before = set(os.environ)
    yield
    for name in set(os.environ) - before:
        del os.environ[name]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def made(tmp_path, clock):
    """A function that makes a store whose time is the clock's, of one file of 2 MB."""
    (tmp_path / "2mb").write_bytes(bytes(2 * MB))
    (tmp_path / "times").touch()

    def make(latency_s=(LATENCY,), **rates):
        emulation = Emulation(latency_s=list(latency_s), **rates)
        times = SharedTimes(tmp_path / "times")
        return EmulatedStore("emulated://made", emulation, times, clock, clock.sleep)

    return make


@pytest.fixture
def key(tmp_path):
    return str(tmp_path / "2mb").lstrip("/")


@pytest.fixture
def storage(tmp_path):
    """Files of two days and two types of columns, and their storage as an emulated one."""
    folder = tmp_path / "storage" / "logs"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for day in range(1, 5):
        frame = pd.DataFrame({"x": random.random(40), "y": range(40), "text": ["é", None] * 20})
        frame.to_parquet(folder / f"logs_2025010{day}.parquet", row_group_size=16)
    root = publish(Emulation(latency_s=[0.0], bytes_per_s=1e12))
    return folder.parent, ParquetStorage(emulated_path(root, folder.parent))


def test_a_request_takes_the_latency_and_its_bytes_the_bandwidth(made, key, clock):
    store = made(bytes_per_s=100 * MB)
    body = store.get(key, Span(0, MB), None)
    assert (len(body.data), body.start, body.size) == (MB, 0, 2 * MB)
    assert clock.now == pytest.approx(100 + LATENCY + 0.01)


def test_requests_share_the_bandwidth(made, key, clock):
    store = made(bytes_per_s=100 * MB)
    store.get_since(key, None, None, 100.0)
    store.get_since(key, None, None, 100.0)  # sent at the same time
    assert clock.now == pytest.approx(100 + LATENCY + 0.04)


def test_a_connection_has_a_rate_of_its_own(made, key, clock):
    store = made(bytes_per_s=100 * MB, connection_bytes_per_s=20 * MB)
    store.get_since(key, None, None, 100.0)
    assert clock.now == pytest.approx(100 + LATENCY + 0.1)
    store.get_since(key, None, None, 100.0)  # another connection, which waited for no one
    assert clock.now <= 100 + LATENCY + 0.12


def test_the_latency_is_drawn_from_the_quantiles(made, key, clock):
    store = made([0.02, 0.03, 0.08])
    took = []
    for _ in range(400):
        before = clock.now
        store.get(key, Span(0, 1), None)
        took.append(clock.now - before)
    assert min(took) >= 0.02
    assert max(took) <= 0.08
    assert np.median(took) == pytest.approx(0.03, abs=0.002)


def test_the_same_latencies_come_in_each_run(made, key, clock):
    def some():
        store, before = made([0.02, 0.08]), clock.now
        for _ in range(5):
            store.get(key, Span(0, 1), None)
        return clock.now - before

    assert some() == pytest.approx(some())


def test_requests_beyond_a_rate_wait(made, key, clock):
    store = made(requests_per_s=10)
    for _ in range(3):
        store.get_since(key, Span(0, 1), None, 100.0)
    assert clock.now == pytest.approx(100 + LATENCY + 0.2)


def test_requests_beyond_the_throttled_rate_are_refused(made, key, clock):
    store = made(throttled_per_s=4)
    for _ in range(int(BURST_S * 4) + 1):
        store.get_since(key, Span(0, 1), None, 100.0)
    with pytest.raises(Fault) as caught:
        store.get_since(key, Span(0, 1), None, 100.0)
    assert caught.value.kind == "throttled"
    clock.now += 1  # later there is room again
    store.get(key, Span(0, 1), None)


def test_a_throttled_request_is_repeated_and_counted(made, key, clock, monkeypatch):
    store = made(throttled_per_s=2)
    monkeypatch.setattr(requests, "store_of", lambda _: store)
    monkeypatch.setattr(requests.time, "sleep", clock.sleep)
    monkeypatch.setattr(requests.time, "monotonic", clock)
    before = requests.counts()
    for _ in range(8):
        requests.get(f"emulated://made/{key}", Span(0, 1))
    done = requests.counts().since(before)
    assert done.retries > 0
    assert done.throttled_s > 0
    assert done.requests == 8 + done.retries


def test_a_listing_takes_a_latency_for_each_thousand_entries(made, tmp_path, clock):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(PAGE + 1):
        (folder / f"{number:04}.parquet").touch()
    store, prefix = made(), str(folder).lstrip("/")
    pages = list(store.all(prefix))
    assert [len(page) for page in pages] == [PAGE, 1]
    assert pages[0][7] == f"emulated://made/{prefix}/0007.parquet"
    assert clock.now == pytest.approx(100 + 2 * LATENCY)
    assert len(store.folders(prefix)[1]) == PAGE + 1
    assert clock.now == pytest.approx(100 + 4 * LATENCY)


def test_what_is_missing_takes_the_latency_too(made, key, clock):
    store = made()
    for ask in (lambda: store.get(f"{key}-not", None, None), lambda: store.head(f"{key}-not")):
        with pytest.raises(Fault) as caught:
            ask()
        assert caught.value.kind == "missing"
    assert clock.now == pytest.approx(100 + 2 * LATENCY)


def test_a_file_that_changed_has_another_version(made, key, tmp_path):
    store = made()
    version = store.get(key, Span(-4), None).version
    store.get(key, Span(-4), version)
    (tmp_path / "2mb").write_bytes(b"another")
    with pytest.raises(Fault) as caught:
        store.get(key, Span(0, 4), version)
    assert caught.value.kind == "changed"


def test_plain_pandas_pays_for_each_size_and_for_each_read(made, key, clock):
    plain = PlainObject(made(), key, 2 * MB)
    plain.seek(-100, os.SEEK_END)
    plain.read(100)
    assert clock.now == pytest.approx(100 + LATENCY)
    plain.seek(0)
    plain.read(100)
    assert clock.now == pytest.approx(100 + 2 * LATENCY)


def test_columns_that_pandas_requests_together_take_one_latency(made, key, clock):
    plain = PlainObject(made(), key, 2 * MB)
    for start in range(AT_ONCE):
        plain.seek(1000 * start)
        plain.read(100)
    assert clock.now == pytest.approx(100 + LATENCY)
    plain.seek(500_000)  # one more than its threads: it waits for the first
    plain.read(100)
    assert clock.now == pytest.approx(100 + 2 * LATENCY)
    clock.now += 1  # asked for later
    plain.read(100)
    assert clock.now == pytest.approx(101 + 3 * LATENCY)


def test_plain_pandas_sends_as_many_requests_as_to_s3(storage, monkeypatch):
    # Counted behind a proxy: HEAD twice, the footer, HEAD again, the columns.
    sent = []
    for name in ("head", "get_since"):
        method = getattr(EmulatedStore, name)
        monkeypatch.setattr(
            EmulatedStore, name, lambda *a, m=method, n=name: (sent.append(n), m(*a))[1]
        )
    _, there = storage
    read_frame([there.files("logs")[0]])
    assert sent == ["head", "head", "get_since", "head", "get_since"]


def test_the_rows_are_those_of_the_files(storage):
    folder, there = storage
    here = ParquetStorage(folder)
    assert there.data_types() == ["logs"]
    wanted = read_frame(here.files("logs"))
    pd.testing.assert_frame_equal(read_frame(there.files("logs")), wanted)
    loader = OptimizedHistoricalDataLoader(there, num_workers=2, profile=None)
    pd.testing.assert_frame_equal(loader.load_files(there.files("logs")), wanted)
    pd.testing.assert_frame_equal(loader.load_files(there.files("logs"), ["y"]), wanted[["y"]])


@pytest.mark.parametrize("job", ["batches", "stream"])
def test_training_gets_the_rows_of_the_files(storage, job):
    pytest.importorskip("torch")
    folder, there = storage

    def rows(place):
        loader = OptimizedHistoricalDataLoader(place, "pytorch", num_workers=0, profile=None)
        load = getattr(loader, job)
        batches = load(place.files("logs"), ["x"], "y", batch_size=9, shuffle=False)
        return [[part.tolist() for part in batch] for batch in batches]

    assert rows(there) == rows(ParquetStorage(folder))


def test_an_unreadable_file_is_one_clear_error(storage):
    folder, there = storage
    path = there.files("logs")[0]
    (folder / "logs" / path.name).unlink()
    with pytest.raises(ParquetFileError, match="does not exist"):
        requests.get(path)
    files, name = plain_file(path)
    with pytest.raises(FileNotFoundError):
        files.open_input_file(name)


def test_objects_can_be_written(storage):
    folder, there = storage
    there.save(pd.DataFrame({"x": [1.0]}), "logs", "20250109")
    assert (folder / "logs" / "logs_20250109.parquet").is_file()


def test_another_process_finds_the_emulation_and_shares_its_rates(storage):
    _, there = storage
    path = str(there.files("logs")[0])
    code = (
        "import sys\n"
        "from feedrate.loaders.parquet.original import read_frame\n"
        "print(len(read_frame([sys.argv[1]])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "40"
    times = SharedTimes(published("/".join(path.split("/")[:3])).clock)
    assert times.take(emulated._LINK, 0.0, 0.0) > 0  # it used the connection


def test_emulated_storage_of_nobody_is_refused_with_the_remedy():
    with pytest.raises(InputError, match="--emulate-storage"):
        store_of("emulated://00000000/x")


@pytest.mark.parametrize(
    "values",
    [
        {"latency_s": []}, {"latency_s": [-1.0]}, {"latency_s": [0.2, 0.1]},
        {"latency_s": [0.1], "bytes_per_s": 0.0}, {"latency_s": [float("nan")]},
        {"latency_s": [0.1], "requests_per_s": float("inf")},
    ],
)  # fmt: skip
def test_values_that_no_store_has_are_refused(values):
    with pytest.raises(InputError):
        Emulation(**values)
    if values["latency_s"] and values["latency_s"][0] == 0.1:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(values, Emulation)


def test_paths_have_the_sizes_and_versions_that_the_store_gives(storage):
    folder, there = storage
    path = there.files("logs")[0]
    body = requests.get(path)
    local = folder / "logs" / path.name
    root = "/".join(path.split("/")[:3])
    (other,) = emulated_paths(root, [str(local)])
    assert other == path
    assert (other.size, other.version) == (body.size, body.version) == (path.size, path.version)
    assert emulated_path(root, local.with_name("none")).size is None


def test_a_missing_folder_is_an_error_of_the_storage(storage):
    _, there = storage
    with pytest.raises(StorageError, match="there is nothing in"):
        ParquetStorage(f"{there.base_dir}/none").data_types()
