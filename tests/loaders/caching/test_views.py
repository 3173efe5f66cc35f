"""What a reader writes to a frame stays in that frame, and frames outlive what they came from."""

import ctypes
import gc
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from contextlib import contextmanager, suppress
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.base.errors import FeedrateWarning
from feedrate.loaders.caching import views
from feedrate.loaders.caching.mapping import map_file
from feedrate.loaders.caching.memory import MemoryCache
from feedrate.loaders.caching.tiers import make_cache
from feedrate.loaders.parquet.original import read_frame

DAYS = pd.date_range("2025-01-01", periods=3)
PAGE = os.sysconf("SC_PAGE_SIZE")

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
        inner = column.array
        parts = [getattr(inner, name, None) for name in ("_ndarray", "_codes", "_data", "_mask")]
        for part in (column.to_numpy(), *parts):
            if isinstance(part, np.ndarray):
                with suppress(ValueError):  # what is shared cannot be made writable
                    part.flags.writeable = True
                    part[:] = part[-1]


def _rename(frame):
    frame.columns = range(frame.shape[1])
    frame.index = range(7, 7 + len(frame))
    frame.attrs["mine"] = True
    frame[0] = "x"


CHANGES = [_set_cells, _set_columns, _set_rows, _set_arrays, _rename]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
def test_what_is_done_to_a_frame_reaches_no_other(cache, frames, load, assert_same, change):
    expected = {start: read_frame(frames[start:]) for start in range(3)}
    assert expected[0]["sometimes null"].isna().sum() == 2
    for _ in range(2):
        mine, other = load(cache, frames, workers=2), load(cache, frames, workers=2)
        part = load(cache, frames[1:], workers=2)
        assert_same(mine, expected[0])
        change(mine)
        assert_same(other, expected[0])
        assert_same(part, expected[1])
        change(part)
        for start in range(3):
            assert_same(load(cache, frames[start:], workers=2), expected[start])
        assert_same(other, expected[0])


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
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


@pytest.mark.filterwarnings("ignore::feedrate.loaders.base.errors.FeedrateWarning")
def test_frames_outlive_what_memory_has_no_room_for(frames, load, assert_same):
    cache = MemoryCache(max_bytes=2000)
    held = [load(cache, frames[start:]) for start in (0, 1, 2, 0, 1, 2)]
    for start, frame in zip((0, 1, 2, 0, 1, 2), held, strict=True):
        assert_same(frame, read_frame(frames[start:]))
    assert sum(unit.bytes for unit in cache.units.values()) <= 2000


FORKED = """
    import os, sys
    from feedrate.loaders.caching.tiers import make_cache
    from feedrate.loaders.frames.reader import FrameReader
    from feedrate.loaders.base.schedule import ThreadScheduler

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
    assert str(tmp_path) not in shown


@needs_proc
def test_a_mapping_lasts_as_long_as_a_view_of_it_and_holds_no_descriptor(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(b"\2" * 3 * PAGE)
    descriptors = _descriptors()
    with path.open("rb") as file:
        views = [map_file(file.fileno(), 3 * PAGE)[PAGE:].view("i8") for _ in range(5)]
    assert _descriptors() == descriptors
    assert str(path) in Path("/proc/self/maps").read_text()
    assert {view.tobytes() for view in views} == {b"\2" * 2 * PAGE}
    with pytest.raises(ValueError, match="WRITEABLE"):
        views[0].flags.writeable = True
    del views
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()
    with pytest.raises(OSError, match="Bad file descriptor"):
        map_file(file.fileno() if not file.closed else 10_000, PAGE)


LARGE = 70_000  # rows of three columns of numbers, more than what is copied


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two files of numbers whose frames are views."""
    folder = tmp_path_factory.mktemp("large")
    paths = [str(folder / f"{number}.parquet") for number in range(2)]
    for number, path in enumerate(paths):
        rows = np.arange(LARGE) + number
        cells = {"a": rows, "b": rows / 7, "c": rows.astype("float32"), "d": rows.astype("int8")}
        pd.DataFrame({**cells, "t": rows.astype(str)}).to_parquet(path)
    return paths


def _past_pandas(values, change):
    """Write to read-only memory, as `torch.from_numpy` and numba do."""
    pointer = ctypes.cast(values.ctypes.data, ctypes.POINTER(ctypes.c_ubyte))
    memory = np.ctypeslib.as_array(pointer, (values.nbytes,)).view(values.dtype)
    memory[:] = change(memory.copy())


WRITES = {
    "one more": lambda rows: rows + 1,
    "the sign": lambda rows: -rows,
    "a cell": lambda rows: np.concatenate([rows[:-1], [7]]),
    "the first cell": lambda rows: np.concatenate([[7], rows[1:]]),
    "backwards": lambda rows: rows[::-1],
    "batches": lambda rows: np.roll(rows, 4096),
    "shuffled": lambda rows: np.random.default_rng(0).permutation(rows),
    "zeros": np.zeros_like,
}


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_past_pandas_reaches_no_other_load(large, load, tmp_path, kind, write):
    expected = read_frame(large)
    cache = make_cache(kind, tmp_path / "cache")
    load(cache, large)
    for column in "abcd":
        frame = load(cache, large)
        _past_pandas(frame[column].to_numpy(), WRITES[write])
        assert not frame.equals(expected)
        with pytest.warns(FeedrateWarning, match="was written to") if column == "a" else _quiet():
            assert load(cache, large).equals(expected)
    assert load(make_cache(kind, tmp_path / "cache"), large).equals(expected)


