"""Files are brought out of the page cache and into it, and what did not work is not believed."""

import mmap
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from feedrate.harness.system import pagecache
from feedrate.harness.system.pagecache import Residency, establish, evict, read_through, residency

PAGE = os.sysconf("SC_PAGE_SIZE")
SIZES = (10 * PAGE, 1, 0, 300 * PAGE + 17)


@pytest.fixture
def files(tmp_path):
    paths = []
    for number, size in enumerate(SIZES):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(os.urandom(size))
        with path.open("rb") as file:
            os.fsync(file.fileno())
        paths.append(str(path))
    if residency(paths) is None:
        pytest.skip("this kernel has no cachestat")
    evict(paths)
    if residency(paths).cached:
        pytest.skip("files of this folder cannot be evicted: a file system in memory?")
    return paths


@contextmanager
def mapped(path):
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert sum(view[::PAGE]) >= 0  # every page is touched
        yield


def test_residency_counts_whole_pages(files):
    total = 10 * PAGE + PAGE + 301 * PAGE
    assert residency(files) == Residency(0, total)
    read_through(files)
    assert residency(files) == Residency(total, total)
    evict(files[:1])
    assert residency(files) == Residency(total - 10 * PAGE, total)


def test_half_a_file_is_told_from_a_whole_one(files):
    with Path(files[3]).open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
        for page in range(0, 300, 2):
            os.pread(file.fileno(), 1, page * PAGE)
    assert residency(files[3:]) == Residency(150 * PAGE, 301 * PAGE)


@pytest.mark.parametrize("wanted", ["cold", "warm"])
def test_a_state_is_established_and_verified(files, wanted):
    for _ in range(2):
        assert establish(wanted, files).state == wanted
        assert residency(files).share == (wanted == "warm")


def test_as_is_touches_nothing(files):
    read_through(files[:1])
    before = residency(files)
    assert establish("as-is", files).state == "as-is"
    assert residency(files) == before


def test_written_pages_are_evicted_too(files):
    with Path(files[0]).open("r+b") as file:
        file.write(b"new")
    assert establish("cold", files).state == "cold"
    assert Path(files[0]).read_bytes().startswith(b"new")


def test_what_a_process_maps_stays_and_is_not_called_cold(files):
    with mapped(files[3]):
        found = establish("cold", files)
    assert found.state == "unknown"
    assert "mapped by a running process" in found.reason
    assert establish("cold", files).state == "cold"


def test_pages_that_are_dropped_at_once_are_not_called_warm(files, monkeypatch):
    monkeypatch.setattr(pagecache, "read_through", len)
    found = establish("warm", files)
    assert (found.state, "were not kept" in found.reason) == ("unknown", True)


def test_without_an_account_nothing_is_claimed(files, monkeypatch):
    monkeypatch.setattr(pagecache, "_cached_pages", [].append)
    assert residency(files) is None
    for wanted in ("cold", "warm"):
        found = establish(wanted, files)
        assert (found.state, "cachestat" in found.reason) == ("unknown", True)


def test_files_in_memory_are_never_cold():
    path = Path(f"/dev/shm/feedrate-test-{os.getpid()}")  # noqa: S108
    if not path.parent.is_dir():
        pytest.skip("there is no /dev/shm")
    try:
        path.write_bytes(bytes(20 * PAGE))
        assert establish("cold", [str(path)]).state == "unknown"
    finally:
        path.unlink(missing_ok=True)


def test_a_file_that_is_missing_is_an_error_that_names_it(tmp_path):
    missing = str(tmp_path / "gone.parquet")
    for wanted in ("cold", "warm"):
        with pytest.raises(OSError, match=r"gone\.parquet"):
            establish(wanted, [missing])


def test_other_systems_tell_nothing(files, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert residency(files) is None
