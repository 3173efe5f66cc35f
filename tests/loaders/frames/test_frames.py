"""Each file is decoded once, in a worker, by Arrow or pandas; checks are the same for both."""

import pickle
import threading
import warnings

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage
from feedrate.loaders.base.errors import FeedrateWarning, ParquetFileError
from feedrate.loaders.base.schedule import ThreadScheduler
from feedrate.loaders.caching.memory import MemoryCache
from feedrate.loaders.caching.tiers import make_cache
from feedrate.loaders.frames import convert, parts
from feedrate.loaders.frames.original_frames import OriginalReader
from feedrate.loaders.frames.reader import FrameReader
from feedrate.loaders.parquet.original import read_file, read_frame
from feedrate.loaders.parquet.schema import differences

SKIP_HINT = "or pass on_error='skip' to load the others"


@pytest.fixture
def mixed(tmp_path):
    """A file that Arrow decodes, one with a list that pandas reads, and one of each again."""
    paths = []
    for number in range(4):
        frame = pd.DataFrame({"a": [number, 10]})
        if number % 2:
            frame["b"] = [[[1, 2]], None]
        paths.append(str(tmp_path / f"{number}.parquet"))
        frame.to_parquet(paths[-1])
    return paths


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
def test_each_file_is_read_once_and_by_a_worker(mixed, monkeypatch, assert_same):
    by_arrow, by_pandas = [], []

    def decode(files, layout, real=parts.decode_with_arrow):
        by_arrow.append(([file.path for file in files], threading.current_thread()))
        return real(files, layout)

    def read(path, *arguments, **options):
        by_pandas.append((path, threading.current_thread()))
        return read_file(path, *arguments, **options)

    expected = read_frame(mixed)
    monkeypatch.setattr(parts, "decode_with_arrow", decode)
    monkeypatch.setattr(convert, "read_file", read)
    assert_same(FrameReader(ThreadScheduler(2)).load(mixed), expected)
    assert sorted(path for paths, _ in by_arrow for path in paths) == mixed[::2]
    assert sorted(path for path, _ in by_pandas) == mixed[1::2]
    threads = {thread for _, thread in (*by_arrow, *by_pandas)}
    assert threading.current_thread() not in threads


def test_what_is_one_part_only_is_read_without_a_worker(mixed, monkeypatch):
    threads = []

    def decode(files, layout, real=parts.decode_with_arrow):
        threads.append(threading.current_thread())
        return real(files, layout)

    monkeypatch.setattr(parts, "decode_with_arrow", decode)
    assert FrameReader(ThreadScheduler(2)).load(mixed[:1])["a"].tolist() == [0, 10]
    assert threads == [threading.current_thread()]


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
def test_only_what_arrow_decodes_is_cached_and_frames_stay_their_owners_own(mixed, assert_same):
    cache = MemoryCache()
    reader = FrameReader(ThreadScheduler(0), cache=cache)
    expected = read_frame(mixed)
    for _ in range(3):
        frame = reader.load(mixed)
        assert_same(frame, expected)
        frame.loc[:, "a"] = 0
    assert (cache.hits, cache.misses) == (4, 8)
    assert_same(reader.load(mixed, ["a"]), read_frame(mixed, ["a"]))
    assert_same(reader.load(mixed, ["a"]), read_frame(mixed, ["a"]))
    assert cache.hits == 8  # without the lists, Arrow decodes all


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_in_a_file_that_pandas_reads_is_skipped_too(tmp_path, workers, assert_same):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    for path in paths:
        table = pa.table({"a": [[[number] * 3] for number in range(1000)]})
        pq.write_table(table, path, compression="none")
    content = bytearray((tmp_path / "1.parquet").read_bytes())
    content[4:200] = b"\xff" * 196
    (tmp_path / "1.parquet").write_bytes(content)
    reader = FrameReader(ThreadScheduler(workers), on_error="skip")
    assert_same(reader.load(paths), read_frame([paths[0], paths[2]]))
    assert [error.path for error in reader.skipped] == [paths[1]]


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
def test_the_original_reads_every_file_by_pandas_one_after_the_other(
    mixed, monkeypatch, assert_same
):
    read = []

    def noted(path, *arguments, **options):
        read.append((path, threading.current_thread()))
        return read_file(path, *arguments, **options)

    monkeypatch.setattr(convert, "read_file", noted)
    assert_same(OriginalReader().load(mixed), read_frame(mixed))
    assert read == [(path, threading.current_thread()) for path in mixed]


