"""Caches give back what was put in while the file is the same, within their bounds, or nothing."""

import errno
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.cache import MemoryCache, keys_of, make_cache
from feedrate.loaders.disk_cache import STALE_SECONDS, DiskCache
from feedrate.loaders.errors import FeedrateWarning, InputError
from feedrate.loaders.frames import FrameReader
from feedrate.loaders.homes import cache_home
from feedrate.loaders.original import read_frame
from feedrate.loaders.reader import read_table
from feedrate.loaders.schedule import ThreadScheduler
from feedrate.loaders.settings import LoaderSettings

TABLES = {
    "numbers": {"a": [1, 2, None], "b": [0.5, None, -1.0]},
    "text": {"a": ["x", None, "é"], "b": [b"\0", b"", None]},
    "dates": {"a": pd.to_datetime(["2025-01-01", None]).tz_localize("UTC"), "b": [None, True]},
    "dictionary": {"a": pa.array(["x", "y", None, "x"]).dictionary_encode()},
    "lists": {"a": [[1, None], [], None], "b": [{"x": 1}, {"x": None}, None]},
    "views": {"a": pa.array(["x", None, "far more than twelve bytes"], pa.string_view())},
    "nulls": {"a": pa.nulls(2)},
    "no rows": {"a": pa.array([], pa.int64()), "b": pa.array([], pa.string())},
}


@pytest.fixture
def files(tmp_path):
    """Three files of 100 integers each, and their tables."""
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.parquet"))
        pq.write_table(pa.table({"a": range(100 * number, 100 * number + 100)}), paths[-1])
    return {path: read_table(path) for path in paths}


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path):
    return make_cache(request.param, tmp_path / "cache")


def segments(cache):
    return sorted(cache.folder.glob("*.arrow"))


def put(cache, files, *columns):
    cache.put(keys_of(list(files), list(columns) or None), files)


def got(cache, files, *columns):
    return cache.get(keys_of(list(files), list(columns) or None))


def test_a_setting_names_the_cache(tmp_path):
    assert make_cache("none") is None
    assert isinstance(make_cache("memory"), MemoryCache)
    assert isinstance(make_cache("disk", tmp_path), DiskCache)
    assert make_cache("disk").folder.is_relative_to(cache_home())
    assert cache_home() == Path(os.environ["FEEDRATE_HOME"], "cache")
    with pytest.raises(InputError, match=r"unknown cache 'disc'.*did you mean 'disk'"):
        LoaderSettings(cache="disc")


def test_what_is_put_in_comes_out_again(cache, files):
    assert got(cache, files) == {}
    put(cache, files)
    for _ in range(2):
        found = got(cache, files)
        assert list(found) == list(files)
        assert all(found[path].equals(table) for path, table in files.items())
    assert (cache.hits, cache.misses) == (6, 3)
    cache.clear()
    assert got(cache, files) == {}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_kind_come_out_as_they_went_in(cache, tmp_path, name):
    path = str(tmp_path / "file.parquet")
    table = pa.table(TABLES[name])
    pq.write_table(table.replace_schema_metadata({"é": b"\xff\0"}), path, row_group_size=2)
    table = read_table(path)
    put(cache, {path: table})
    if isinstance(cache, DiskCache):
        cache = DiskCache(cache.folder)
    again = got(cache, {path: table})[path]
    assert again.schema.equals(table.schema, check_metadata=True)
    assert again.to_pylist() == table.to_pylist()


def test_a_changed_file_is_unknown(cache, files):
    put(cache, files)
    first, second, third = files
    touched, longer = Path(first), Path(second)
    changed = touched.stat().st_mtime_ns + 1
    os.utime(first, ns=(changed, changed))
    before = longer.stat().st_mtime_ns
    longer.write_bytes(longer.read_bytes() + b"longer")
    os.utime(second, ns=(before, before))
    assert list(got(cache, files)) == [third]


def test_other_columns_of_a_known_file_are_unknown(cache, files):
    put(cache, files)
    assert got(cache, files, "a") == {}
    put(cache, files, "a")
    assert len(got(cache, files, "a")) == 3
    assert got(cache, files, "a", "b") == {}


