"""Requests: repeated within limits, counted, and told about in one clear error."""

import pytest
from feedrate.loaders.base.errors import ParquetFileError, StorageError
from feedrate.loaders.remote import requests
from feedrate.loaders.remote.faults import Fault
from feedrate.loaders.remote.options import Options, remember
from feedrate.loaders.remote.requests import (
    UNANSWERED_RETRIES,
    ChangedError,
    Counts,
    counts,
    get,
    raise_for,
    repeated,
)
from feedrate.loaders.remote.store import Body, Span

PATH = "s3://prices/daily/a.parquet"
BODY = Body(b"12345", 0, 5, "v", 0)


class FakeStore:
    """A store that fails as told, then answers."""

    def __init__(self, *faults):
        self.faults = list(faults)
        self.asked = []

    def get(self, key, span, version):
        self.asked.append((key, span, version))
        if self.faults:
            raise self.faults.pop(0)
        return BODY


def fault(kind, code=""):
    return Fault(kind, f"it is {kind}", code)


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(requests, "time", clock)
    return clock


@pytest.fixture
def serve(monkeypatch, clock):  # noqa: ARG001 - no test waits
    """Makes a store that fails with these faults and then answers; notes what is opened again."""

    def use(*faults, answered=True):
        store = FakeStore(*faults)
        store.reopened = []
        monkeypatch.setattr(requests, "store_of", lambda _: store)
        monkeypatch.setattr(requests, "reopen", store.reopened.append)
        if answered:
            requests._answered.add("s3://prices")
        return store

    return use


def counted(work):
    """What a call asked of stores, and its error if there was one."""
    before, error = counts(), None
    try:
        work()
    except (Fault, OSError) as caught:
        error = caught
    return counts().since(before), error


@pytest.mark.parametrize("kind", ["throttled", "network", "server"])
def test_a_request_is_repeated_after_faults_that_pass(serve, clock, kind):
    store = serve(*[fault(kind)] * 3)
    used, error = counted(lambda: get(PATH, Span(0, 5), "v"))
    assert error is None
    assert store.asked == [("daily/a.parquet", (0, 5), "v")] * 4
    assert used[:3] == (4, 5, 3)
    assert used.throttled_s == pytest.approx(sum(clock.slept) if kind == "throttled" else 0)


@pytest.mark.parametrize("kind", ["missing", "denied", "changed", "other"])
def test_a_request_is_not_repeated_after_faults_that_stay(serve, clock, kind):
    store = serve(fault(kind))
    used, error = counted(lambda: get(PATH))
    assert isinstance(error, OSError)
    assert len(store.asked) == 1
    assert used == Counts(1, 0, 0, 0.0)
    assert clock.slept == []


def test_waits_double_within_bounds_and_differ(serve, clock):
    serve(*[fault("server")] * 12)
    remember("s3://prices", Options.of({"retries": 12, "retry_s": 1e6}))
    get(PATH)
    plain = [min(0.1 * 2**number, 20.0) for number in range(12)]
    assert len(clock.slept) == 12
    for waited, usual in zip(clock.slept, plain, strict=True):
        assert 0.5 * usual <= waited <= 1.5 * usual
    assert len({round(waited / usual, 6) for waited, usual in zip(clock.slept, plain)}) > 6  # noqa: B905


def test_a_request_is_repeated_as_often_as_the_options_say(serve):
    for retries in (0, 1, 3):
        remember("s3://prices", Options.of({"retries": retries}))
        store = serve(*[fault("server")] * 10)
        used, error = counted(lambda: get(PATH))
        assert isinstance(error, StorageError)
        assert len(store.asked) == used.requests == retries + 1
        assert used.retries == retries


def test_a_request_is_not_repeated_after_its_time_is_over(serve, clock):
    remember("s3://prices", Options.of({"retries": 1000, "retry_s": 30}))
    serve(*[fault("throttled")] * 1000)
    used, error = counted(lambda: get(PATH))
    assert isinstance(error, StorageError)
    assert sum(clock.slept) <= 30
    assert used.throttled_s == pytest.approx(sum(clock.slept))
    assert 5 < used.requests < 12


def test_an_address_that_never_answered_is_given_up_soon(serve):
    store = serve(*[fault("network")] * 100, answered=False)
    _, error = counted(lambda: get(PATH))
    assert isinstance(error, StorageError)
    assert len(store.asked) == UNANSWERED_RETRIES + 1
    assert "check the network and the endpoint (AWS_ENDPOINT_URL)" in str(error)


def test_any_answer_shows_that_the_address_is_right(serve):
    serve(fault("server"), *[fault("network")] * 6, answered=False)
    get(PATH)
    assert "s3://prices" in requests._answered


def test_expired_credentials_are_renewed_once(serve):
    store = serve(fault("expired"))
    get(PATH)
    assert store.reopened == [PATH]
    store = serve(fault("expired"), fault("expired"))
    _, error = counted(lambda: get(PATH))
    assert isinstance(error, StorageError)
    assert len(store.asked) == 2
    assert "check the credentials" in str(error)


def test_credentials_that_expire_after_other_faults_are_renewed_too(serve):
    store = serve(fault("server"), fault("server"), fault("expired"), fault("server"))
    get(PATH)
    assert store.reopened == [PATH]


def test_counts_of_a_store_that_fails_finally_hold_no_bytes(serve):
    serve(fault("server"), fault("denied"))
    used, _ = counted(lambda: get(PATH))
    assert used == Counts(2, 0, 1, 0.0)


def test_other_requests_are_repeated_in_the_same_way(serve):
    serve()
    answers = [fault("server"), "listed"]

    def ask(_):
        answer = answers.pop(0)
        if isinstance(answer, Fault):
            raise answer
        return answer

    assert repeated(PATH, ask) == "listed"


def test_where_last_bytes_are_refused_the_whole_is_read(serve):
    store = serve(fault("other", "InvalidRange"))  # it is empty, or shorter than they
    assert get(PATH, Span(-100), "v") == BODY
    assert [span for _, span, _ in store.asked] == [(-100, None), None]
    serve(fault("other", "InvalidRange"))
    with pytest.raises(StorageError):
        get(PATH, Span(5, 9))


@pytest.mark.parametrize(
    ("kind", "code", "path", "error", "message"),
    [
        ("missing", "NoSuchBucket", PATH, StorageError, "there is no bucket s3://prices; check"),
        ("missing", "", "s3://prices", StorageError, "there is no bucket s3://prices"),
        ("missing", "NoSuchKey", PATH, ParquetFileError, f"cannot read {PATH}: the object does"),
        ("changed", "", PATH, ChangedError, "load again"),
        ("denied", "", PATH, StorageError, f"cannot read {PATH}: .*AWS_ACCESS_KEY_ID"),
        ("expired", "", "gs://b/a", StorageError, "GOOGLE_APPLICATION_CREDENTIALS"),
        ("denied", "", "az://b/a", StorageError, "AZURE_STORAGE_ACCOUNT_NAME"),
        ("denied", "", "https://b/a", StorageError, "storage_options"),
        ("throttled", "", PATH, StorageError, "set fewer requests in flight"),
        ("network", "", "gs://b/a", StorageError, "check the network and the endpoint$"),
        ("server", "", PATH, StorageError, "try later"),
        ("other", "", PATH, StorageError, "check the address and the options"),
    ],
)
def test_an_error_names_the_object_and_the_remedy(kind, code, path, error, message):
    with pytest.raises(error, match=message) as caught:
        raise_for(path, fault(kind, code))
    assert "\n" not in str(caught.value)
    if kind != "missing":
        assert path in str(caught.value)
