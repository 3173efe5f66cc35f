"""Lists and structs: the objects that pandas makes of each file, however the files are decoded."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.base.schedule import ThreadScheduler
from feedrate.loaders.caching.tiers import make_cache
from feedrate.loaders.frames import engine, parts
from feedrate.loaders.frames.reader import FrameReader
from feedrate.loaders.parquet.original import read_frame


@pytest.fixture(autouse=True)
def _polars_decodes_whatever_it_may(monkeypatch):
    monkeypatch.setattr(engine, "POLARS_FROM_BYTES", 0)
    monkeypatch.setattr(engine, "IMPORT_S", 0)


INTEGERS, TEXT = pa.list_(pa.int64()), pa.list_(pa.string())
PLAYER = pa.struct([("id", pa.int32()), ("name", pa.string()), ("mean", pa.float64())])
COLUMNS = {
    "lists of integers": (INTEGERS, [[1, 2], [], None, [3]]),
    "with a null in one": (INTEGERS, [[1, None], [], None, [3]]),
    "of floats": (pa.list_(pa.float32()), [[1.5, None], [], None, [2.0]]),
    "of booleans": (pa.list_(pa.bool_()), [[True, False], [], None, [True]]),
    "of booleans, with a null in one": (pa.list_(pa.bool_()), [[True, None], [], None, [True]]),
    "of text": (TEXT, [["a", None], [], None, ["b"]]),
    "large": (pa.large_list(pa.int16()), [[1, 2], [], None, [3]]),
    "all null": (INTEGERS, [None] * 4),
    "structs": (PLAYER, [{"id": k, "name": f"p{k}", "mean": k / 2} for k in range(4)]),
    "structs, some null": (PLAYER, [{"id": 1, "name": "a", "mean": None}, None, None, None]),
    "structs, one null": (PLAYER, [{"id": 1, "name": "a", "mean": 1.0}] * 3 + [None]),
    "structs, a null integer": (
        PLAYER,
        [{"id": k or None, "name": "a", "mean": 1.0} for k in range(4)],
    ),
    "structs of nulls": (PLAYER, [{"id": None, "name": None, "mean": None}] * 4),
    "deeper": (pa.list_(INTEGERS), [[[1], []], [], None, [[2]]]),
}


def write(path, kind, values, **options):
    table = pa.table({"n": range(len(values)), "c": pa.array(values, kind), "s": map(str, values)})
    pq.write_table(table, path, **options)
    return str(path)


def objects(frame):
    """The cells with what `assert_frame_equal` leaves out: their types and dtypes."""
    return [(type(cell), getattr(cell, "dtype", None), repr(cell)) for cell in frame["c"]]


def check(found, expected):
    assert objects(found) == objects(expected)
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize(
    ("cache", "workers"), [("none", 0), ("none", 2), ("memory", 2), ("disk", 2)]
)
@pytest.mark.parametrize("name", COLUMNS)
def test_files_become_what_pandas_makes_of_each(name, cache, workers, tmp_path):
    kind, values = COLUMNS[name]
    plain = [value for value in COLUMNS["lists of integers"][1] if value is not None]
    others = plain if name == "with a null in one" else values[::-1]
    paths = [write(tmp_path / f"{at}.parquet", kind, some) for at, some in enumerate(
        [values, others, values[:1], others]
    )]  # fmt: skip
    reader = FrameReader(ThreadScheduler(workers), cache=make_cache(cache, tmp_path / "cache"))
    for wanted in (paths, paths[1:], paths[1:2], paths):
        check(reader.load(wanted), read_frame(wanted))
    found = reader.load(paths, ["c"])
    check(found, read_frame(paths)[["c"]])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", COLUMNS)
def test_row_groups_change_nothing(name, workers, tmp_path):
    kind, values = COLUMNS[name]
    values = [value for value in values if value is not None] * 3 + values
    path = write(tmp_path / "a.parquet", kind, values, row_group_size=3)
    check(FrameReader(ThreadScheduler(workers)).load([path, path]), read_frame([path, path]))


@pytest.mark.parametrize("rows", [100, 140_000])
@pytest.mark.parametrize("workers", [0, 2])
def test_rows_that_pandas_converts_in_parts_are_read_by_pandas(workers, rows, tmp_path):
    values = [[number] for number in range(rows)]
    values[-1] = [None]
    path = write(tmp_path / "a.parquet", INTEGERS, values, row_group_size=rows - 50)
    reader = FrameReader(ThreadScheduler(workers))
    found = reader.load([path])
    expected = read_frame([path])
    assert reader.by_pandas == {
        "column 'c' has nulls in lists of numbers, which decide how pandas converts the rows near "
        "them": 1
    }
    assert [cell.dtype for cell in found["c"]] == [cell.dtype for cell in expected["c"]]
    assert found["c"].iloc[0] == expected["c"].iloc[0] == [0]
    pd.testing.assert_frame_equal(found[["n", "s"]], expected[["n", "s"]])


def test_files_with_lists_and_structs_are_decoded_together(tmp_path, monkeypatch):
    calls = []
    real = parts.decode_with_polars

    def decode(files, layout):
        calls.append(len(files))
        return real(files, layout)

    monkeypatch.setattr(parts, "decode_with_polars", decode)
    for name in ("lists of integers", "structs"):
        calls.clear()
        files = [write(tmp_path / f"{at}.parquet", *COLUMNS[name]) for at in range(40)]
        FrameReader(ThreadScheduler(2)).load(files)
        assert sum(calls) == 40
        assert len(calls) <= 2 * parts.PARTS_PER_WORKER


@pytest.mark.parametrize("cache", ["memory", "disk"])
@pytest.mark.parametrize("name", ["lists of integers", "of text", "structs", "of floats"])
def test_what_an_owner_does_to_cells_never_comes_back(name, cache, tmp_path):
    path = write(tmp_path / "a.parquet", *COLUMNS[name])
    reader = FrameReader(ThreadScheduler(2), cache=make_cache(cache, tmp_path / "cache"))
    expected = read_frame([path, path])
    for _ in range(3):
        found = reader.load([path, path])
        check(found, expected)
        for cell in found["c"]:
            if isinstance(cell, dict):
                cell["name"] = "someone else"
            elif isinstance(cell, np.ndarray) and cell.flags.writeable and len(cell):
                cell[:] = cell[::-1]
                cell[0] = -1
