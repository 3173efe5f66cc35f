"""Saving and loading by URL: names with odd characters, hidden, empty and damaged objects."""

import io
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from feedrate.loaders.base.errors import InputError, ParquetFileError, StorageError
from feedrate.loaders.choosing.registry import find_backend
from feedrate.loaders.historical_loader import HistoricalDataLoader
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.remote.urls import RemotePath
from feedrate.loaders.storage import ParquetStorage

from ..places import read_bytes, write_bytes

TYPE = "prices"
ODD = [
    "date=2025-01-04 00%3A00%3A00/a.parquet",
    "date=2025-01-05/ä ö ü.parquet",
    "2025-01-06 1+1=2.parquet",
    "2025-01-07#1.parquet",
    "2025-01-08 a?b&c.parquet",
    "2025-01-09 100%.parquet",
    "2025-01-10 (1) [x] {y} ~ '.parquet",
    "2025-01-11 日本語.parquet",
    "2025-01-12*.parquet",
    "2025-01-13 a%2Fb.parquet",
]
PATIENCE_S = 60


def frame(number, rows=3):
    return pd.DataFrame({"a": np.arange(rows) + 10 * number, "b": [f"№{number}"] * rows})


@pytest.fixture(params=["original", "tensorflow", "pytorch"])
def load(request):
    """Loads files by one backend."""
    if not find_backend(request.param).installed:
        pytest.skip(f"{find_backend(request.param).module} is not installed")

    def load_files(storage, files, **options):
        loader = OptimizedHistoricalDataLoader(
            storage, request.param, 2, enable_cache=False, profile=None, **options
        )
        return loader.load_files(files)

    return load_files


def test_what_is_saved_is_loaded_again(url, assert_same):
    storage = ParquetStorage(url)
    for number in (1, 2):
        path = storage.save(frame(number), TYPE, f"2025010{number}")
        assert isinstance(path, RemotePath)
        assert path == f"{url}/{TYPE}/{TYPE}_2025010{number}.parquet"
        assert storage.exists(TYPE, f"2025010{number}")
    assert not storage.exists(TYPE, "20250103")
    assert not storage.exists("schedule", "20250101")
    both = pd.concat([frame(1), frame(2)], ignore_index=True)
    assert_same(storage.load(TYPE), both)
    assert_same(storage.load(TYPE, {"start_date": "20250102"}), frame(2))
    storage.save(frame(7), TYPE, "20250102")
    assert_same(storage.load(TYPE, {"start_date": "20250102"}), frame(7))


def test_a_named_index_is_saved_as_columns(url):
    storage = ParquetStorage(url)
    storage.save(frame(1).rename_axis("row"), TYPE, "20250101")
    assert list(storage.load(TYPE).columns) == ["row", "a", "b"]


def test_what_cannot_be_saved_leaves_the_old_object(url, assert_same):
    storage = ParquetStorage(url)
    path = storage.save(frame(1), TYPE, "20250101")
    with pytest.raises(InputError, match=f"cannot store this frame as {path}.*column odd"):
        storage.save(pd.DataFrame({"odd": [1, "x"]}), TYPE, "20250101")
    for name in ("", "..", "a/b", ".a", "_a"):
        with pytest.raises(InputError, match="cannot be part of a file name"):
            storage.save(frame(1), TYPE, name)
    assert_same(storage.load(TYPE), frame(1))


def test_objects_with_odd_names_are_loaded(url, load, assert_same):
    storage = ParquetStorage(url)
    for number, name in enumerate(ODD):
        write_bytes(storage.base_dir / TYPE / name, frame(number).to_parquet(index=False))
    files = storage.dated_files(TYPE, "20250104", "20250113")
    assert [str(path) for _, path in files] == [f"{url}/{TYPE}/{name}" for name in ODD]
    assert [date for date, _ in files] == [f"202501{day:02}" for day in range(4, 14)]
    expected = pd.concat(map(frame, range(len(ODD))), ignore_index=True)
    assert_same(load(storage, [path for _, path in files]), expected)


def test_the_original_loads_odd_names_as_plain_pandas_does(url, assert_same):
    storage = ParquetStorage(url)
    for number, name in enumerate(ODD):
        write_bytes(storage.base_dir / TYPE / name, frame(number).to_parquet(index=False))
    expected = pd.concat(map(frame, range(len(ODD))), ignore_index=True)
    assert_same(HistoricalDataLoader(storage).load_files(storage.files(TYPE)), expected)
    assert_same(storage.load(TYPE), expected)