def test_a_file_is_known_by_every_path_that_leads_to_it(cache, files, tmp_path, monkeypatch):
    put(cache, files)
    (tmp_path / "link.parquet").symlink_to(tmp_path / "1.parquet")
    monkeypatch.chdir(tmp_path)
    assert list(got(cache, ["0.parquet", "link.parquet"])) == ["0.parquet", "link.parquet"]


def test_a_file_that_is_missing_has_no_key(files, tmp_path):
    assert keys_of([str(tmp_path / "none.parquet")], None) == {}
    assert len(keys_of([*files, str(tmp_path / "none.parquet")], None)) == 3


def test_memory_holds_no_more_than_its_bound_and_forgets_the_least_recently_used(files):
    size = next(iter(files.values())).nbytes
    cache = MemoryCache(max_bytes=2 * size)
    first, second, third = files
    put(cache, {path: files[path] for path in (first, second)})
    got(cache, [first])
    put(cache, {third: files[third]})
    assert list(got(cache, files)) == [first, third]
    assert cache.held_bytes == 2 * size
    put(cache, files)  # the first two are known and stay the older ones
    assert cache.held_bytes <= 2 * size
    assert third in got(cache, files)
    cache.clear()
    assert cache.held_bytes == 0


def test_a_table_that_memory_cannot_hold_drives_nothing_out(files, tmp_path):
    cache = MemoryCache(max_bytes=2 * next(iter(files.values())).nbytes)
    first, second, _ = files
    put(cache, {path: files[path] for path in (first, second)})
    large = str(tmp_path / "large.parquet")
    pq.write_table(pa.table({"a": range(10_000)}), large)
    put(cache, {large: read_table(large)})
    assert list(got(cache, [first, second, large])) == [first, second]


def test_memory_is_bounded_by_default():
    assert MemoryCache().max_bytes > 0


def test_a_pickled_memory_cache_starts_empty(files):
    cache = MemoryCache(max_bytes=10_000)
    put(cache, files)
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301 - our own
    assert copy.max_bytes == 10_000
    assert got(copy, files) == {}
    assert len(got(cache, files)) == 3


def test_a_pickled_disk_cache_finds_what_is_on_disk(files, tmp_path):
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 20)
    put(cache, files)
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301 - our own
    assert copy.max_bytes == 1 << 20
    assert len(got(copy, files)) == 3


def test_threads_may_share_a_cache(cache, files):
    errors = []

    def work():
        try:
            for _ in range(20):
                put(cache, files)
                for path, table in got(cache, files).items():
                    assert table.equals(files[path])
        except Exception as error:  # noqa: BLE001 - the test's own thread tells
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_instances_share_what_is_on_disk_also_when_it_comes_later(files, tmp_path):
    one, other = DiskCache(tmp_path / "cache"), DiskCache(tmp_path / "cache")
    assert got(other, files) == {}
    put(one, files)
    assert len(got(other, files)) == 3
    one.clear()
    assert segments(one) == []
    assert got(DiskCache(tmp_path / "cache"), files) == {}


