"""Caches give back what files hold while these are the same, within their bounds, or nothing."""

import errno
import os
import pickle
import threading
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate import loaders
from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage
from feedrate.loaders.base.errors import FeedrateWarning, InputError, ParquetFileError
from feedrate.loaders.base.homes import cache_home
from feedrate.loaders.base.schedule import ThreadScheduler
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.caching import disk_segment, memory, views
from feedrate.loaders.caching.base import Form, keys_of
from feedrate.loaders.caching.disk import DiskCache
from feedrate.loaders.caching.memory import MemoryCache
from feedrate.loaders.caching.tiers import make_cache
from feedrate.loaders.frames import parts
from feedrate.loaders.frames.reader import FrameReader
from feedrate.loaders.parquet.footers import Footers
from feedrate.loaders.parquet.original import read_file, read_frame

FILE_BYTES = 800  # what one of the files holds

TABLES = {
    "numbers": {"a": [1, 2, None], "b": [0.5, None, -1.0]},
    "text": {"a": ["x", None, "é"], "b": [b"\0", b"", None]},
    "times": {"a": pd.to_datetime(["2025-01-01", None]).tz_localize("UTC"), "b": [None, True]},
    "days": {"a": pa.array([0, None, -9], pa.date32()), "b": pa.array([0, None, 9], "date64")},
    "decimals": {"a": pa.array([1, None, -7], pa.decimal128(10, 2))},
    "dictionary": {"a": pa.array(["x", "y", None, "x"]).dictionary_encode()},
    "lists": {"a": [[1, 2], [], None], "b": [{"x": 1.5}, {"x": None}, None]},
    "lists with nulls": {"a": [[1, None], [], None], "b": [{"x": 1}, {"x": None}, None]},
    "lists of lists": {"a": [[[1], []], [], None]},
    "views": {"a": pa.array(["x", None, "far more than twelve bytes"], pa.string_view())},
    "nulls": {"a": pa.nulls(2)},
    "no rows": {"a": pa.array([], pa.int64()), "b": pa.array([], pa.string())},
}
BY_PANDAS = {"lists with nulls", "lists of lists"}  # never kept; here they have row groups


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path):
    return make_cache(request.param, tmp_path / "cache")


def known(cache, paths, columns=None, dtype_backend="numpy"):
    wanted = None if columns is None else tuple(columns)
    return list(cache.find(Form(wanted, dtype_backend), paths)[1])


def held_bytes(cache):
    return sum(unit.bytes for unit in cache.units.values())


def test_a_setting_names_the_cache(tmp_path):
    assert make_cache("none") is None
    assert isinstance(make_cache("memory"), MemoryCache)
    assert isinstance(make_cache("disk", tmp_path), DiskCache)
    assert make_cache("disk").folder.is_relative_to(cache_home())
    assert cache_home() == Path(os.environ["FEEDRATE_HOME"], "cache")
    with pytest.raises(InputError, match=r"unknown cache 'disc'.*did you mean 'disk'"):
        LoaderSettings(cache="disc")


def test_what_was_loaded_is_known_until_it_is_forgotten(cache, files, load, assert_same):
    assert known(cache, files) == []
    assert (cache.hits, cache.misses) == (0, 3)
    for hits, misses in ((0, 6), (3, 6)):
        assert_same(load(cache, files), read_frame(files))
        assert (cache.hits, cache.misses) == (hits, misses)
    assert known(cache, files) == files
    cache.clear()
    assert known(cache, files) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_kind_come_out_as_the_original_has_them(
    cache, tmp_path, name, workers, load, assert_same
):
    table = pa.table(TABLES[name]).replace_schema_metadata({"é": b"\xff\0"})
    paths = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    for path in paths:
        pq.write_table(table, path, row_group_size=2)
    kept = [] if name in BY_PANDAS else paths
    for _ in range(2):
        assert_same(load(cache, paths, workers=workers), read_frame(paths))
        assert_same(load(cache, paths[:1], workers=workers), read_frame(paths[:1]))
    assert known(cache, paths) == kept
    if isinstance(cache, DiskCache):
        again = DiskCache(cache.folder)
        assert_same(load(again, paths), read_frame(paths))
        assert again.hits == len(kept)