def test_a_url_with_what_may_be_a_query_is_refused_unless_it_was_listed(url):
    loader = OptimizedHistoricalDataLoader(url, profile=None)
    with pytest.raises(InputError, match="may not end in a query"):
        loader.load_files([f"{url}/{TYPE}/2025-01-07#1.parquet"])


def test_hidden_objects_and_markers_of_folders_are_left_out(url, load, assert_same):
    storage = ParquetStorage(url)
    storage.save(frame(1), TYPE, "20250101")
    for name in (".x.parquet", "_SUCCESS", "_tmp/20250102.parquet", "x.parquet.crc", "20250103"):
        write_bytes(storage.base_dir / TYPE / name, b"")
    assert_same(load(storage, storage.files(TYPE)), frame(1))


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (lambda _: b"", "it is empty"),
        (lambda _: b"PAR1", "it is not a Parquet file, or its end is missing"),
        (lambda whole: whole[:-9], "it is not a Parquet file, or its end is missing"),
        (lambda whole: whole[:-60] + b"\xff" * 52 + whole[-8:], ""),
        (lambda whole: whole[:4] + b"\xff" * 96 + whole[100:], ""),
    ],
)
@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
def test_a_damaged_object_is_named_by_its_url_or_skipped(url, load, spoilt, reason, assert_same):
    storage = ParquetStorage(url, {"whole_bytes": 0, "tail_bytes": 100, "gap_bytes": 0})
    for number in (1, 2, 3):
        storage.save(frame(number, 500), TYPE, f"2025010{number}")
    bad = storage.files(TYPE)[1]
    write_bytes(bad, spoilt(read_bytes(bad)))
    with pytest.raises(ParquetFileError) as caught:
        load(storage, storage.files(TYPE))
    assert caught.value.path == bad
    assert str(bad) in str(caught.value)
    assert reason in caught.value.reason
    assert "\n" not in str(caught.value)
    others = pd.concat([frame(1, 500), frame(3, 500)], ignore_index=True)
    assert_same(load(storage, storage.files(TYPE), on_error="skip"), others)


def test_an_object_that_is_no_file_of_parquet_is_an_error_of_streams_too(url):
    storage = ParquetStorage(url)
    storage.save(frame(1), TYPE, "20250101")
    write_bytes(storage.base_dir / TYPE / "20250102.parquet", b"not Parquet" * 10)
    loader = OptimizedHistoricalDataLoader(storage, "original", profile=None)
    with pytest.raises(ParquetFileError, match=r"20250102\.parquet: it is not"):
        list(loader.stream(storage.files(TYPE), ["a"]))


@pytest.mark.slow
def test_a_fresh_process_loads_with_a_loader_that_it_is_sent(url, tmp_path, moto, assert_same):
    storage = ParquetStorage(url, {"endpoint": moto.url, "key": "HIDDEN", "secret": "HIDDEN"})
    storage.save(frame(1), TYPE, "20250101")
    loader = OptimizedHistoricalDataLoader(storage, "original", profile=None)
    sent = pickle.dumps((loader, storage.files(TYPE)))
    assert b"HIDDEN" not in sent
    code = (
        "import pickle, sys\n"
        "loader, files = pickle.load(sys.stdin.buffer)\n"
        "sys.stdout.buffer.write(pickle.dumps(loader.load_files(files)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], input=sent, capture_output=True, check=True, cwd=tmp_path,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert_same(pd.read_pickle(io.BytesIO(ran.stdout)), frame(1))  # noqa: S301


def test_storage_options_are_for_urls_and_are_checked(tmp_path):
    with pytest.raises(InputError, match="storage_options are for object stores"):
        ParquetStorage(tmp_path, {"key": "HIDDEN"})
    pytest.importorskip("obstore")
    with pytest.raises(InputError, match=r"unknown option 'no_such_option' for s3://bucket"):
        ParquetStorage("s3://bucket/x", {"no_such_option": "HIDDEN"}).files(TYPE)
    with pytest.raises(StorageError, match="cannot write"):
        ParquetStorage(
            "s3://bucket/x", {"endpoint": "http://127.0.0.1:9", "region": "r", "key": "k",
                              "secret": "s", "retries": 0}
        ).save(frame(1), TYPE, "20250101")  # fmt: skip
