"""The contract of all loaders over objects: what the original gives of local copies."""

import tempfile
from pathlib import Path

import pytest
from feedrate.loaders.historical_loader import HistoricalDataLoader
from feedrate.loaders.remote.urls import RemotePath
from feedrate.loaders.storage import ParquetStorage

from .. import test_contract as contract
from ..places import read_bytes, write_bytes

COMBINATIONS = [  # the original has a test of its own below
    ("tensorflow", "memory", 2),
    ("pytorch", "disk", 2),
]
LOCAL_ONLY = {
    "test_a_fresh_process_can_use_a_loader_that_it_is_sent",  # by `test_processes.py`
    "test_relative_paths_are_those_of_the_current_folder",
    "test_a_folder_in_place_of_a_file_is_an_error_that_names_it",
    "test_a_storage_that_moved_is_read_where_it_is",
    "test_a_folder_stands_for_its_storage",
    "test_what_is_no_file_is_a_clear_error",
    "test_batches_and_streams_of_no_files_are_clear_errors",
}
globals().update(
    (name, test)
    for name, test in vars(contract).items()
    if name.startswith("test_") and name not in LOCAL_ONLY
)


@pytest.fixture(params=COMBINATIONS, ids=lambda combination: "-".join(map(str, combination)))
def make(request):
    return contract.maker(*request.param)


class OfCopies(HistoricalDataLoader):
    """The original loader, which reads local copies of objects."""

    def load_files(self, paths, columns=None, filters=None):
        with tempfile.TemporaryDirectory() as folder:
            copies = []
            for number, path in enumerate(paths):
                copies.append(Path(folder) / f"{number}.parquet")
                write_bytes(copies[-1], read_bytes(RemotePath(path)))
            return super().load_files(copies, columns, filters)


@pytest.fixture(autouse=True)
def _compared_with_copies(monkeypatch):
    monkeypatch.setattr(contract, "HistoricalDataLoader", OfCopies)


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The local copies of `mixed`."""
    return contract.fill_mixed(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def mixed(copies, upload):
    return ParquetStorage(upload(copies.base_dir))


@pytest.fixture(scope="module")
def expected(copies):
    original = HistoricalDataLoader(copies)
    return [getattr(original, method)(*arguments) for method, *arguments in contract.CALLS]


@pytest.fixture(scope="module")
def box_scores(mixed, copies):
    frame = HistoricalDataLoader(copies).load_files(copies.files("box_scores"))
    return mixed.files("box_scores"), frame


@pytest.fixture
def storage(_storage, upload):
    return ParquetStorage(upload(_storage.base_dir))


@pytest.fixture
def empty(url):
    return ParquetStorage(url)


def test_the_original_gives_of_objects_what_it_gives_of_files(mixed, expected, assert_same):
    original = HistoricalDataLoader(mixed)
    for (method, *arguments), right in zip(contract.CALLS, expected, strict=True):
        got = getattr(original, method)(*arguments)
        if isinstance(right, dict):
            contract.assert_same_frames(got, right, assert_same)
        elif isinstance(right, list):
            assert got == right
        else:
            assert_same(got, right)
