"""An object as a file: parts that are held, parts on demand, and one version only."""

import io
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest

pytest.importorskip("hypothesis")
from feedrate.loaders.remote import requests, source
from feedrate.loaders.remote.options import Options, remember
from feedrate.loaders.remote.ranges import Range
from feedrate.loaders.remote.requests import ChangedError
from feedrate.loaders.remote.source import RemoteSource, open_source
from feedrate.loaders.remote.store import Body, bounds
from feedrate.loaders.remote.urls import RemotePath
from hypothesis import given, settings
from hypothesis import strategies as st

DATA = bytes(range(200))
URL = "s3://bucket/a.parquet"
SMALL = Options.of({"whole_bytes": 50, "tail_bytes": 20, "gap_bytes": 8, "split_bytes": 30})


class FakeStore:
    """A store of one object, which may be replaced."""

    def __init__(self, data=DATA, version="v1", *, checks=True):
        self.data, self.version, self.checks = data, version, checks
        self.asked = []

    def get(self, _, span, version):
        if self.checks and version not in {None, self.version}:
            raise requests.Fault("changed", "it was replaced while it was being read")
        start, stop = bounds(span, len(self.data))
        self.asked.append((start, stop))
        return Body(self.data[start:stop], start, len(self.data), self.version, 7)


@pytest.fixture
def store():
    remember("s3://bucket", SMALL)
    store = FakeStore()
    with mock.patch.object(requests, "store_of", return_value=store):
        yield store


def held(*parts):
    """A source that holds these parts of `DATA`."""
    (start, stop), *others = parts
    one = RemoteSource(URL, Body(DATA[start:stop], start, len(DATA), "v1", 7))
    for start, stop in others:
        one._hold(start, DATA[start:stop])
    return one


PARTS = st.lists(
    st.tuples(st.integers(0, 199), st.integers(0, 60)).map(lambda one: (one[0], sum(one))),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(deadline=None)
@given(PARTS, st.integers(0, 210), st.integers(0, 210))
def test_bytes_that_are_held_in_any_parts_take_no_request(parts, at, count):
    stop = min(at + count, 200)
    known = {byte for low, high in parts for byte in range(low, min(high, 200))}
    store = FakeStore()
    remember("s3://bucket", SMALL)
    with mock.patch.object(requests, "store_of", return_value=store):
        assert held(*parts).read(at, count) == DATA[at:stop]
    if set(range(at, stop)) <= known:
        assert store.asked == []


@settings(deadline=None)
@given(PARTS, PARTS)
def test_requested_parts_are_then_held_and_nothing_held_is_requested_alone(parts, wanted):
    store = FakeStore()
    remember("s3://bucket", SMALL)
    wanted = [Range(low, min(high, 200)) for low, high in wanted]
    with mock.patch.object(requests, "store_of", return_value=store):
        one = held(*parts)
        one.fetch(wanted)
        asked = len(store.asked)
        for low, high in wanted:
            assert one.read(low, high - low) == DATA[low:high]
        assert len(store.asked) == asked
        assert all(0 < stop - start <= 30 for start, stop in store.asked)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 70)),
        st.tuples(st.just("readinto"), st.integers(0, 70)),
        st.tuples(st.just("seek"), st.integers(0, 250)),
        st.tuples(st.just("end"), st.integers(-200, 10)),
        st.tuples(st.just("skip"), st.integers(0, 40)),
        st.tuples(st.just("rest"), st.just(0)),
    ),
    max_size=12,
)


def step(file, what, number):
    match what:
        case "read":
            return file.read(number)
        case "readinto":
            buffer = bytearray(number)
            count = file.readinto(buffer)
            return count, bytes(buffer)
        case "seek":
            return file.seek(number)
        case "end":
            return file.seek(number, io.SEEK_END)
        case "skip":
            return file.seek(number, io.SEEK_CUR)
        case _:
            return file.read()


@settings(deadline=None)
@given(STEPS, PARTS)
def test_a_source_reads_as_a_file_in_memory(steps, parts):
    remember("s3://bucket", SMALL)
    with mock.patch.object(requests, "store_of", return_value=FakeStore()):
        file, plain = held(*parts).file(), io.BytesIO(DATA)
        for what, number in steps:
            assert step(file, what, number) == step(plain, what, number)
            assert file.tell() == plain.tell()
    assert file.readable()
    assert file.seekable()
    assert not file.writable()
    assert file.size() == 200