@pytest.mark.parametrize("name", TABLES)
def test_frames_backed_by_arrow_and_by_numpy_do_not_mix(cache, tmp_path, name, load):
    path = str(tmp_path / "file.parquet")
    pq.write_table(pa.table(TABLES[name]), path)
    expected = {kind: read_file(path, None, kind).dtypes for kind in ("numpy", "pyarrow")}
    for kind in ("numpy", "pyarrow", "numpy", "pyarrow"):
        assert list(load(cache, [path], dtype_backend=kind).dtypes) == list(expected[kind])


def test_each_backend_of_frames_has_files_of_its_own(cache, files, load):
    load(cache, files, dtype_backend="pyarrow")
    assert known(cache, files) == []
    assert known(cache, files, dtype_backend="pyarrow") == files


def test_a_changed_file_is_unknown_and_read_anew(cache, files, load):
    load(cache, files)
    first, second, third = files
    touched, longer = Path(first), Path(second)
    changed = touched.stat().st_mtime_ns + 1
    os.utime(first, ns=(changed, changed))
    before = longer.stat().st_mtime_ns
    pq.write_table(pa.table({"a": [7] * 200}), longer)
    os.utime(second, ns=(before, before))
    assert known(cache, files) == [third]
    assert load(cache, [second])["a"].tolist() == [7] * 200
    assert load(cache, files)["a"].tolist() == [*range(100), *[7] * 200, *range(200, 300)]


def test_other_columns_of_a_known_file_are_unknown(cache, files, load):
    load(cache, files)
    assert known(cache, files, ["a"]) == []
    load(cache, files, ["a"])
    assert known(cache, files, ["a"]) == files
    assert known(cache, files, ["a", "b"]) == []


def test_a_file_is_known_by_every_folder_that_leads_to_it(
    cache, files, tmp_path, monkeypatch, load
):
    load(cache, files)
    (tmp_path / "folder").symlink_to(tmp_path)
    through = [str(tmp_path / "folder" / Path(path).name) for path in files]
    assert known(cache, through) == through
    monkeypatch.chdir(tmp_path)
    near = ["0.parquet", "./1.parquet", f"../{tmp_path.name}/2.parquet"]
    assert known(cache, near) == near
    Path("link.parquet").symlink_to("1.parquet")
    assert known(cache, ["link.parquet"]) == []
    assert load(cache, ["link.parquet"])["a"].tolist() == list(range(100, 200))


def test_a_file_that_is_missing_has_no_key(files, tmp_path):
    assert keys_of([str(tmp_path / "none.parquet")]) == {}
    assert len(keys_of([*files, str(tmp_path / "none.parquet")])) == 3


def test_a_wider_range_reads_only_what_is_new(cache, files, load, monkeypatch):
    read = []

    def note(self, path, real=Footers.read, **options):
        read.append(path)
        return real(self, path, **options)

    monkeypatch.setattr(Footers, "read", note)
    load(cache, files[1:2])
    assert load(cache, files)["a"].tolist() == list(range(300))
    assert read == [files[1], files[0], files[2]]
    assert load(cache, files[::-1])["a"].iloc[0] == 200
    assert load(cache, [files[0]] * 3)["a"].sum() == 3 * sum(range(100))
    assert len(read) == 3


def test_windows_that_slide_over_segments_are_right(tmp_path, assert_same, load):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(24)]
    for number, path in enumerate(paths):
        rows = range(10 * number, 10 * number + number % 4)
        nulls = pa.array([None if number % 5 == 4 else row for row in rows], "int64")
        columns = [rows, [row / 7 for row in rows], list(map(str, rows)), nulls]
        arrays = map(pa.array, columns, ("int64", "float64", "string", "int64"))
        pq.write_table(pa.table(list(arrays), names=list("abcd")), path)
    for max_bytes in (0, 64, 400, 900, 1600, 1 << 20):
        cache = MemoryCache(max_bytes)
        for start in (0, 1, 2, 5, 11, 16, 3, 0):
            window = paths[start : start + 8]
            assert_same(load(cache, window, workers=start % 3), read_frame(window))
            assert held_bytes(cache) <= max_bytes
        assert_same(load(cache, paths), read_frame(paths))
    assert known(cache, paths) == paths
    assert len(cache.units) == 1


def test_memory_holds_no_more_than_its_bound_and_forgets_the_least_recently_used(files, load):
    cache = MemoryCache(max_bytes=2 * FILE_BYTES)
    first, second, third = files
    load(cache, [first])
    load(cache, [second])
    load(cache, [first])
    load(cache, [third])
    assert known(cache, files) == [first, third]
    assert held_bytes(cache) == 2 * FILE_BYTES
    load(cache, files)
    assert held_bytes(cache) <= 2 * FILE_BYTES
    assert known(cache, [second]) == [second]
    cache.clear()
    assert held_bytes(cache) == 0