@contextmanager
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_tensor_over_a_cached_frame_changes_that_frame_alone(
    large, load, assert_same, tmp_path, kind
):
    torch = pytest.importorskip("torch")
    cache = make_cache(kind, tmp_path / "cache")
    expected = load(cache, large).copy()
    frame, other = load(cache, large), load(cache, large[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the array is read-only
        tensor = torch.from_numpy(frame["b"].to_numpy())
    tensor.add_(1)
    with pytest.warns(FeedrateWarning, match="was written to"):
        assert_same(load(cache, large[:1]), expected[:LARGE])
    assert_same(load(cache, large), expected)
    assert_same(other.drop(columns="b"), expected[LARGE:].reset_index(drop=True).drop(columns="b"))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_numpy_refuses_to_make_a_cached_frame_writable(large, load, tmp_path, kind):
    cache = make_cache(kind, tmp_path / "cache")
    load(cache, large)
    frame = load(cache, large)
    for name in "abcd":
        values = frame[name].to_numpy()
        assert not values.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            values.flags.writeable = True
        with pytest.raises(ValueError, match="WRITEABLE"):
            values[3:7].view("u1").flags.writeable = True


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_frames_of_one_cache_share_their_memory_until_one_is_written_to(
    large, load, assert_same, tmp_path, kind
):
    cache = make_cache(kind, tmp_path / "cache")
    load(cache, large)
    one, other, part = load(cache, large), load(cache, large), load(cache, large[:1])
    assert np.shares_memory(one["a"].to_numpy(), other["a"].to_numpy())
    assert np.shares_memory(one["b"].to_numpy(), part["b"].to_numpy())
    cache.clear()
    del other
    one.loc[0, "a"] = -1
    one["b"] *= 2
    one.iloc[1:3, 3] = 5
    assert_same(part, read_frame(large[:1]))
    copied = part[:]
    del part
    copied.loc[:, "b"] = 0.0
    assert copied["b"].sum() == 0


def test_where_pandas_counts_otherwise_frames_are_copies(large, load, assert_same, monkeypatch):
    monkeypatch.setattr(views, "weakref", object())
    cache = MemoryCache()
    load(cache, large)
    one, other = load(cache, large), load(cache, large)
    assert not np.shares_memory(one["a"].to_numpy(), other["a"].to_numpy())
    one.loc[:, "a"] = 1
    assert_same(load(cache, large), read_frame(large))


def test_objects_are_made_once_and_stay_as_they_are(tmp_path, load, assert_same):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(4)]
    for number, path in enumerate(paths):
        days = [date(2025, 1, 1 + row % 28) for row in range(50)]
        prices = [Decimal(row + number) / 4 for row in range(50)]
        pd.DataFrame({"day": days, "price": prices, "raw": [b"x"] * 50}).to_parquet(path)
    cache = MemoryCache()
    load(cache, paths[1:3])
    one, other = load(cache, paths[1:3]), load(cache, paths[1:2])
    assert one["price"].iloc[0] is other["price"].iloc[0]
    assert np.shares_memory(one["day"].to_numpy(), other["day"].to_numpy())
    one.loc[0, "price"] = None
    one["day"] = None
    one.iloc[1, 2] = b"mine"
    for chosen in (paths[1:3], paths[2:3], paths[1:], paths, paths[:1], paths[3:], paths[::-1]):
        assert_same(load(cache, chosen), read_frame(chosen))


CHANGING = """
    import sys
    from statistics import median
    from feedrate.loaders.caching.tiers import make_cache
    from feedrate.loaders.frames.reader import FrameReader
    from feedrate.loaders.base.schedule import ThreadScheduler

    kind, folder, *files = sys.argv[1:]
    reader = FrameReader(ThreadScheduler(2), cache=make_cache(kind, folder, 40 << 20))

    def own_memory():
        # Without pages of mapped files, which all processes share.
        with open("/proc/self/status") as file:
            (line,) = (line for line in file if line.startswith("RssAnon"))
        return int(line.split()[1]) << 10

    held, readings = [], []
    for load in range(200):
        start = load % (len(files) - 4)
        frame = reader.load(files[start : start + 4 + load % 2])
        frame.loc[:, "a"] = load
        frame["d"] = frame["b"] * 2
        held = [*held[-2:], frame]
        readings.append(own_memory())
    # Medians: what is freed goes back in its own time, and a few readings are far below the others.
    print(int(median(readings[-60:]) - median(readings[40:100])))
"""


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_the_memory_of_200_changing_loads_stays_flat(tmp_path, kind):
    paths = [str(tmp_path / f"{number:02}.parquet") for number in range(24)]
    for number, path in enumerate(paths):
        rows = np.arange(100_000) + number
        pd.DataFrame({"a": rows, "b": rows / 7, "c": rows % 5}).to_parquet(path)
    command = [sys.executable, "-c", textwrap.dedent(CHANGING), kind, str(tmp_path / "cache")]
    ran = subprocess.run(
        [*command, *paths], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(ran.stdout) < 16 << 20  # of 2.4 MB a file, and 40 MB in the cache