def test_reads_on_demand_bring_what_follows_within_the_limits(store):
    one = held((0, 10))
    assert one.read(50, 2) == DATA[50:52]
    assert store.asked == [(50, 58)]
    assert one.read(54, 4) == DATA[54:58]
    assert store.asked == [(50, 58)]
    assert one.read(100, 70) == DATA[100:170]
    assert store.asked[1:] == [(100, 123), (123, 146), (146, 170)]
    assert one.read(195, 50) == DATA[195:]
    assert one.read(300, 5) == b""
    for at in range(60, 200, 5):  # more than are kept
        assert one.read(at, 5) == DATA[at : at + 5]
    assert one.read(50, 2) == DATA[50:52]
    assert len(one._on_demand) <= source._KEPT_MISSES


def test_the_whole_of_a_large_object_is_read_in_parts(store):
    one = open_source(URL)
    assert store.asked == [(180, 200)]
    assert one.content is None
    with ThreadPoolExecutor(3) as pool:
        assert one.whole(pool) == DATA
    assert one.content == DATA
    assert min(store.asked[1:])[0] == 0
    assert all(stop - start <= 30 for start, stop in store.asked)


def test_an_object_that_is_replaced_is_an_error_and_is_opened_anew(store):
    for checks in (True, False):  # a store may ignore If-Match
        store.checks = checks
        store.data, store.version = DATA, "v1"
        one = open_source(URL, fresh=True)
        store.data, store.version = DATA[::-1], "v2"
        for read in (lambda one: one.read(0, 5), lambda one: one.fetch([Range(0, 90)])):
            with pytest.raises(ChangedError, match=r"a\.parquet: it was replaced while it"):
                read(one)
        assert open_source(URL).read(0, 3) == DATA[::-1][:3]


def test_an_object_of_another_size_is_another_one(store):
    store.checks = False
    one = open_source(URL, fresh=True)
    store.data = DATA + b"more"
    with pytest.raises(ChangedError):
        one.read(0, 5)


def test_opening_again_takes_no_request_if_the_version_is_the_listed_one(store):
    listed = RemotePath(URL, 200, "v1", 7)
    open_source(listed)
    for _ in range(2):
        open_source(listed, fresh=True)
        open_source(URL)
    assert len(store.asked) == 1
    store.data, store.version = DATA[::-1], "v2"
    assert open_source(RemotePath(URL, 200, "v2", 8), fresh=True).version == "v2"
    assert open_source(URL, fresh=True).version == "v2"
    assert len(store.asked) == 3
    assert open_source(URL).version == "v2"
    assert len(store.asked) == 3


def test_a_small_object_is_read_by_one_request(store):
    store.data = DATA[:40]
    for path in (URL, RemotePath(URL, 40, "v1", 7)):
        store.asked.clear()
        one = open_source(path, fresh=True, whole=True)
        assert one.content == DATA[:40]
        assert len(store.asked) == 1


def test_an_empty_object_has_no_bytes(store):
    store.data = b""
    one = open_source(URL)
    assert (one.size, one.content, one.read(0, 5), one.file().read()) == (0, b"", b"", b"")


@pytest.mark.parametrize("scheme", source.NO_SUFFIX)
def test_the_end_is_asked_for_by_its_offset_where_stores_send_no_last_bytes(store, scheme):
    remember(f"{scheme}://bucket", SMALL)
    assert open_source(f"{scheme}://bucket/a").read(180, 20) == DATA[180:]
    assert store.asked == [(0, 1), (180, 200)]


def test_ends_that_are_kept_have_a_bound(store, monkeypatch):
    monkeypatch.setattr(source, "ENDS_BYTES", 50)
    for number in range(5):
        open_source(f"{URL}{number}")
    assert source._ends._bytes <= 50
    assert [key.split()[1] for key in source._ends._bodies] == [f"{URL}3", f"{URL}4"]
    asked = len(store.asked)
    open_source(f"{URL}4")
    assert len(store.asked) == asked
    open_source(f"{URL}0")
    assert len(store.asked) == asked + 1