@pytest.mark.parametrize("dtype_backend", ["numpy", "pyarrow"])
@pytest.mark.parametrize("cell", [1.5, "text of about twenty", None])
def test_memory_forgets_a_load_at_a_time_whatever_the_files_hold(
    tmp_path, load, dtype_backend, cell
):
    paths = [str(tmp_path / f"{number:02}.parquet") for number in range(40)]
    for path in paths:
        pq.write_table(pa.table({"a": range(1000), "b": [cell] * 1000}), path)
    probe = MemoryCache()
    load(probe, paths[:1], dtype_backend=dtype_backend)
    size = held_bytes(probe)
    assert size > 8000
    cache = MemoryCache(20 * size)
    for number, path in enumerate(paths):
        load(cache, [path], dtype_backend=dtype_backend)
        assert known(cache, paths, None, dtype_backend) == paths[max(0, number - 19) : number + 1]
        assert held_bytes(cache) <= cache.max_bytes


def test_a_file_that_memory_cannot_hold_drives_nothing_out(files, tmp_path, load):
    cache = MemoryCache(max_bytes=2 * FILE_BYTES)
    large, text = str(tmp_path / "large.parquet"), str(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": range(10_000)}), large)
    pq.write_table(pa.table({"a": ["far more than twelve bytes"] * 10_000}), text)
    load(cache, files[:1])
    load(cache, files[1:2])
    assert len(load(cache, [large])) == 10_000
    assert len(load(cache, [text])) == 10_000
    assert known(cache, [*files, large, text]) == files[:2]


def test_loads_that_fail_take_no_room(files, tmp_path, load):
    damaged = tmp_path / "damaged.parquet"
    options = {"compression": "none", "use_dictionary": False}
    pq.write_table(pa.table({"a": range(1000)}), damaged, **options)
    content = bytearray(damaged.read_bytes())
    content[4:60] = b"\xff" * 56
    damaged.write_bytes(content)
    cache = MemoryCache(max_bytes=20_000)
    for _ in range(20):
        with pytest.raises(ParquetFileError):
            load(cache, [*files, str(damaged)])
    assert held_bytes(cache) <= cache.max_bytes
    load(cache, files)
    assert known(cache, files) == files


def test_memory_is_bounded_by_default():
    assert MemoryCache().max_bytes > 0


def test_a_pickled_memory_cache_starts_empty(files, load):
    cache = MemoryCache(max_bytes=10_000)
    load(cache, files)
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301 - our own
    assert copy.max_bytes == 10_000
    assert known(copy, files) == []
    assert known(cache, files) == files


def test_a_pickled_disk_cache_finds_what_is_on_disk(files, tmp_path, load):
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 20)
    load(cache, files)
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301 - our own
    assert copy.max_bytes == 1 << 20
    assert known(copy, files) == files


def test_threads_may_share_a_cache(cache, files, load):
    errors = []

    def work(number):
        try:
            for step in range(20):
                chosen = files[(number + step) % 3 :]
                start = 100 * ((number + step) % 3)
                frame = load(cache, chosen, workers=number % 2 * 2)
                assert frame["a"].tolist() == list(range(start, 300))
                frame.loc[:, "a"] = -1
        except Exception as error:  # noqa: BLE001 - the test's own thread tells
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_files_that_pandas_reads_itself_are_not_kept(cache, tmp_path, assert_same):
    frame = pd.DataFrame({"a": [[[1]], None]})
    path = str(tmp_path / "lists.parquet")
    frame.to_parquet(path)
    reader = FrameReader(ThreadScheduler(0), cache=cache)
    for _ in range(2):
        assert_same(reader.load([path, path]), read_frame([path, path]))
    assert known(cache, [path]) == []
    assert cache.hits == 0


def test_dictionaries_that_differ_are_all_kept(cache, tmp_path, load, assert_same):
    paths = [str(tmp_path / f"{words}.parquet") for words in ("xy", "yz", "x")]
    for path in paths:
        words = pa.array(list(Path(path).stem)).dictionary_encode()
        pq.write_table(pa.table({"a": words}), path)
    for _ in range(2):
        assert_same(load(cache, paths), read_frame(paths))
        for path in paths:
            assert_same(load(cache, [path]), read_frame([path]))
    assert known(cache, paths) == paths


