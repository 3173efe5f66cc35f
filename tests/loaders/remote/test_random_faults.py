"""Random faults of all kinds: the rows, each once and in order, or one clear error."""

import numpy as np
import pytest
from feedrate.loaders.base.errors import FeedrateError, ParquetFileError, StorageError
from feedrate.loaders.choosing.registry import find_backend
from feedrate.loaders.remote import requests
from feedrate.loaders.storage import ParquetStorage

from ...servers.faults import Fault
from .failing import LIMITS, expected, fill, outcome

RUNS = 20
TASKS = [
    ("frame", "pytorch"), ("stream", "pytorch"), ("batches", "pytorch"),
    ("stream, shuffled", "pytorch"), ("frame", "tensorflow"), ("stream", "tensorflow"),
]  # fmt: skip
PASSING, FINAL, SLOW = 0.05, 0.002, 0.004  # of each kind, at each request


def all_kinds():
    return [
        *(Fault(kind, probability=PASSING) for kind in ("reset", "reset_in_body", "cut")),
        *(Fault("status", status=status, probability=PASSING) for status in (429, 500, 503)),
        *(Fault("status", status=status, probability=FINAL) for status in (400, 403, 404, 412)),
        Fault("timeout", probability=SLOW),
        Fault("trickle", probability=SLOW, bytes_per_s=10),
    ]


@pytest.fixture(scope="module")
def place(s3):  # noqa: ARG001 - it sets the environment
    url = "s3://feedrate/random-faults"
    return url, fill(ParquetStorage(url))


@pytest.mark.parametrize("run", range(RUNS))
def test_no_row_is_lost_or_doubled_whatever_fails(place, behind, monkeypatch, run):
    monkeypatch.setattr(requests, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(requests, "MOST_WAIT_S", 0.01)
    url, rows = place
    job, backend = TASKS[run % len(TASKS)]
    if not find_backend(backend).installed:
        pytest.skip(f"{find_backend(backend).module} is not installed")
    faults = all_kinds()
    limits = {**LIMITS, "stall_s": 0.7, "request_s": 1.2, "retries": 2 if run % 2 else 12}
    storage, proxy = behind(url, limits, faults=faults, seed=run)
    requests._answered.add("s3://feedrate")
    found, used = outcome(storage, job, backend)
    if isinstance(found, np.ndarray):
        assert found.tolist() == expected(rows).tolist()
    else:
        assert isinstance(found, FeedrateError)
        assert isinstance(found, StorageError | ParquetFileError)
        assert url in str(found)
        assert "\n" not in str(found)
    # One that meets a connection in the moment in which it is closed is sent again, unseen.
    assert used.requests - used.retries <= len(proxy.requests)


@pytest.mark.parametrize("run", range(2))
def test_files_that_cannot_be_read_for_a_while_are_not_skipped(place, behind, monkeypatch, run):
    monkeypatch.setattr(requests, "FIRST_WAIT_S", 0.001)
    faults = [Fault("status", status=503, probability=0.5, matches=".parquet")]
    storage, _ = behind(place[0], {**LIMITS, "retries": 1}, faults=faults, seed=run)
    error, _ = outcome(storage, "frame", "pytorch", on_error="skip")
    assert isinstance(error, StorageError)
    assert not isinstance(error, ParquetFileError)
