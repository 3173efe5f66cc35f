"""What a reader writes to a frame stays in that frame, and frames outlive what they came from."""

import gc
import os
import shutil
import subprocess
import sys
import textwrap
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.cache import MemoryCache, make_cache
from feedrate.loaders.original import read_frame
from feedrate.loaders.private_memory import blank_memory, can_map, map_private

DAYS = pd.date_range("2025-01-01", periods=3)
PAGE = os.sysconf("SC_PAGE_SIZE")

needs_memfd = pytest.mark.skipif(not can_map(), reason="there is no memory without a name here")
needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no /proc")


@pytest.fixture(params=[False, True], ids=["", "categories"])
def frames(request, tmp_path):
    """Three files of one schema with a column of every kind, but categories only for one half.

    With categories each file is converted by itself, and the frame of several is a copy anyway.
    """
    paths = []
    for number in range(3):
        frame = pd.DataFrame(
            {
                "int": np.arange(3) + number,
                "int32": np.arange(3, dtype="int32") - number,
                "sometimes null": [1, 2, 3],
                "uint8": np.arange(3, dtype="uint8"),
                "float": [0.5, None, float(number)],
                "float32": np.arange(3, dtype="float32"),
                "bool": [True, False, number == 0],
                "sometimes unknown": [True, False, True],
                "time": DAYS,
                "time in seconds": DAYS.as_unit("s"),
                "zoned": DAYS.tz_localize("America/New_York"),
                "duration": DAYS - DAYS[0],
                "text": ["x", None, f"far more than twelve bytes {number}"],
                "bytes": [b"x", None, b""],
                "day": [DAYS[0].date(), None, DAYS[2].date()],
                "decimal": [Decimal("1.25"), None, Decimal(number)],
                "Int64": pd.array([1, None, number], "Int64"),
                "boolean": pd.array([True, None, False], "boolean"),
                "string": pd.array(["x", None, "y"], "string"),
                "arrow": pd.array([1, None, number], "int64[pyarrow]"),
            }
        )
        if request.param:
            frame["category"] = pd.Categorical(["x", "y", "x"])
        paths.append(str(tmp_path / f"{number}.parquet"))
        table = pa.Table.from_pandas(frame)
        for name in ("sometimes null", "sometimes unknown")[:number]:
            at = table.column_names.index(name)
            cells = pa.array([*table[name].to_pylist()[:2], None])
            table = table.set_column(at, name, cells)
        pq.write_table(table, paths[-1])
    return paths


@pytest.fixture(params=["memory", "disk", "none"])
def cache(request, tmp_path):
    return make_cache(request.param, tmp_path / "cache")


def _set_cells(frame):
    for position in range(frame.shape[1]):
        frame.iloc[0, position] = frame.iloc[-1, position]
        frame.iloc[1, position] = frame.iloc[0, position]


def _set_columns(frame):
    for position, name in enumerate(frame.columns):
        turned = frame.iloc[::-1, position]
        plain = isinstance(turned.dtype, np.dtype) and turned.dtype.kind in "iufbO"
        frame.iloc[:, position] = turned.to_numpy() if plain else turned.array
        frame.loc[:, name] = turned.to_numpy() if plain else turned.array


def _set_rows(frame):
    frame.loc[frame["int"] > 1, "float"] = 7.0
    frame.loc[1:2, ["int", "uint8", "text"]] = frame.loc[0, ["int", "uint8", "text"]].tolist()
    frame.loc[len(frame)] = frame.loc[0]


def _set_arrays(frame):
    for position in range(frame.shape[1]):
        column = frame.iloc[:, position]
        values = column.to_numpy()
        values.flags.writeable = True  # pandas hands out views that only a stubborn user writes to
        values[:] = values[-1]
        inner = column.array
        for name in ("_ndarray", "_codes", "_data", "_mask"):
            part = getattr(inner, name, None)
            if isinstance(part, np.ndarray):
                part.flags.writeable = True
                part[:] = part[-1]


def _rename(frame):
    frame.columns = range(frame.shape[1])
    frame.index = range(7, 7 + len(frame))
    frame.attrs["mine"] = True
    frame[0] = "x"


CHANGES = [_set_cells, _set_columns, _set_rows, _set_arrays, _rename]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore::feedrate.loaders.errors.FeedrateWarning")
def test_what_is_done_to_a_frame_reaches_no_other(
    cache, frames, load, assert_same, change, workers
):
    expected = {start: read_frame(frames[start:]) for start in range(3)}
    assert expected[0]["sometimes null"].isna().sum() == 2
    for _ in range(2):
        mine, other = load(cache, frames, workers=workers), load(cache, frames, workers=workers)
        part = load(cache, frames[1:], workers=workers)
        assert_same(mine, expected[0])
        change(mine)
        assert_same(other, expected[0])
        assert_same(part, expected[1])
        change(part)
        for start in range(3):
            assert_same(load(cache, frames[start:], workers=workers), expected[start])
        assert_same(other, expected[0])