def _full(*_):
    raise OSError(errno.EMFILE, "Too many open files")


def test_where_mappings_or_descriptors_run_out_files_are_read_again(
    tmp_path, files, load, assert_same, monkeypatch
):
    cache = make_cache("disk", tmp_path / "cache")
    expected = read_frame(files)
    load(cache, files[:1])
    with monkeypatch.context() as patch:
        patch.setattr(disk_segment, "map_file", _full)
        with pytest.warns(FeedrateWarning, match="Too many open files"):
            assert_same(load(cache, files), expected)
        assert_same(load(cache, files), expected)
    assert_same(load(cache, files), expected)
    assert known(cache, files) == files


def test_a_part_that_a_worker_leaves_unfinished_is_not_known(cache, files, load, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parts, "decode_with_arrow", stop)
        with pytest.raises(KeyboardInterrupt):
            load(cache, files)
    assert known(cache, files) == []
    assert load(cache, files)["a"].tolist() == list(range(300))


def test_a_file_that_two_threads_decoded_is_forgotten_without_a_trace(files, load):
    cache, other = MemoryCache(), MemoryCache()
    load(cache, files)
    load(other, files[:1])
    form = Form(None)
    cache.keep(form, *other.find(form, files), files[:1])
    assert known(cache, files) == files
    cache.max_bytes = 0
    cache.keep(form, *other.find(form, files), files[:1])
    assert known(cache, files) == []
    assert held_bytes(cache) == 0
    assert cache.units == {}


def test_of_many_small_loads_the_latest_are_known(tmp_path, load, assert_same, monkeypatch):
    monkeypatch.setattr(memory, "MOST_UNITS", 64)
    paths = [str(tmp_path / f"{number}.parquet") for number in range(84)]
    for number, path in enumerate(paths):
        pd.DataFrame({f"column {number}": [number]}).to_parquet(path)
    cache = MemoryCache()
    for path in paths:
        load(cache, [path])
    assert known(cache, paths) == paths[20:]
    assert_same(load(cache, paths[-1:]), read_frame(paths[-1:]))


def test_one_bound_holds_for_all_caches_of_a_process(files, load, monkeypatch):
    monkeypatch.setattr(memory, "_caches", weakref.WeakSet())  # without those of other tests
    first, second = MemoryCache(3 * FILE_BYTES), MemoryCache(3 * FILE_BYTES)
    for path in files:
        load(first, [path])
    load(second, files[:2])
    assert known(first, files) == files[2:]
    assert held_bytes(first) + held_bytes(second) <= 3 * FILE_BYTES
    del first
    load(second, files[2:])
    assert known(second, files) == files


def test_the_bound_is_divided_among_the_ranks_of_a_machine(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = MemoryCache().max_bytes
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert MemoryCache().max_bytes == alone // 8


def test_a_user_may_set_the_size_of_caches(monkeypatch, tmp_path, files):
    storage = ParquetStorage(tmp_path)
    monkeypatch.setenv("FEEDRATE_CACHE_BYTES", " 2400 ")
    assert MemoryCache().max_bytes == DiskCache(tmp_path / "cache").max_bytes == 2400
    settings = LoaderSettings(cache_bytes=1600)
    with OptimizedHistoricalDataLoader(storage, "original", settings=settings) as loader:
        assert loader.settings.cache_bytes is None  # the original keeps nothing
    loader = OptimizedHistoricalDataLoader(
        storage, settings=LoaderSettings(backend="auto", cache_bytes=1600), profile=None
    )
    for path in files:
        loader.load_files([path])
    loader.load_files(files[1:])
    assert loader.stats()["cache_hits"] == 2
    assert loader.load_files(files[:1])["a"].tolist() == list(range(100))
    assert loader.stats()["cache_misses"] == 4
    for value, size in (("2 GiB", 2 << 30), ("3kb", 3000), ("0", 0), ("1.5 KiB", 1536)):
        monkeypatch.setenv("FEEDRATE_CACHE_BYTES", value)
        assert MemoryCache().max_bytes == size
    for value in ("1 GBs", "-1", "1e9", "GiB"):
        monkeypatch.setenv("FEEDRATE_CACHE_BYTES", value)
        with pytest.raises(InputError, match=r"FEEDRATE_CACHE_BYTES is .* write it like"):
            make_cache("memory")
    with pytest.raises(InputError, match=r"cache_bytes is -1; it must be an integer"):
        LoaderSettings(cache_bytes=-1)


def test_a_loader_gives_its_memory_back_and_begins_anew(tmp_path, files):
    storage = ParquetStorage(tmp_path)
    with OptimizedHistoricalDataLoader(storage, profile=None) as loader:
        frame = loader.load_files(files)
        loader.load_files(files)
        assert loader.stats()["cache_hits"] == 3
        loader.clear_cache()
        loader.load_files(files)
        assert loader.stats()["cache_hits"] == 3
        (cache,) = loader._jobs.caches()
    assert held_bytes(cache) == 0
    assert frame["a"].tolist() == loader.load_files(files)["a"].tolist() == list(range(300))
    assert loader.stats()["cache_misses"] == 3  # since it was closed


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read_anew(
    cache, files, tmp_path, load
):
    path, new = Path(files[0]), tmp_path / "new"
    plain = {"compression": "none", "use_dictionary": False}
    pq.write_table(pa.table({"a": range(100)}), path, **plain)
    pq.write_table(pa.table({"a": range(99, -1, -1)}), new, **plain)
    load(cache, files)
    before = path.stat()
    assert new.stat().st_size == before.st_size
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)
    assert load(cache, files[:1])["a"].tolist() == list(range(99, -1, -1))


