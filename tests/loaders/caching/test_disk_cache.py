"""What is on disk is shared, whole, bounded and its owner's own; what is damaged is never used."""

import errno
import fcntl
import logging
import os
import re
import subprocess
import sys
import textwrap
import warnings
import zlib
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders import OptimizedHistoricalDataLoader, ParquetStorage
from feedrate.loaders.base.errors import DocumentError, FeedrateWarning, StorageError
from feedrate.loaders.caching import disk_folder, disk_segment
from feedrate.loaders.caching.base import Form
from feedrate.loaders.caching.disk import DiskCache
from feedrate.loaders.caching.disk_segment import (
    DamagedError,
    decode_index,
    encode_index,
)
from feedrate.loaders.caching.tiers import make_cache
from feedrate.loaders.choosing.profile import BESIDE_DATA
from feedrate.loaders.parquet.original import read_frame

BLOCK = 8 << 10
KINDS = {
    "numbers": {"a": [1, 2, None], "b": [0.5, None, -1.0]},
    "text": {"a": ["x", None, "é"], "b": [b"\0", b"", None]},
    "times": {"a": pd.to_datetime(["2025-01-01", None]).tz_localize("UTC"), "b": [None, True]},
    "dictionary": {"a": pa.array(["x", "y", None, "x"]).dictionary_encode()},
    "nulls": {"a": pa.nulls(2)},
    "no rows": {"a": pa.array([], pa.int64()), "b": pa.array([], pa.string())},
}


@pytest.fixture
def cache(tmp_path):
    return DiskCache(tmp_path / "cache")


def segments(cache):
    return sorted(cache.folder.glob("*.arrow"))


def known(cache, paths, columns=None):
    wanted = None if columns is None else tuple(columns)
    return list(cache.find(Form(wanted), paths)[1])


def load_each(load, cache, paths):
    """A segment for each file; the segments, in the files' order."""
    made = []
    for path in paths:
        before = set(segments(cache))
        load(cache, [path])
        made += set(segments(cache)) - before
    return made


def test_instances_share_what_is_on_disk_also_when_it_comes_later(cache, files, load):
    other = DiskCache(cache.folder)
    assert known(other, files) == []
    load(cache, files)
    assert known(other, files) == files
    cache.clear()
    assert segments(cache) == []
    assert known(DiskCache(cache.folder), files) == []


def test_processes_share_what_is_on_disk(files, load):
    expected = load(make_cache("disk"), files)
    code = (
        "import sys\n"
        "from feedrate.loaders.caching.tiers import make_cache\n"
        "from feedrate.loaders.frames.reader import FrameReader\n"
        "from feedrate.loaders.base.schedule import ThreadScheduler\n"
        "reader = FrameReader(ThreadScheduler(0), cache=make_cache('disk'))\n"
        "frame = reader.load(sys.argv[1:])\n"
        "print(reader.cache.hits, reader.cache.misses, int(frame['a'].sum()))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["3", "0", str(expected["a"].sum())]


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
def test_files_of_any_schemas_share_a_segment(cache, files, tmp_path, load, assert_same):
    for name, content in KINDS.items():
        files.append(str(tmp_path / f"{name}.parquet"))
        pq.write_table(pa.table(content), files[-1])
    assert_same(load(cache, files), read_frame(files))
    assert len(segments(cache)) == 1
    again = DiskCache(cache.folder)
    assert known(again, files) == files
    for path in files:
        assert_same(load(again, [path]), read_frame([path]))
    assert_same(load(again, files), read_frame(files))


def test_integers_are_kept_whether_or_not_other_files_have_nulls(
    cache, tmp_path, load, assert_same
):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(4)]
    for path, cells in zip(paths, ([2**60, 1], [None, 2**60 + 1], [5], [None]), strict=True):
        flags = [None if cell is None else cell > 4 for cell in cells]
        pq.write_table(pa.table({"a": pa.array(cells, "int64"), "b": flags}), path)
    for _ in range(2):
        for chosen in (paths, paths[:1], paths[1:2], paths[::2], paths[1:3]):
            assert_same(load(cache, chosen), read_frame(chosen))
        cache = DiskCache(cache.folder)
    assert len(segments(cache)) == 1


