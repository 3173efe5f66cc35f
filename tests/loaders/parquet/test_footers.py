"""Footers say what pyarrow says of them, files that say the same share it, and damage is told."""

import datetime as dt
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.base.errors import InputError, ParquetFileError
from feedrate.loaders.base.schedule import ThreadScheduler
from feedrate.loaders.frames.reader import FrameReader
from feedrate.loaders.parquet import footers
from feedrate.loaders.parquet.footer_bytes import schema_end
from feedrate.loaders.parquet.footers import TAIL_BYTES, Footers
from feedrate.loaders.parquet.original import read_frame

NUMBERS = pd.DataFrame({"a": range(200), "b": 0.5, "c": "text"})


def with_notes(frame, notes):
    """A table with notes of pandas that say something else too."""
    table = pa.Table.from_pandas(frame)
    known = json.loads(table.schema.metadata[b"pandas"])
    return table.replace_schema_metadata({"pandas": json.dumps(known | notes)})


def by_polars(frame):
    return lambda path: pl.from_pandas(frame).write_parquet(path)


def by_arrow(table, **options):
    return lambda path: pq.write_table(table, path, **options)


WIDE = pd.DataFrame({f"a column with a long name, number {at}": [1, 2] for at in range(300)})
NESTED = pa.table({"a": [[{"x": 1, "y": ["z"]}]], "b": [{"x": dt.date(2025, 1, 1)}], "c": [[True]]})
KINDS = pa.table(
    {
        "a": pa.array([1], pa.uint8()),
        "b": pa.array([0], pa.timestamp("ns", "Europe/Paris")),
        "c": pa.array([None], pa.decimal128(20, 3)),
        "d": pa.array(["x"]).dictionary_encode(),
        "e": pa.array([0], pa.time64("ns")),
        "f": pa.array([b"xy"], pa.binary(2)),
        "g": pa.array([0.5], pa.float16()),
    }
)
WORDS = pa.table({"a": ["pandas", "ARROW:schema", "zebra"], "pandas": [1, 2, 3]})

WRITERS = {
    "pandas": NUMBERS.to_parquet,
    "pandas, without rows": NUMBERS[:0].to_parquet,
    "pandas, one row": NUMBERS[:1].to_parquet,
    "pandas, many rows": pd.concat([NUMBERS] * 7, ignore_index=True).to_parquet,
    "pandas, rows left out": NUMBERS[::2].to_parquet,
    "pandas, a range with steps": NUMBERS.set_axis(range(3, 603, 3)).to_parquet,
    "pandas, a stored index": NUMBERS.set_index("c").to_parquet,
    "pandas, without an index": lambda path: NUMBERS.to_parquet(path, index=False),
    "pandas, attributes": lambda path: _with_attributes(3).to_parquet(path),
    "pandas, other attributes": lambda path: _with_attributes(4).to_parquet(path),
    "pandas, categories": NUMBERS.astype("category").to_parquet,
    "pandas, wide": WIDE.to_parquet,
    "pandas, wider": WIDE.rename(columns=lambda name: name * 9).to_parquet,
    "pandas, no columns": pd.DataFrame(index=range(3)).to_parquet,
    "Arrow": by_arrow(pa.table({"a": [1, 2], "b": ["x", None]})),
    "Arrow, never null": by_arrow(
        pa.table([[1]], schema=pa.schema([pa.field("a", pa.int64(), nullable=False)]))
    ),
    "Arrow, no schema of its own": by_arrow(KINDS, store_schema=False),
    "Arrow, all kinds": by_arrow(KINDS),
    "Arrow, nested": by_arrow(NESTED),
    "Arrow, a note": by_arrow(KINDS.replace_schema_metadata({"é": b"\xff\0"})),
    "Arrow, notes on a column": by_arrow(
        pa.table([[1]], schema=pa.schema([pa.field("a", pa.int64(), metadata={"pandas": "x"})]))
    ),
    "Arrow, INT96": by_arrow(
        pa.table({"a": pa.array([0], pa.timestamp("ns"))}), use_deprecated_int96_timestamps=True
    ),
    "Arrow, version 1": by_arrow(KINDS, version="1.0"),
    "Arrow, no columns": by_arrow(pa.table({})),
    "Arrow, words of the notes": by_arrow(WORDS),
    "Arrow, words of the notes and no notes": by_arrow(WORDS, store_schema=False),
    "pandas, words of the notes": WORDS.to_pandas().to_parquet,
    "pandas, a note of the same name": by_arrow(
        with_notes(NUMBERS, {"attributes": {"pandas": "ARROW:schema"}})
    ),
    "pandas, notes that hold no JSON": by_arrow(
        pa.table({"a": [1]}).replace_schema_metadata({"pandas_like": "{", "x": "pandas"})
    ),
    "polars": by_polars(NUMBERS),
    "polars, few rows": by_polars(NUMBERS[:2]),
}