def test_windows_that_grow_stay_views_of_one_segment(tmp_path, load, assert_same, monkeypatch):
    monkeypatch.setattr(views, "COPIED_BYTES", 0)
    paths = [str(tmp_path / f"{number:02}.parquet") for number in range(30)]
    for number, path in enumerate(paths):
        flags = [None, True] if number % 7 == 3 else [False, True]
        cells = {"a": [number, -number], "b": [0.5, None], "c": ["x", str(number)], "d": flags}
        pq.write_table(pa.table({**cells, "e": pa.array([number, None], pa.date32())}), path)
    cache, frames, moves = MemoryCache(), [], 0
    load(cache, paths[:10])
    for day in range(10, 30):
        frames.append(load(cache, paths[day - 10 : day + 1]))
        assert_same(frames[-1], read_frame(paths[day - 10 : day + 1]))
        if len(frames) > 1:
            pair = [frame["b"].to_numpy() for frame in frames[-2:]]
            moves += not np.shares_memory(*pair)
    assert moves <= 4
    assert cache.hits == 200
    for day, frame in enumerate(frames, 10):
        assert_same(frame, read_frame(paths[day - 10 : day + 1]))


def test_files_of_a_dictionary_each_are_kept_apart(tmp_path, load, assert_same):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    for path, words in zip(paths, ("ab", "bc", "ab"), strict=True):
        pd.DataFrame({"a": pd.Categorical(list(words)), "b": range(2)}).to_parquet(path)
    cache = MemoryCache()
    for chosen in (paths[:1], paths[:2], paths, paths[::2], paths[::-1]):
        for backend in ("numpy", "pyarrow"):
            got = load(cache, chosen, dtype_backend=backend)
            if backend == "numpy":
                assert_same(got, read_frame(chosen))


def test_what_pandas_reads_itself_is_kept_where_its_cells_cannot_change(
    cache, tmp_path, assert_same, load
):
    path = str(tmp_path / "indexed.parquet")
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", None]}, index=pd.Index([3, 4], name="i"))
    frame.to_parquet(path)
    for _ in range(3):
        got = load(cache, [path])
        assert_same(got, read_frame([path]))
        got.loc[:, "a"] = 7.0
        got.iloc[0, 1] = "mine"
    assert known(cache, [path]) == ([path] if isinstance(cache, MemoryCache) else [])


@pytest.mark.parametrize("name", ["PyTorchDataLoader", "TensorFlowDataLoader"])
def test_loaders_of_a_framework_give_their_cache_back(name, files, tmp_path, monkeypatch):
    pytest.importorskip({"P": "torch", "T": "tensorflow"}[name[0]])
    monkeypatch.setenv("FEEDRATE_HOME", str(tmp_path / "home"))
    loads = {"P": "load_parquet_files_parallel", "T": "load_parquet_to_dataframe_parallel"}
    for kind, left in (("memory", 0), ("disk", 3)):
        settings = LoaderSettings(cache=kind)
        with getattr(loaders, name).from_settings(settings) as loader:
            for _ in range(2):
                assert len(getattr(loader, loads[name[0]])(files)) == 300
            assert loader._cache.hits == 3
        assert len(known(loader._cache, files)) == left
        loader.clear_cache()
