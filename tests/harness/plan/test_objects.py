"""Objects are found by URL, by the rules for folders and by one listing."""

import doctest

import pandas as pd
import pytest
from feedrate.harness.plan import objects
from feedrate.harness.plan.source import find_files, open_source
from feedrate.loaders.base.errors import ColumnError, InputError, StorageError
from feedrate.loaders.remote.requests import counts
from feedrate.loaders.remote.urls import RemotePath


@pytest.fixture(scope="module")
def place(upload, tmp_path_factory):
    """The URL of a storage of two data types, beside dated folders and files without a type."""
    folder = tmp_path_factory.mktemp("objects")
    for day in range(1, 13):
        _write(folder / "store" / "logs" / f"logs_202501{day:02}.parquet", range(50))
        _write(folder / "games" / "2025" / "01" / f"{day:02}" / "a.parquet", [day])
    _write(folder / "store" / "small" / "small_20250101.parquet", ["a"])
    _write(folder / "store" / "_hidden" / "x_20250101.parquet", range(5000))
    (folder / "empty").mkdir()
    (folder / "empty" / "notes.txt").write_text("nothing")
    return upload(folder)


def _write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"x": values}).to_parquet(path)


def test_examples_in_docstrings_hold():
    assert doctest.testmod(objects).failed == 0


def test_a_storage_gives_the_data_type_with_the_most_bytes(place):
    source = open_source(f"{place}/store/")
    assert (source.data_type, len(source.files), source.others) == ("logs", 12, ["small"])
    assert source.base_dir == f"{place}/store"
    assert source.dataset.folder == f"{place}/store/logs"
    assert source.dataset.storage == "object store"
    assert source.of_objects
    assert open_source(f"{place}/store", "small").data_type == "small"


def test_objects_are_found_by_one_request_with_size_and_version(place):
    before = counts()
    files = find_files(f"{place}/store").files
    assert counts().since(before).requests == 1
    assert all(isinstance(path, RemotePath) and path.size and path.version for path in files)
    assert [path.name for path in files] == sorted(path.name for path in files)


@pytest.mark.parametrize(
    ("name", "data_type", "count"),
    [
        ("store/logs", "logs", 12),
        ("games", "games", 12),
        ("store/logs/logs_20250103.parquet", "logs", 1),
        ("store/logs/*_2025010[1-4].parquet", "logs", 4),
        ("games/2025/01/1*/*.parquet", "games", 3),
        ("games/**/*.parquet", "games", 12),
    ],
)
def test_folders_single_objects_and_patterns_are_data_too(place, name, data_type, count):
    listing = find_files(f"{place}/{name}")
    assert (listing.data_type, len(listing.files), listing.others) == (data_type, count, [])
    assert listing.base_dir == (f"{place}/store" if data_type == "logs" else place)
    names = list(map(listing.name_in_type, listing.files))
    assert names == sorted(names)


def test_a_url_of_this_machine_is_a_folder(tmp_path):
    _write(tmp_path / "logs" / "logs_20250101.parquet", [1])
    listing = find_files(f"file://{tmp_path}/logs")
    assert (listing.folder, listing.of_objects) == (tmp_path / "logs", False)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("absent", "nothing in"),
        ("empty", "no Parquet object in"),
        ("store/logs/absent.parquet", "no object .*absent.parquet, and no folder"),
        ("store/logs/*.csv", "no object matches"),
    ],
)
def test_what_is_not_there_is_named(place, name, told):
    with pytest.raises(StorageError, match=told):
        find_files(f"{place}/{name}")


def test_a_data_type_that_is_not_there_is_named_with_those_that_are(place):
    with pytest.raises(InputError, match=r"'log'.*logs, small"):
        find_files(f"{place}/store", "log")
    with pytest.raises(InputError, match=r"'log'.*logs"):
        find_files(f"{place}/store/logs", "log")


@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_is_named():
    with pytest.raises(StorageError, match="there is no bucket s3://feedrate-absent"):
        find_files("s3://feedrate-absent/logs")


@pytest.mark.parametrize("url", ["s3://KEY:SECRET@b/logs", "S3://b/logs?sig=SECRET", "s3a://"])
def test_a_url_with_credentials_is_refused_without_showing_them(url):
    with pytest.raises(InputError, match=r"credentials|bucket") as told:
        find_files(url)
    assert "SECRET" not in str(told.value)


def test_a_web_server_has_no_folders():
    with pytest.raises(InputError, match="one Parquet file"):
        find_files("https://example.com/data")


def test_columns_of_objects_are_checked(place):
    source = open_source(f"{place}/store")
    assert source.features(None, None) == ["x"]
    with pytest.raises(ColumnError, match="pointz"):
        source.features(["pointz"], None)