def _full(*_):
    raise OSError(errno.EMFILE, "Too many open files")


def test_with_too_many_files_open_segments_are_left_and_found_later(
    cache, files, monkeypatch, caplog, load
):
    load(cache, files)
    cache = DiskCache(cache.folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", _full)
        assert known(cache, files) == []
    with monkeypatch.context() as patch:
        patch.setattr(disk_segment, "map_file", _full)
        assert known(cache, files) == []
        assert known(cache, files) == []
    assert known(cache, files) == files
    assert (cache.hits, cache.misses) == (3, 9)
    assert "dropped" not in caplog.text


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc here")
def test_segments_and_frames_hold_no_file_open(cache, files, load):
    load_each(load, cache, files)
    before = len(list(Path("/proc/self/fd").iterdir()))
    frame = load(cache, files)
    assert cache.hits == 3
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    cache.clear()
    assert frame["a"].tolist() == list(range(300))


def test_files_without_the_columns_asked_for_are_not_kept(cache, files, tmp_path, load):
    other = str(tmp_path / "other.parquet")
    pq.write_table(pa.table({"b": [1]}), other)
    with pytest.warns(FeedrateWarning, match="'b' is missing"):
        load(cache, [*files, other], ["b"])
    assert known(cache, [*files, other], ["b"]) == [other]
    load(cache, files, [])
    assert len(segments(cache)) == 1


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def overwrite(path):
    path.write_bytes(b"\0" * path.stat().st_size)


def flip(share):
    """Turn one bit, so far from the beginning."""

    def turn(path):
        content = bytearray(path.read_bytes())
        content[min(len(content) - 1, int(share * len(content)))] ^= 0x10
        path.write_bytes(content)

    return turn


def exchange(path):
    content = path.read_bytes()
    path.write_bytes(content[BLOCK : 2 * BLOCK] + content[:BLOCK]
                     + content[2 * BLOCK :])  # fmt: skip


def rewrite(change):
    """Change what the index says, its checksum included."""

    def spoil(path):
        index = msgspec.json.decode(path.read_bytes().partition(b"\n")[2])
        change(index)
        content = msgspec.json.encode(index)
        path.write_bytes(b"%08x\n" % zlib.crc32(content) + content)

    return spoil


def _streams(**changes):
    return rewrite(lambda index: [stream.update(changes) for stream in index["streams"]])


def _entries(place, value):
    return rewrite(lambda index: [entry.__setitem__(place, value) for entry in index["entries"]])


def _keys(place, value):
    return rewrite(lambda index: [entry[0].__setitem__(place, value) for entry in index["entries"]])


def _length(count):
    return rewrite(lambda index: index.update(bytes=count))


DAMAGES = {
    "the data are cut": (".arrow", cut),
    "the data are overwritten": (".arrow", overwrite),
    "the data are gone": (".arrow", Path.unlink),
    "blocks are exchanged": (".arrow", exchange),
    **{
        f"a bit at {share:.0%} of the data is turned": (".arrow", flip(share))
        for share in (0, 0.01, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
    },
    "the last bit is turned": (".arrow", flip(1)),
    "the JSON is cut": (".json", cut),
    "the JSON is overwritten": (".json", overwrite),
    **{
        f"a bit at {share:.0%} of the JSON is turned": (".json", flip(share))
        for share in (0, 0.03, 0.3, 0.5, 0.8, 1)
    },
    "the JSON is of another shape": (".json", lambda path: path.write_text('{"entries": 7}')),
    "the JSON is that of another format": (".json", rewrite(dict.clear)),
    "the JSON names bytes beyond the end": (".json", _streams(offset=1 << 40)),
    "the JSON names bytes before the start": (".json", _streams(offset=-8)),
    "the JSON names bytes between streams": (".json", _streams(offset=8)),
    "the JSON names too few bytes": (".json", _streams(length=500)),
    "the JSON names other rows": (".json", _streams(rows=500)),
    "the JSON names no schema": (".json", _streams(schema="AAAA")),
    "the JSON names more bytes than there are": (".json", _length(1 << 30)),
    "the JSON names an odd number of bytes": (".json", _length(7)),
    "the JSON names rows beyond the end": (".json", _entries(3, 1 << 30)),
    "the JSON names rows before the start": (".json", _entries(2, -1)),
    "the JSON names another stream": (".json", _entries(1, 9)),
    "the JSON names a file by a number": (".json", _keys(0, 7)),
    "the JSON names a file by half of what it is": (".json", _entries(0, ["x", 1])),
}  # fmt: skip


@pytest.fixture
def stored(tmp_path, cache, load):
    """Two files, and the segment of several blocks that they are kept in."""
    paths = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    for path in paths:
        text = [f"text {row}" for row in range(5000)]
        pd.DataFrame({"a": range(5000), "b": text, "c": [1.5] * 5000}).to_parquet(path)
    load(cache, paths)
    (segment,) = segments(cache)
    return paths, segment


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_segment_is_dropped_told_about_and_made_again(
    stored, cache, damage, caplog, load, assert_same
):
    paths, segment = stored
    suffix, spoil = DAMAGES[damage]
    spoil(segment.with_suffix(suffix))
    for hits in (0, 2):
        new = DiskCache(cache.folder)
        assert_same(load(new, paths), read_frame(paths))
        assert new.hits == hits
    assert segment not in segments(cache)
    assert len(segments(cache)) == 1
    assert f"dropped cache segment {segment.stem}" in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
def test_verifying_finds_the_damage_and_drops_that_segment_only(
    stored, cache, files, damage, caplog, load
):
    caplog.set_level(logging.WARNING)
    paths, segment = stored
    load(cache, files)
    assert cache.verify() == {}
    suffix, spoil = DAMAGES[damage]
    spoil(segment.with_suffix(suffix))
    found = DiskCache(cache.folder).verify()
    if damage == "the data are gone":  # as when another process is just removing them
        assert set(found) <= {segment.stem}
    else:
        assert list(found) == [segment.stem]
        assert found[segment.stem]
        assert segment not in segments(cache)
    again = DiskCache(cache.folder)
    assert known(again, [*paths, *files]) == files
    assert again.verify() == {}


def test_every_single_bit_of_the_first_blocks_matters(stored, cache):
    paths, segment = stored
    good, index = segment.read_bytes(), decode_index(segment.with_suffix(".json").read_bytes())
    places = [*range(0, 1200, 7), *range(1200, len(good), 5003), *range(len(good) - 64, len(good))]
    for place in places:
        content = bytearray(good)
        content[place] ^= 1 << place % 8
        segment.write_bytes(content)
        with pytest.raises(DamagedError):
            disk_segment.open_segment(segment, index)
    segment.write_bytes(good)
    assert known(DiskCache(cache.folder), paths) == paths


def test_an_index_comes_out_as_it_went_in(stored):
    _, segment = stored
    content = segment.with_suffix(".json").read_bytes()
    index = decode_index(content)
    assert encode_index(index) == content
    assert sum(stream.rows for stream in index.streams) == 10_000
    assert segment.stat().st_size == index.bytes


def test_the_folder_tells_what_it_holds(stored, cache, files, load):
    nothing = {"segments": 0, "files": 0, "bytes": 0, "leftover_bytes": 0}
    assert DiskCache(cache.folder / "none").info() == nothing
    load(cache, files)
    load(cache, files, ["a"])
    expected = {
        "segments": 3,
        "files": 8,
        "bytes": sum(path.stat().st_size for path in segments(cache)),
        "leftover_bytes": 0,
    }
    assert cache.info() == DiskCache(cache.folder).info() == expected
    stored[1].unlink()
    cache.clear()
    assert cache.info() == nothing


def test_a_segment_that_another_process_removed_is_read_again(cache, files, load):
    load(cache, files)
    other, late = DiskCache(cache.folder), DiskCache(cache.folder)
    assert known(other, files) == known(late, files) == files
    late = DiskCache(cache.folder)
    late.info()
    cache.clear()
    assert known(DiskCache(cache.folder), files) == []
    for left in (other, late):
        assert load(left, files)["a"].tolist() == list(range(300))


def test_clearing_fails_and_removes_nothing_while_another_process_holds_the_lock(
    cache, files, load, monkeypatch
):
    load(cache, files)
    monkeypatch.setattr(disk_folder, "LOCKED_S", 0.0)
    descriptor = os.open(cache.folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another process holds its lock") as caught:
            cache.clear()
    finally:
        os.close(descriptor)
    assert str(caught.value).startswith(f"the cache {cache.folder} cannot be cleared: ")
    assert known(cache, files) == files
    cache.clear()
    assert segments(cache) == []


def test_data_without_their_json_do_not_count(cache, files, load):
    load(cache, files)
    segments(cache)[0].with_suffix(".json").unlink()
    assert known(DiskCache(cache.folder), files) == []


def test_files_of_others_in_the_folder_are_left_alone(files, tmp_path, load):
    folder = tmp_path / "cache"
    folder.mkdir()
    others = {"feedrate.profile.json": "{}", "table.arrow": "ours", "notes.json": "not JSON"}
    for name, text in others.items():
        (folder / name).write_text(text)
    cache = DiskCache(folder, max_bytes=0)
    load(cache, files)
    assert known(cache, files) == []
    assert cache.verify() == {}
    cache.clear()
    assert {path.name: path.read_text() for path in folder.iterdir()} == others


def test_beyond_its_bound_the_oldest_segments_go(cache, files, load):
    load_each(load, cache, files)
    size = max(path.stat().st_size for path in segments(cache))
    bounded = DiskCache(cache.folder, max_bytes=2 * size)
    load(bounded, files[:1], ["a"])
    assert known(bounded, files) == files[2:]
    assert known(bounded, files, ["a"]) == files[:1]
    assert sum(path.stat().st_size for path in segments(cache)) <= 2 * size
    assert len(list(cache.folder.glob("*.json"))) == 2


def test_what_killed_writers_left_is_counted_and_goes_with_the_next_write(cache, files, load):
    dead, _, kept = load_each(load, cache, files)
    dead.with_suffix(".json").unlink()
    (cache.folder / ".dead.tmp").write_bytes(b"1234")
    assert cache.info()["leftover_bytes"] == dead.stat().st_size + 4
    load(cache, files[2:], ["a"])
    assert cache.info()["leftover_bytes"] == 0
    assert list(cache.folder.glob(".*")) == []
    assert dead not in segments(cache)
    assert kept in segments(cache)
    (cache.folder / ".dead.tmp").touch()
    cache.clear()
    assert list(cache.folder.iterdir()) == []


def test_a_write_that_fails_leaves_nothing_and_costs_a_warning(cache, files, monkeypatch, load):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(FeedrateWarning, match=r"nothing is cached in .*cache: No space left"):
        assert len(load(cache, files)) == 300
    assert list(cache.folder.iterdir()) == []


def test_a_cut_between_data_and_json_leaves_no_segment_that_counts(cache, files, monkeypatch, load):
    replace = Path.replace

    def stop_at_json(path, target):
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stop_at_json)
    with pytest.raises(KeyboardInterrupt):
        load(cache, files)
    monkeypatch.undo()
    assert known(DiskCache(cache.folder), files) == []
    assert list(cache.folder.glob(".*")) == []


@pytest.mark.parametrize("above", ["", "deeper"])
def test_a_folder_that_is_a_file_costs_a_warning_and_the_load_goes_on(files, tmp_path, above, load):
    (tmp_path / "cache").write_text("in the way")
    cache = DiskCache(tmp_path / "cache" / above)
    with pytest.warns(FeedrateWarning, match=r"nothing is cached in .*FEEDRATE_HOME"):
        assert len(load(cache, files)) == 300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(cache, files)) == 300
    assert (tmp_path / "cache").read_text() == "in the way"


@pytest.fixture(params=["another user's", "open to all", "closed"])
def strange(request, monkeypatch):
    """A function that makes a path one that is not to be trusted; the reason that is given."""

    def make(path):
        if request.param == "open to all":
            path.chmod(path.stat().st_mode | 0o002)
            return "any user may write to it"
        uid = os.geteuid()
        if request.param == "another user's":
            monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
            path.chmod(path.stat().st_mode & ~0o022)
            os.chown(path, uid + 2, -1)
            return f"it belongs to another user (uid {uid + 2})"
        real = Path.stat

        def refuse(self, **options):
            if self == path or path in self.parents:
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(self, **options)

        monkeypatch.setattr(Path, "stat", refuse)
        return "Permission denied"

    if request.param == "another user's" and os.geteuid():
        pytest.skip("only root may give a folder away")
    return make


def test_a_folder_that_is_not_trusted_is_neither_read_nor_written_with_one_warning(
    cache, files, load, strange
):
    load(cache, files)
    before = sorted(cache.folder.iterdir())
    why = strange(cache.folder)
    again = DiskCache(cache.folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [len(load(again, files)) for _ in range(2)] == [300, 300]
    assert [str(one.message).count(why) for one in caught] == [1]
    assert again.hits == 0
    assert sorted(cache.folder.iterdir()) == before
    for ask in (again.info, again.verify, again.clear):
        with pytest.raises(StorageError, match=re.escape(why)):
            ask()


def test_a_profile_that_is_not_trusted_is_not_obeyed_unless_it_is_named(
    tmp_path, monkeypatch, strange
):
    storage = ParquetStorage(tmp_path)
    for day in ("20250101", "20250102"):
        storage.save(pd.DataFrame({"a": [1]}), "logs", day)
    path = tmp_path / BESIDE_DATA
    path.write_text("no profile at all")
    why = strange(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader = OptimizedHistoricalDataLoader(storage, "pytorch")
        assert len(loader.load_files(storage.files("logs"))) == 2
    assert [str(one.message).count(why) for one in caught] == [1]
    if why != "Permission denied":
        monkeypatch.setenv("FEEDRATE_PROFILE", str(path))
        with pytest.raises(DocumentError, match="no feedrate profile"):
            OptimizedHistoricalDataLoader(storage, "pytorch")


def test_what_is_cached_is_for_its_owner_only(cache, files, load):
    load(cache, files)
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in cache.folder.iterdir()] == [0o600] * 2


def test_segments_of_another_version_are_left_alone(cache, files, load):
    load(cache, files)
    (path,) = cache.folder.glob("*.json")
    index = msgspec.structs.replace(decode_index(path.read_bytes()), version=99)
    path.write_bytes(encode_index(index))
    other = DiskCache(cache.folder)
    assert known(other, files) == []
    assert other.verify() == {}
    assert other.info()["segments"] == 0
    assert path.exists()
    other.clear()
    assert list(cache.folder.iterdir()) == []


def test_a_segment_that_cannot_be_read_now_is_told_and_kept(cache, files, load, monkeypatch):
    load(cache, files)
    (segment,) = segments(cache)

    def full(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(disk_segment, "map_file", full)
        found = DiskCache(cache.folder).verify()
    assert found == {segment.stem: "cannot be read now, Too many open files"}
    assert known(DiskCache(cache.folder), files) == files


MISSING_AT_ONCE = """
    import sys, time
    from feedrate.loaders.caching.tiers import make_cache
    from feedrate.loaders.frames.reader import FrameReader
    from feedrate.loaders.base.schedule import ThreadScheduler

    reader = FrameReader(ThreadScheduler(0), cache=make_cache("disk", sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    assert reader.load(sys.argv[2:])["a"].tolist() == list(range(300))
"""


def test_processes_that_miss_at_once_write_one_copy(cache, files):
    code = textwrap.dedent(MISSING_AT_ONCE)
    waiting = [
        subprocess.Popen(
            [sys.executable, "-c", code, cache.folder, *files],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in waiting:
        assert process.stdout.readline() == "ready\n"
    for process in waiting:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in waiting:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(segments(cache)) == 1
    assert known(cache, files) == files


@pytest.fixture
def days(tmp_path):
    """Forty files of one schema."""
    paths = [str(tmp_path / f"{day:03}.parquet") for day in range(40)]
    for day, path in enumerate(paths):
        frame = pd.DataFrame({"a": [day, day], "b": ["x", None], "c": [0.5, None]})
        frame.to_parquet(path)
    return paths


def test_a_window_that_moves_on_leaves_few_segments_which_hold_each_file_once(
    cache, days, load, assert_same
):
    for stop in range(1, 41):
        window = days[max(0, stop - 20) : stop]
        assert_same(load(cache, window), read_frame(window))
    assert len(segments(cache)) <= 8
    assert cache.info()["files"] == 40
    again = DiskCache(cache.folder)
    assert_same(load(again, days), read_frame(days))
    assert again.hits == 40
    assert_same(load(again, days[::-1]), read_frame(days[::-1]))


def test_many_small_segments_are_merged_whatever_was_loaded(cache, days, load, assert_same):
    for number, day in enumerate(days):
        load(cache, [day], ["a"] if number % 2 else None)
    assert len(segments(cache)) <= 40
    for day in days:
        load(cache, [day])
    assert len(segments(cache)) <= 20 + 32
    again = DiskCache(cache.folder)
    assert again.info()["files"] == 60
    assert known(again, days) == days
    for day in days:
        assert_same(load(again, [day]), read_frame([day]))


def test_segments_of_one_load_are_merged_also_for_those_who_know_the_old_ones(
    cache, days, load, assert_same
):
    other = DiskCache(cache.folder)
    load_each(load, cache, days[:4])
    held = load(other, days[:4])
    assert len(segments(cache)) == 1
    for one in (cache, other, DiskCache(cache.folder)):
        assert_same(load(one, days[:4]), read_frame(days[:4]))
        assert one.misses <= 4
    assert_same(held, read_frame(days[:4]))


def test_a_segment_that_is_cut_or_changed_in_use_is_dropped_and_its_files_are_read_again(
    stored, cache, load, assert_same, caplog
):
    paths, segment = stored
    for spoil in (cut, overwrite, flip(0.5)):
        assert_same(load(cache, paths), read_frame(paths))
        (segment,) = segments(cache)
        if spoil is cut:
            os.truncate(segment, 4096)
        else:
            with segment.open("r+b") as file:
                file.seek(BLOCK)
                file.write(b"\1" * 1000)
        assert_same(load(cache, paths), read_frame(paths))
        assert f"dropped cache segment {segment.stem}" in caplog.text


def test_damage_where_nothing_can_be_removed_means_reading_the_files_again(
    stored, cache, load, assert_same, monkeypatch, caplog
):
    paths, segment = stored

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    flip(0.3)(segment)
    for name in ("unlink", "write_bytes", "replace", "mkdir"):
        monkeypatch.setattr(Path, name, refuse)
    again = DiskCache(cache.folder)
    with pytest.warns(FeedrateWarning, match="Read-only file system"):
        assert_same(load(again, paths), read_frame(paths))
    assert_same(load(again, paths), read_frame(paths))
    assert caplog.text.count("dropped cache segment") == 1
    assert DiskCache(cache.folder).verify()[segment.stem].startswith("cannot be removed")
    with pytest.raises(StorageError, match="cannot be cleared: Read-only"):
        cache.clear()


def test_segments_on_a_network_are_read_rather_than_mapped(
    stored, cache, load, assert_same, monkeypatch
):
    paths, segment = stored
    monkeypatch.setattr(disk_segment, "storage_kind", lambda _: "network")
    monkeypatch.setattr(disk_segment, "map_file", _full)
    frame = load(DiskCache(cache.folder), paths)
    os.truncate(segment, 0)
    assert_same(frame, read_frame(paths))