def _with_attributes(value):
    frame = NUMBERS.copy()
    frame.attrs = {"source": value}
    return frame


def expected(path):
    with pq.ParquetFile(path) as file:
        columns = file.metadata.schema
        physical = tuple(columns.column(leaf).physical_type for leaf in range(len(columns)))
        return file.metadata.num_rows, file.schema_arrow, physical


def stop_of(schema):
    """The schema, without the end of the range that is its index."""
    notes = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    for index in notes.get("index_columns", ()):
        if isinstance(index, dict):
            index["stop"] = 0
    return schema.remove_metadata(), notes


def check(got, path):
    rows, schema, physical = expected(path)
    status = Path(path).stat()
    assert got[:4] == (path, status.st_size, status.st_mtime_ns, rows)
    assert got.schema.physical == physical
    assert got.schema.arrow.equals(schema)
    assert stop_of(got.schema.arrow) == stop_of(schema)


@pytest.fixture
def written(tmp_path):
    """Two files of each writer, alternating."""
    paths = {}
    for number in range(2):
        for name, write in WRITERS.items():
            path = str(tmp_path / f"{name}-{number}.parquet")
            write(path)
            paths.setdefault(name, []).append(path)
    return paths


@pytest.mark.parametrize("name", WRITERS)
def test_a_footer_says_what_pyarrow_says(tmp_path, name):
    path = str(tmp_path / "file.parquet")
    WRITERS[name](path)
    reader = Footers()
    for _ in range(3):
        check(reader.read(path), path)


@pytest.mark.parametrize("order", ["forward", "backward", "alternating"])
def test_files_of_all_writers_do_not_mix(written, order):
    paths = [path for pair in written.values() for path in pair]
    if order == "alternating":
        paths = [path for number in range(2) for path in paths[number::2]]
    reader = Footers()
    schemas = {}
    for path in paths[:: -1 if order == "backward" else 1] * 2:
        got = reader.read(path)
        check(got, path)
        schemas.setdefault(path, got.schema)
    for one, other in written.values():
        assert schemas[one] is schemas[other]


def test_files_of_different_lengths_share_their_schema_and_its_parsing(tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(30)]
    for number, path in enumerate(paths):
        NUMBERS[: number + 100].to_parquet(path)
    parsed = []

    def note(path, real=pq.ParquetFile, **options):
        parsed.append(path)
        return real(path, **options)

    monkeypatch.setattr(footers.pq, "ParquetFile", note)
    reader = Footers()
    read = [reader.read(path) for path in paths]
    assert [footer.rows for footer in read] == [*range(100, 130)]
    assert len({id(footer.schema) for footer in read}) == 1
    assert len(parsed) == 1


def test_attributes_that_look_like_the_end_of_a_range_are_not_forgotten(
    tmp_path, load, assert_same
):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    for number, path in enumerate(paths):
        frame = NUMBERS.copy()
        frame.attrs = {"stop": number}
        pq.write_table(pa.Table.from_pandas(frame), path)
    reader = Footers()
    assert len({id(reader.read(path).schema) for path in paths}) == 3
    assert_same(load(None, paths), read_frame(paths))
    assert load(None, paths[1:2]).attrs == {"stop": 1}


def test_attributes_noted_before_the_rest_are_found(tmp_path):
    table = pa.Table.from_pandas(NUMBERS)
    notes = {b"PANDAS_ATTRS": b'{"source": "there"}', **table.schema.metadata}
    plain, other = str(tmp_path / "0.parquet"), str(tmp_path / "1.parquet")
    pq.write_table(table, plain)
    pq.write_table(table.replace_schema_metadata(notes), other)
    reader = Footers()
    for path in (plain, other, plain, other):
        assert (b"PANDAS_ATTRS" in reader.read(path).schema.arrow.metadata) == (path == other)