@pytest.mark.filterwarnings("ignore::feedrate.loaders.errors.FeedrateWarning")
def test_frames_outlive_what_is_forgotten_evicted_or_removed(
    cache, frames, load, assert_same, tmp_path
):
    expected = read_frame(frames)
    load(cache, frames)
    frame = load(cache, frames)
    if cache is not None:
        cache.clear()
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    for path in frames:
        Path(path).unlink()
    gc.collect()
    assert_same(frame, expected)
    frame.loc[:, "int"] = 7
    frame.loc[0, "text"] = "mine"
    assert frame["int"].tolist() == [7] * 9


@pytest.mark.filterwarnings("ignore::feedrate.loaders.errors.FeedrateWarning")
def test_frames_outlive_what_memory_has_no_room_for(frames, load, assert_same):
    cache = MemoryCache(max_bytes=2000)
    held = [load(cache, frames[start:]) for start in (0, 1, 2, 0, 1, 2)]
    for start, frame in zip((0, 1, 2, 0, 1, 2), held, strict=True):
        assert_same(frame, read_frame(frames[start:]))
    assert cache.held_bytes <= 2000


FORKED = """
    import os, sys
    from feedrate.loaders.cache import make_cache
    from feedrate.loaders.frames import FrameReader
    from feedrate.loaders.schedule import ThreadScheduler

    kind, *files = sys.argv[1:]
    cache = make_cache(kind)
    def load(*paths):
        return FrameReader(ThreadScheduler(0), cache=cache).load(paths)["a"]
    known = load(files[0])
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        right = load(files[1]).tolist() == list(range(100, 200))
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        right &= load(*files[:2]).tolist() == list(range(200))
        right &= load(files[2], files[0]).tolist() == [*range(200, 300), *range(100)]
        os._exit(0 if right else 7)
    os.read(ready[0], 1)
    assert load(files[2]).tolist() == list(range(200, 300))
    os.write(go[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert load(*files).tolist() == list(range(300))
    assert known.tolist() == list(range(100))
    print(cache.hits, cache.misses)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize(("kind", "counts"), [("memory", "2 3"), ("disk", "3 2")])
def test_a_forked_child_does_not_write_into_its_parents_rows(files, kind, counts):
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKED), kind, *files],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    # Parent and child share a disk, so the file that the child loaded is known to the parent.
    assert ran.stdout.strip() == counts


def _mappings():
    gc.collect()
    return len(Path("/proc/self/maps").read_text().splitlines())


def _descriptors():
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@needs_memfd
def test_memory_starts_as_zeros_and_shows_what_is_in_the_file_until_it_is_written_to():
    descriptor = blank_memory(3 * PAGE)
    one, other = map_private(descriptor, 3 * PAGE), map_private(descriptor, 3 * PAGE)
    assert one.dtype == np.uint8
    assert one.flags.writeable
    assert not one.any()
    one[:PAGE] = 1
    os.pwrite(descriptor, b"\x02" * 3 * PAGE, 0)
    assert set(one[:PAGE]) == {1}
    assert set(one[PAGE:]) == set(other) == {2}
    assert os.pread(descriptor, 1, 0) == b"\x02"
    os.close(descriptor)
    other[0] = 3
    assert (one[0], other[0], other[-1]) == (1, 3, 2)


@needs_memfd
@needs_proc
def test_a_mapping_lasts_as_long_as_a_view_of_it_and_holds_no_descriptor():
    mappings, descriptors = _mappings(), _descriptors()
    descriptor = blank_memory(10 * PAGE)
    views = [map_private(descriptor, 10 * PAGE)[PAGE:].view("i8") for _ in range(50)]
    # One descriptor is ours.
    assert _descriptors() == descriptors + 1
    os.close(descriptor)
    assert _mappings() >= mappings + 1
    views[0][:] = 7
    assert not views[1].any()
    written = Path("/proc/self/maps").read_text().count("memfd:feedrate")
    assert written >= 1
    del views
    assert _descriptors() == descriptors
    gc.collect()
    assert "memfd:feedrate" not in Path("/proc/self/maps").read_text()


@needs_memfd
@needs_proc
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_frames_that_are_dropped_leave_no_mapping_and_no_descriptor(tmp_path, kind, files, load):
    cache = make_cache(kind, tmp_path / "cache")
    load(cache, files)
    mappings, descriptors = _mappings(), _descriptors()
    for _ in range(50):
        frame = load(cache, files)
        frame.loc[0, "a"] = 7
    held = [load(cache, files) for _ in range(5)]
    assert _descriptors() == descriptors
    del held, frame
    assert _mappings() <= mappings + 5  # the allocator's own come and go
    cache.clear()
    load(None, files)
    shown = Path("/proc/self/maps").read_text()
    gc.collect()
    assert "memfd:feedrate" not in shown
    assert str(tmp_path) not in shown


@needs_memfd
def test_what_cannot_be_mapped_is_an_error():
    descriptor = blank_memory(PAGE)
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        map_private(descriptor, PAGE)
    with pytest.raises(OSError, match="Invalid argument"):
        blank_memory(-1)