@pytest.mark.parametrize(
    "make", [OriginalReader, lambda **given: FrameReader(ThreadScheduler(0), **given)]
)
def test_skipping_is_advised_only_to_those_who_can_choose_it(make, tmp_path):
    missing = tmp_path / "none.parquet"
    with pytest.raises(ParquetFileError, match=r"; repair or remove the file$"):
        make().load([missing])
    with pytest.raises(
        ParquetFileError, match=f"repair or remove the file, {SKIP_HINT}$"
    ) as caught:
        make(on_error="raise").load([missing])
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert str(copy) == str(caught.value)
    with pytest.raises(ParquetFileError, match=r"; repair or remove the file$"):
        read_frame([missing])
    reader = make(on_error="skip")
    assert reader.load([missing]).empty
    assert [error.path for error in reader.skipped] == [str(missing)]


def test_a_difference_is_warned_about_once_and_only_in_the_columns_asked_for(mixed):
    reader = FrameReader(ThreadScheduler(0))
    reader.load(mixed, ["a"])
    reader.load(mixed, [])
    with pytest.warns(FeedrateWarning, match=r"'b' is missing in .*0\.parquet but nested in .*1\."):
        reader.load(mixed)
    reader.load(mixed)


def test_of_many_files_the_first_of_each_kind_are_named():
    kinds = [pa.int64(), pa.null(), pa.int32(), pa.string(), pa.int64(), pa.bool_()]
    schemas = [
        pa.schema([("a", kind), ("b", pa.int8())], {"number": str(number)})
        for number, kind in enumerate(kinds)
    ]
    (found,) = differences([str(number) for number in range(6)], schemas)
    assert str(found) == "column 'a' is number in 0 but text in 3"
    assert differences(list("012"), schemas[:3]) == []
    assert differences(list("012345"), schemas, []) == []


@pytest.mark.parametrize("kind", ["none", "memory", "disk"])
def test_a_name_given_to_a_frames_columns_stays_its_own(tmp_path, kind):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "file.parquet")
    reader = FrameReader(ThreadScheduler(0), cache=make_cache(kind))
    for _ in range(3):
        frame = reader.load([tmp_path / "file.parquet"])
        assert frame.columns.name is None
        frame.columns.name = "mine"


def test_what_makes_pandas_read_files_is_named_with_its_column(tmp_path, mixed):
    reader = FrameReader(ThreadScheduler(0))
    reader.load(mixed, ["a"])
    assert not reader.by_pandas
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader.load(mixed)
    ((why, count),) = reader.by_pandas.items()
    assert count == 2
    assert why == (
        "column 'b' holds lists of lists of numbers (list<element: list<element: int64>>)"
    )
    indexed = tmp_path / "indexed.parquet"
    pd.DataFrame({"a": [1]}, index=["x"]).to_parquet(indexed)
    reader.load([indexed])
    assert reader.by_pandas["an index is stored"] == 1


def test_a_file_that_its_footer_does_not_betray_is_named_too(tmp_path):
    rows = [[number] for number in range(200)]
    rows[-1] = [None]
    path = tmp_path / "logs" / "logs_20250101.parquet"
    path.parent.mkdir()
    table = pa.table({"n": range(200), "c": pa.array(rows, pa.list_(pa.int64()))})
    pq.write_table(table, path, row_group_size=150)
    loader = OptimizedHistoricalDataLoader(ParquetStorage(tmp_path), profile=None)
    loader.load_files([path])
    assert "Read by pandas, one by one, and not cached: 1 file, since column 'c' has nulls in" in (
        loader.explain()
    )