def test_processes_share_what_is_on_disk(files):
    reader = FrameReader(ThreadScheduler(0), cache=make_cache("disk"))
    expected = reader.load(files)
    code = (
        "import sys\n"
        "from feedrate.loaders.cache import make_cache\n"
        "from feedrate.loaders.frames import FrameReader\n"
        "from feedrate.loaders.schedule import ThreadScheduler\n"
        "reader = FrameReader(ThreadScheduler(0), cache=make_cache('disk'))\n"
        "frame = reader.load(sys.argv[1:])\n"
        "print(reader.cache.hits, reader.cache.misses, int(frame['a'].sum()))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["3", "0", str(expected["a"].sum())]


def test_files_of_any_schemas_share_a_segment(files, tmp_path):
    cache = DiskCache(tmp_path / "cache")
    for name, content in TABLES.items():
        path = str(tmp_path / f"{name}.parquet")
        pq.write_table(pa.table(content), path)
        files[path] = read_table(path)
    put(cache, files)
    assert len(segments(cache)) == 1
    found = got(cache, files)
    assert {path: found[path].to_pylist() for path in files} == {
        path: table.to_pylist() for path, table in files.items()
    }


def test_files_that_pandas_reads_itself_are_not_kept(cache, tmp_path, assert_same):
    frame = pd.DataFrame({"a": [[1], None]})
    path = tmp_path / "lists.parquet"
    frame.to_parquet(path)
    reader = FrameReader(ThreadScheduler(0), cache=cache)
    for _ in range(2):
        assert_same(reader.load([path, path]), read_frame([path, path]))
    assert got(cache, [str(path)]) == {}
    assert cache.hits == 0


def test_with_too_many_files_open_segments_are_left_and_found_later(
    files, tmp_path, monkeypatch, caplog
):
    DiskCache(tmp_path / "cache").put(keys_of(list(files), None), files)
    cache = DiskCache(tmp_path / "cache")

    def full(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", full)
        assert got(cache, files) == {}
    with monkeypatch.context() as patch:
        patch.setattr(pa, "memory_map", full)
        assert got(cache, files) == {}
        assert got(cache, files) == {}
    assert len(got(cache, files)) == 3
    assert (cache.hits, cache.misses) == (3, 9)
    assert "dropped" not in caplog.text


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc here")
def test_tables_on_disk_hold_no_file_open(files, tmp_path):
    cache = DiskCache(tmp_path / "cache")
    for path, table in files.items():
        put(cache, {path: table})
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = got(cache, files)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    cache.clear()
    assert all(found[path].equals(table) for path, table in files.items())


def test_dictionaries_that_differ_are_all_kept(cache, tmp_path):
    tables = {}
    for words in ("xy", "yz", "x"):
        path = str(tmp_path / f"{words}.parquet")
        pq.write_table(pa.table({"a": pa.array(list(words)).dictionary_encode()}), path)
        tables[path] = read_table(path)
    put(cache, tables)
    found = got(cache, tables)
    assert [found[path]["a"].to_pylist() for path in tables] == [["x", "y"], ["y", "z"], ["x"]]


def test_tables_without_columns_are_not_kept_on_disk(files, tmp_path):
    cache = DiskCache(tmp_path / "cache")
    put(cache, {path: table.select([]) for path, table in files.items()})
    assert segments(cache) == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def overwrite(path):
    path.write_bytes(b"\0" * path.stat().st_size)


def leave_entries(path, **changes):
    segment = json.loads(path.read_bytes())
    segment["entries"] = [{**entry, **changes} for entry in segment["entries"]]
    path.write_text(json.dumps(segment))


DAMAGES = {
    "the data are cut": (".arrow", cut),
    "the data are overwritten": (".arrow", overwrite),
    "the data are gone": (".arrow", Path.unlink),
    "the JSON is cut": (".json", cut),
    "the JSON is overwritten": (".json", overwrite),
    "the JSON is of another shape": (".json", lambda path: path.write_text('{"entries": 7}')),
    "the JSON names bytes beyond the end": (
        ".json",
        lambda path: leave_entries(path, offset=1 << 40),
    ),
    "the JSON names bytes before the start": (".json", lambda path: leave_entries(path, offset=-8)),
    "the JSON names bytes between streams": (".json", lambda path: leave_entries(path, offset=8)),
    "the JSON names too few bytes": (".json", lambda path: leave_entries(path, length=500)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_segment_is_dropped_told_about_and_made_again(files, tmp_path, damage, caplog):
    folder = tmp_path / "cache"
    expected = FrameReader(ThreadScheduler(0), cache=DiskCache(folder)).load(files)
    (segment,) = segments(DiskCache(folder))
    suffix, spoil = DAMAGES[damage]
    spoil(segment.with_suffix(suffix))
    for hits in (0, 3):
        cache = DiskCache(folder)
        frame = FrameReader(ThreadScheduler(0), cache=cache).load(files)
        pd.testing.assert_frame_equal(frame, expected)
        assert cache.hits == hits
    assert segment not in segments(cache)
    assert len(segments(cache)) == 1
    assert f"dropped cache segment {segment.stem}" in caplog.text


def test_a_segment_that_another_process_removed_is_read_again(files, tmp_path):
    cache = DiskCache(tmp_path / "cache")
    put(cache, files)
    other = DiskCache(tmp_path / "cache")
    other.get(keys_of(list(files), None))
    cache.clear()
    assert got(DiskCache(tmp_path / "cache"), files) == {}
    reader = FrameReader(ThreadScheduler(0), cache=other)
    assert len(reader.load(files)) == 300


def test_data_without_their_json_do_not_count(files, tmp_path):
    cache = DiskCache(tmp_path / "cache")
    put(cache, files)
    segments(cache)[0].with_suffix(".json").unlink()
    assert got(DiskCache(cache.folder), files) == {}


def test_files_of_others_in_the_folder_are_left_alone(files, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    others = {"feedrate.profile.json": "{}", "table.arrow": "ours", "notes.json": "not JSON"}
    for name, text in others.items():
        (folder / name).write_text(text)
    cache = DiskCache(folder, max_bytes=0)
    put(cache, files)
    assert got(cache, files) == {}
    cache.clear()
    assert {path.name: path.read_text() for path in folder.iterdir()} == others


def test_beyond_its_bound_the_oldest_segments_go(files, tmp_path):
    cache = DiskCache(tmp_path / "cache")
    for age, path in enumerate(files):
        known = set(segments(cache))
        put(cache, {path: files[path]})
        (new,) = set(segments(cache)) - known
        os.utime(new, (1_000_000 + age, 1_000_000 + age))
    size = max(path.stat().st_size for path in segments(cache))
    bounded = DiskCache(cache.folder, max_bytes=2 * size)
    bounded.put({}, {})
    assert list(got(bounded, files)) == list(files)[1:]
    assert sum(path.stat().st_size for path in segments(cache)) <= 2 * size
    assert len(list(cache.folder.glob("*.json"))) == 2


def test_no_temporary_file_is_left_and_those_of_dead_writers_go(files, tmp_path):
    cache = DiskCache(tmp_path / "cache")
    put(cache, files)
    dead, alive = cache.folder / ".dead.tmp", cache.folder / ".alive.tmp"
    for path in (dead, alive):
        path.touch()
    long_ago = dead.stat().st_mtime - 2 * STALE_SECONDS
    os.utime(dead, (long_ago, long_ago))
    put(cache, files, "a")
    assert list(cache.folder.glob(".*")) == [alive]


def test_data_whose_writer_died_before_the_json_go_when_they_are_old(files, tmp_path):
    cache = DiskCache(tmp_path / "cache")
    for path, table in files.items():
        put(cache, {path: table})
    dead, alive, kept = segments(cache)
    for path in (dead, alive):
        path.with_suffix(".json").unlink()
    for path in (dead, kept):
        long_ago = path.stat().st_mtime - 2 * STALE_SECONDS
        os.utime(path, (long_ago, long_ago))
    cache.put({}, {})
    assert segments(cache) == [alive, kept]
    cache.clear()
    assert list(cache.folder.iterdir()) == []


def test_a_write_that_fails_leaves_nothing_and_costs_a_warning(files, tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "cache")
    reader = FrameReader(ThreadScheduler(0), cache=cache)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(FeedrateWarning, match=r"nothing more is cached in .*cache: No space left"):
        assert len(reader.load(files)) == 300
    assert list(cache.folder.iterdir()) == []


def test_a_cut_between_data_and_json_leaves_no_segment_that_counts(files, tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "cache")
    replace = Path.replace

    def stop_at_json(path, target):
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stop_at_json)
    with pytest.raises(KeyboardInterrupt):
        put(cache, files)
    monkeypatch.undo()
    assert got(DiskCache(cache.folder), files) == {}
    assert list(cache.folder.glob(".*")) == []


@pytest.mark.parametrize("above", ["", "deeper"])
def test_a_folder_that_is_a_file_costs_a_warning_and_the_load_goes_on(files, tmp_path, above):
    (tmp_path / "cache").write_text("in the way")
    reader = FrameReader(ThreadScheduler(0), cache=DiskCache(tmp_path / "cache" / above))
    for _ in range(2):
        with pytest.warns(FeedrateWarning, match=r"nothing more is cached in .*FEEDRATE_HOME"):
            assert len(reader.load(files)) == 300
    assert (tmp_path / "cache").read_text() == "in the way"


def test_the_cache_folder_is_for_its_owner_only(files, tmp_path):
    cache = DiskCache(tmp_path / "cache")
    put(cache, files)
    assert cache.folder.stat().st_mode & 0o077 == 0
