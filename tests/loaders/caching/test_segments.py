"""Segments give rows back as pandas would have them, whichever files turned out to hold nulls."""

import threading
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feedrate.loaders.caching import views
from feedrate.loaders.caching.pages import PAGE
from feedrate.loaders.caching.segments import MisfitError, Place, Segment, merged
from feedrate.loaders.parquet.footers import FileSchema
from feedrate.loaders.parquet.layout import make_layout
from hypothesis import given, settings
from hypothesis import strategies as st

SCHEMA = pa.schema(
    [("i", pa.int64()), ("f", pa.float64()), ("t", pa.string()), ("j", pa.int64()),
     ("b", pa.bool_()), ("d", pa.timestamp("us")), ("s", pa.int8())]
)  # fmt: skip
EXACT = 2**53 + 1


def make_segment(rows, *, schema=SCHEMA, backend="numpy", **options):
    return Segment(make_layout(FileSchema(schema, ()), None, backend), rows, **options)


def make_table(start, rows, nulls=()):
    """Rows that tell where they are, with nulls in the columns named."""
    at = range(start, start + rows)
    columns = {
        "i": [EXACT + row for row in at],
        "f": [row / 7 for row in at],
        "t": [f"row {row}" for row in at],
        "j": [-row for row in at],
        "b": [row % 3 == 0 for row in at],
        "d": [row * 10**9 for row in at],
        "s": [row % 100 for row in at],
    }
    for name in nulls:
        columns[name] = [None if row % 2 else cell for row, cell in zip(at, columns[name])]  # noqa: B905 - both tell the same rows
    return pa.table(columns, schema=SCHEMA)


def pieces_of(table, layout):
    """A table's columns as the engines give them."""
    pieces = []
    for position, column in enumerate(table.columns):
        wanted = layout.dtypes.get(position)
        values = column.to_numpy() if wanted is not None else None
        fits = values is not None and values.dtype == wanted
        kind = pa.large_string() if pa.types.is_string(column.type) else column.type
        pieces.append([values] if fits else column.cast(kind))
    return as_made(pieces)


def as_made(pieces):
    """What makes each piece, as the engines give it."""
    return [lambda piece=piece: piece for piece in pieces]


def expected(tables):
    return pd.concat([table.to_pandas() for table in tables], ignore_index=True)


@st.composite
def written_files(draw):
    """Files' tables, with nulls in some columns of some."""
    tables, start = [], 0
    for _ in range(draw(st.integers(1, 5))):
        rows = draw(st.integers(0, 4))
        tables.append(make_table(start, rows, draw(st.sets(st.sampled_from(SCHEMA.names)))))
        start += rows
    return tables


@pytest.mark.parametrize("backend", ["numpy", "pyarrow"])
@pytest.mark.parametrize("shared", [False, True])
@settings(deadline=None, max_examples=60)
@given(tables=written_files(), data=st.data())
def test_frames_of_any_files_are_those_of_pandas(shared, backend, tables, data, assert_same):
    starts = np.cumsum([0, *(table.num_rows for table in tables)]).tolist()
    segment = make_segment(starts[-1] + 3, shared=shared, backend=backend)
    for at in data.draw(st.permutations(range(len(tables)))):
        segment.write(
            starts[at], starts[at] + len(tables[at]), pieces_of(tables[at], segment.layout)
        )
    # Parts first: a segment that is not shared gives its memory away with all rows.
    for first in reversed(range(len(tables))):
        last = data.draw(st.integers(first, len(tables) - 1))
        chosen = tables[first : last + 1]
        got = segment.frame(starts[first], starts[last + 1])
        if backend == "numpy":
            assert_same(got, expected(chosen))
        else:
            assert got.dtypes.tolist() == segment.layout.template.dtypes.tolist()
        for position, name in enumerate(SCHEMA.names):
            cells = pa.concat_tables(chosen)[name]
            column = segment.column(position, starts[first], starts[last + 1])
            assert _cells(column) == _cells(cells)


def _cells(column):
    """A column's values; NaN and NaT are what nulls of floats and times become."""
    return [None if value is None or value != value else value for value in column.to_pylist()]  # noqa: PLR0124 - NaN


@pytest.mark.parametrize("shared", [False, True])
def test_a_column_is_numbers_where_its_rows_have_no_nulls(shared, assert_same):
    segment = make_segment(9, shared=shared)
    tables = [make_table(0, 3), make_table(3, 3, ["i", "b"]), make_table(6, 3)]
    for at, table in enumerate(tables):
        segment.write(3 * at, 3 * at + len(table), pieces_of(table, segment.layout))
    assert segment.frame(0, 3).dtypes["i"] == "int64"
    assert segment.frame(6, 9).dtypes["i"] == "int64"
    assert segment.frame(3, 6).dtypes["i"] == "float64"
    assert segment.frame(2, 4).dtypes["b"] == "object"
    assert sorted(segment.held_layout(0, 3).dtypes) == [0, 1, 3, 4, 5, 6]
    assert sorted(segment.held_layout(2, 4).dtypes) == [1, 3, 5, 6]
    assert segment.held_layout(6, 9) is segment.layout
    assert_same(segment.frame(0, 9), expected(tables))
    # Neighbours of one dtype, of which one is no number any more, do not lose their places.
    got = make_segment(3, shared=shared)
    got.write(0, 3, pieces_of(make_table(3, 3, ["j"]), got.layout))
    assert_same(got.frame(0, 3), expected([make_table(3, 3, ["j"])]))