def test_a_footer_longer_than_what_is_read_at_once_is_read_whole(tmp_path):
    path = str(tmp_path / "wide.parquet")
    WIDE.to_parquet(path)
    length = int.from_bytes(Path(path).read_bytes()[-8:-4], "little")
    assert length > 2 * TAIL_BYTES
    check(Footers().read(path), path)


def test_files_whose_notes_differ_by_the_rows_alone_are_known_again(tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{rows}.parquet") for rows in (5, 7, 6)]
    for rows, path in zip((5, 7, 6), paths, strict=True):
        WIDE.sample(rows, replace=True, ignore_index=True).to_parquet(path)
    reader = Footers()
    for path in paths:
        check(reader.read(path), path)
    monkeypatch.setattr(footers, "comparable_notes", None)
    for path in paths:
        check(reader.read(path), path)


def _turn(content, place):
    changed = bytearray(content)
    changed[place] ^= 0xFF
    return bytes(changed)


BROKEN = {
    "empty": (lambda _: b"", r"it is empty \(0 bytes\)"),
    "short": (lambda content: content[:11], "not a Parquet file, or its end is missing"),
    "truncated": (lambda content: content[:-10], "not a Parquet file, or its end is missing"),
    "half": (lambda content: content[: len(content) // 2], "not a Parquet file, or its end is"),
    "text": (lambda _: b"no Parquet at all, but long", "not a Parquet file, or its end is missing"),
    "zeros": (lambda content: b"\0" * len(content), "not a Parquet file, or its end is missing"),
    "a footer longer than the file": (
        lambda content: content[:-8] + b"\xff\xff\xff\x7fPAR1",
        "Parquet file size is .* bytes, smaller than the size reported by footer",
    ),
    "a footer of garbage": (
        lambda content: content[:-900] + b"\xa7" * 892 + content[-8:],
        "Couldn't deserialize thrift|don't know what type",
    ),
    "magic bytes alone": (lambda _: b"PAR1" + b"\0" * 8 + b"PAR1", "."),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_parquet_is_an_error_that_says_so(tmp_path, name):
    good, path = tmp_path / "good.parquet", tmp_path / "broken.parquet"
    NUMBERS.to_parquet(good)
    spoil, words = BROKEN[name]
    path.write_bytes(spoil(good.read_bytes()))
    reader = Footers()
    for _ in range(2):
        with pytest.raises(ParquetFileError, match=words) as caught:
            reader.read(str(path))
        assert caught.value.path == str(path)
        with pytest.raises(ParquetFileError) as original:
            read_frame([path], ["a"])
        assert caught.value.reason == original.value.reason
        check(reader.read(str(good)), str(good))


def test_what_is_not_a_file_is_an_error_that_says_so(tmp_path):
    with pytest.raises(ParquetFileError, match="the file does not exist"):
        Footers().read(str(tmp_path / "none.parquet"))
    with pytest.raises(InputError, match="is a folder; name the files in it"):
        Footers().read(str(tmp_path))


@pytest.mark.parametrize("name", ["pandas", "Arrow, all kinds", "Arrow, nested", "polars"])
def test_damage_anywhere_in_a_footer_is_an_error_or_does_not_matter(tmp_path, name):
    good, path = str(tmp_path / "good.parquet"), tmp_path / "broken.parquet"
    WRITERS[name](good)
    content = Path(good).read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    start = len(content) - 8 - length
    reader = Footers()
    reader.read(good)
    random = np.random.default_rng(7)
    for place in [*range(start, start + 150), *random.integers(start, len(content), 150)]:
        path.write_bytes(_turn(content, place))
        for reads in (reader, Footers()):
            try:
                got = reads.read(str(path))
            except ParquetFileError:
                continue
            assert got.rows >= 0


def varint(number):
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def with_rows(content, rows):
    """A file whose footer says another number of rows, in as many bytes; its pages are as before.

    The number is that of all row groups together: those of each stay.
    """
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    at = start + schema_end(content[start:-8]) + 1
    now = varint(2 * pq.read_metadata(pa.BufferReader(content)).num_rows)
    claim = varint(rows << 1 if rows >= 0 else (-rows << 1) - 1)
    assert content[at : at + len(now)] == now
    footer = content[start:at] + claim + content[at + len(now) : -8]
    return content[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize("claim", [0, 99, 101, 250, 8000, -1, -100, 2**40, 2**62])
@pytest.mark.parametrize("groups", [1, 3])
def test_rows_that_the_row_groups_do_not_have_are_not_believed(
    tmp_path, load, assert_same, claim, groups
):
    paths = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    for path in paths:
        NUMBERS[:100].to_parquet(path, row_group_size=-(-100 // groups))
    Path(paths[1]).write_bytes(with_rows(Path(paths[1]).read_bytes(), claim))
    reader = Footers()
    assert [reader.read(path).sound for path in paths] == [True, False, True]
    try:
        expected = read_frame(paths)
    except ParquetFileError:
        with pytest.raises(ParquetFileError, match=r"1\.parquet"):
            load(None, paths)
    else:
        assert_same(load(None, paths), expected)
    assert_same(load(None, paths[::2]), read_frame(paths[::2]))


@pytest.mark.parametrize("sizes", [[], [5], [0, 5], [5, 0], [3, 5], [100], [1] * 20])
def test_the_rows_of_row_groups_are_those_that_arrow_sees(tmp_path, sizes):
    path = tmp_path / "a.parquet"
    for compressed in ("none", "snappy"):
        schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
        with pq.ParquetWriter(path, schema, compression=compressed) as writer:
            for size in sizes:
                columns = [pa.array(range(size)), pa.array(["text"] * size)]
                writer.write_table(pa.table(columns, schema=schema))
        groups = pq.read_metadata(path).num_row_groups
        reader = Footers()
        for _ in range(2):  # the second one recognises the schema
            opened = reader.open(str(path))
            assert opened.group_rows() == tuple(sizes)
            assert opened.groups() in {None, groups}
            assert opened.metadata().num_row_groups == groups


def test_row_groups_of_a_footer_that_claims_other_rows_are_those_that_it_lists(tmp_path):
    path = tmp_path / "a.parquet"
    NUMBERS[:100].to_parquet(path)
    path.write_bytes(with_rows(path.read_bytes(), 99))
    opened = Footers().open(str(path))
    assert opened.footer.rows == 99
    assert opened.group_rows() == (100,)


def test_counts_that_the_footer_has_no_bytes_for_end_its_parsing():
    endless = b"\x15\x02\x19\xfc" + b"\xff" * 9 + b"\x01"  # a version, then 2**64 structs
    nested = b"\x15\x02\x19" + b"\x19" * 100_000  # a list of a list of a list
    long = b"\x15" + b"\x80" * 100_000 + b"\x01"  # a number of 700,000 bits
    for footer in (endless, endless + b"\x00" * 1000, nested, long):
        assert schema_end(footer) == 0


@pytest.mark.parametrize("name", WRITERS)
def test_the_schema_ends_where_the_rows_follow(tmp_path, name):
    path = tmp_path / "file.parquet"
    WRITERS[name](path)
    content = path.read_bytes()
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") : -8]
    end = schema_end(footer)
    rows, shift, at = 0, 0, end + 1
    assert footer[end] == 0x16  # the next field, of 64 bits
    while True:
        rows |= (footer[at] & 0x7F) << shift
        if footer[at] < 0x80:
            break
        shift, at = shift + 7, at + 1
    assert rows >> 1 == pq.read_metadata(path).num_rows
    for cut in (0, 1, 5, end // 2, end - 1):
        assert schema_end(footer[:cut]) == 0


def test_threads_may_share_a_reader_of_footers(tmp_path):
    paths = [str(tmp_path / name) for name in ("whole", "broken")]
    for path, kind in zip(paths, (pa.int64(), pa.float64()), strict=True):
        pq.write_table(pa.table({"a": pa.array([1], kind)}), path, store_schema=False)
    for _ in range(50):
        reader = Footers()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(reader.read, paths * 8))
        assert {str(footer.schema.arrow.types[0]) for footer in found[::2]} == {"int64"}
        assert {str(footer.schema.arrow.types[0]) for footer in found[1::2]} == {"double"}


def test_a_file_that_is_replaced_meanwhile_does_not_spoil_what_is_known(tmp_path, monkeypatch):
    path, same = tmp_path / "file.parquet", tmp_path / "same.parquet"
    for each in (path, same):
        pq.write_table(pa.table({"a": [1]}), each, store_schema=False)
    reader, read_footer = Footers(), footers.read_footer

    def replaced_after(*arguments):
        found = read_footer(*arguments)
        pq.write_table(pa.table({"a": [0.5]}), path, store_schema=False)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(footers, "read_footer", replaced_after)
        reader.read(str(path))
    assert reader.read(str(same)).schema.arrow.types == [pa.int64()]
    assert reader.read(str(path)).schema.arrow.types == [pa.float64()]


@pytest.mark.parametrize("options", [{}, {"store_schema": False}])
def test_a_footer_that_ends_anywhere_is_an_error_that_names_the_file(tmp_path, options):
    path = tmp_path / "file.parquet"
    pq.write_table(pa.table({"a": range(1000)}), path, **options)
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8]
    reader = FrameReader(ThreadScheduler(0))
    reader.load([path])
    for end in range(length):
        short = footer[:end]
        path.write_bytes(b"PAR1" + short + len(short).to_bytes(4, "little") + b"PAR1")
        with pytest.raises(ParquetFileError, match=r"file\.parquet"):
            reader.load([path])


NOTED = pd.DataFrame(
    {"a": [1, 2], "t": pd.Categorical(["x", "y"]), "d": pd.to_datetime(["2025-01-01"] * 2)}
)


def spoiled(content, place, byte):
    changed = bytearray(content)
    changed[place] = byte
    return bytes(changed)


def notes_of(content):
    """Where Arrow's stored schema, which holds pandas' notes too, begins and ends."""
    start = content.index(b"/////", content.index(b"ARROW:schema"))
    return start, start + len(re.match(rb"[A-Za-z0-9+/=]+", content[start:])[0])


def result(read):
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - pandas raises anything
        return error


STORED_SCHEMA = {
    "no base64": (b"!!", r"its stored schema \(ARROW:schema\) is damaged \(.*base64"),
    "no message of Arrow's": (b"AAAAAAAA", r"its stored schema \(ARROW:schema\) is damaged \("),
}


@pytest.mark.parametrize("name", STORED_SCHEMA)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_schema_is_named_with_the_file_and_the_remedy(tmp_path, load, name, workers):
    spoil, words = STORED_SCHEMA[name]
    path = tmp_path / "a.parquet"
    NOTED.to_parquet(path)
    content = path.read_bytes()
    start, _ = notes_of(content)
    path.write_bytes(content[:start] + spoil + content[start + len(spoil) :])
    reads = (
        lambda: load(None, [str(path)], workers=workers),
        lambda: read_frame([path]),
        lambda: Footers().read(str(path)),
    )
    for read in reads:
        with pytest.raises(ParquetFileError, match=f"a.parquet: {words}.*; repair or remove"):
            read()


def test_damaged_notes_of_pandas_are_named_as_such(tmp_path, load):
    path = tmp_path / "a.parquet"
    table = pa.Table.from_pandas(NOTED)
    notes = table.schema.metadata[b"pandas"].replace(b"numpy_type", b"numpy_tipe")
    pq.write_table(table.replace_schema_metadata({b"pandas": notes}), path)
    words = "its stored schema for pandas is damaged .KeyError: 'numpy_type'.; repair or remove"
    for read in (lambda: load(None, [str(path)]), lambda: read_frame([path])):
        with pytest.raises(ParquetFileError, match=words):
            read()


def test_damage_in_the_stored_schema_is_an_error_exactly_where_pandas_has_one(
    tmp_path, load, assert_same
):
    path = tmp_path / "a.parquet"
    NOTED.to_parquet(path)
    content = path.read_bytes()
    start, end = notes_of(content)
    random = np.random.default_rng(7)
    equal = 0
    for place in random.integers(start, end, 150):
        path.write_bytes(spoiled(content, place, random.choice(list(b"ABCz09+!"))))
        expected = result(lambda: pd.read_parquet(path))
        found = result(lambda: load(None, [str(path)]))
        if isinstance(expected, Exception):
            assert isinstance(found, ParquetFileError), (place, expected, found)
        else:
            assert_same(found, expected)
            equal += 1
    assert 0 < equal < 150


def test_damage_elsewhere_is_not_called_one_of_the_schema(tmp_path):
    path = tmp_path / "a.parquet"
    NOTED.to_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(content)
    with pytest.raises(ParquetFileError) as caught:
        read_frame([path])
    assert "stored schema" not in str(caught.value)