@pytest.mark.parametrize("shared", [False, True])
def test_frames_are_their_owners_own(shared):
    segment = make_segment(6, shared=shared)
    segment.write(0, 6, pieces_of(make_table(0, 6, ["j"]), segment.layout))
    stop = 6 if shared else 5  # all rows it gives away
    frames = [segment.frame(0, stop), segment.frame(0, stop), segment.frame(2, 6)]
    frames[0].loc[:, "i"] = 7
    frames[0].loc[:, "f"] = 7.0
    assert frames[1]["i"].tolist() == [EXACT + row for row in range(stop)]
    assert frames[2]["f"].tolist() == [row / 7 for row in range(2, 6)]


def test_a_segment_that_is_not_shared_gives_its_memory_away_with_all_rows():
    segment = make_segment(4)
    segment.write(0, 4, pieces_of(make_table(0, 4), segment.layout))
    part = segment.frame(0, 3)["f"].to_numpy()
    assert not any(np.shares_memory(part, block) for block in segment.blocks)
    column = segment.frame(0, 4)["f"].to_numpy()
    assert any(np.shares_memory(column, block) for block in segment.blocks)


@pytest.mark.parametrize("grows", [False, True])
def test_what_a_shared_segment_hands_out_cannot_be_made_writable(grows, monkeypatch):
    monkeypatch.setattr(views, "COPIED_BYTES", 0)
    segment = make_segment(600, shared=True, grows=grows)
    other = make_segment(600)
    other.write(0, 600, pieces_of(make_table(0, 600), other.layout))
    if grows:
        assert segment.append([Place(other, 0, 600)])
    else:
        segment.write(0, 600, pieces_of(make_table(0, 600), segment.layout))
    values = segment.frame(100, 500)["i"].to_numpy()
    assert values.tolist() == [EXACT + row for row in range(100, 500)]
    with pytest.raises(ValueError, match="WRITEABLE"):
        values.flags.writeable = True
    assert segment.is_unchanged(0, 600)
    assert all(block.ctypes.data % PAGE == 0 for block in segment.blocks)


def test_labels_and_attributes_are_the_templates():
    schema = pa.Schema.from_pandas(pd.DataFrame({7: [1], 8: ["x"]}))
    segment = make_segment(2, schema=schema)
    pieces = [[np.array([1, 2])], pa.array(["x", None], pa.large_string())]
    segment.write(0, 2, as_made(pieces))
    frame = segment.frame(0, 2)
    assert frame.columns.tolist() == [7, 8]
    frame.attrs["mine"] = True
    assert segment.frame(0, 2).attrs == {}
    assert isinstance(frame.index, pd.RangeIndex)


def test_what_arrow_holds_is_counted():
    segment = make_segment(3)
    assert segment.arrow_bytes == 0
    pieces = pieces_of(make_table(0, 3, ["i"]), segment.layout)
    segment.write(0, 3, pieces)
    held = [piece.nbytes for make in pieces if not isinstance(piece := make(), list)]
    assert len(held) == 2
    assert segment.arrow_bytes == sum(held)


def test_threads_write_beside_each_other(assert_same):
    segment = make_segment(400)
    tables = [make_table(10 * at, 10, ["i"] if at % 3 else []) for at in range(40)]

    def work(first):
        for at in range(first, 40, 4):
            segment.write(10 * at, 10 * at + 10, pieces_of(tables[at], segment.layout))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(segment.frame(0, 400), expected(tables))


@pytest.mark.parametrize("threads", [1, 3])
def test_numbers_come_in_parts_and_columns_are_written_by_threads(threads, assert_same):
    segment, table = make_segment(8), make_table(0, 8)
    names = set()

    def halved(make):
        names.add(threading.current_thread().name)
        piece = make()
        return [piece[0][:5], piece[0][5:]] if isinstance(piece, list) else piece

    pieces = pieces_of(table, segment.layout)
    segment.write(0, 8, [partial(halved, make) for make in pieces], threads)
    assert_same(segment.frame(0, 8), expected([table]))
    assert (threading.current_thread().name in names) == (threads == 1)
    short = [
        [*piece[:-1], piece[-1][:-1]] if isinstance(piece := make(), list) else piece[:7]
        for make in pieces
    ]
    with pytest.raises(MisfitError, match="a column has 7 rows where its footer says 8"):
        segment.write(0, 8, as_made(short), threads)


@pytest.mark.parametrize("rows", [0, 3, 5])
@pytest.mark.parametrize("nulls", [[], ["i"]])
def test_columns_that_do_not_fit_their_place_are_refused_and_leave_the_neighbours_alone(
    rows, nulls, assert_same
):
    segment = make_segment(12)
    around = [make_table(0, 4), make_table(8, 4)]
    segment.write(0, 4, pieces_of(around[0], segment.layout))
    segment.write(8, 12, pieces_of(around[1], segment.layout))
    with pytest.raises(MisfitError):
        segment.write(4, 8, pieces_of(make_table(4, rows, nulls), segment.layout))
    with pytest.raises(MisfitError):
        segment.write(4, 8, pieces_of(make_table(4, 4), segment.layout)[:3])
    segment.discard(4, 8)
    assert_same(segment.frame(0, 4), around[0].to_pandas())
    assert_same(segment.frame(8, 12), around[1].to_pandas())


def test_neighbours_in_a_segment_become_one_place():
    one, other = make_segment(9), make_segment(9)
    places = [
        Place(one, 0, 2), Place(one, 2, 3), Place(one, 3, 3), Place(one, 3, 5), Place(other, 5, 6),
        Place(other, 7, 8), Place(other, 0, 7), Place(one, 5, 6), Place(one, 5, 6),
    ]  # fmt: skip
    assert merged(places) == [
        Place(one, 0, 5), Place(other, 5, 6), Place(other, 7, 8), Place(other, 0, 7),
        Place(one, 5, 6), Place(one, 5, 6),
    ]  # fmt: skip
    assert merged([]) == []
    assert places[0].schema is one.layout.schema
