"""Small files of one schema become one file of the same rows, or stay as they are."""

import random
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.base.errors import FeedrateWarning, ParquetFileError
from feedrate.loaders.base.schedule import ThreadScheduler
from feedrate.loaders.frames import engine, joined, parts
from feedrate.loaders.frames.joined import UnusualFooterError, join
from feedrate.loaders.frames.reader import FrameReader
from feedrate.loaders.parquet.dictionaries import pages_of
from feedrate.loaders.parquet.footers import Content, Footers
from feedrate.loaders.parquet.original import read_frame
from feedrate.loaders.parquet.sources import Held
from feedrate.loaders.parquet.thrift import varint

FILES = 20  # more than a list's short header counts
WRITERS = {
    "as pandas writes": {},
    "uncompressed": {"compression": "none"},
    "pages of version 2": {"data_page_version": "2.0", "compression": "zstd"},
    "no dictionaries": {"use_dictionary": False},
    "dictionaries of some columns": {"use_dictionary": ["s"]},
    "checksums": {"write_page_checksum": True},
    "an index of pages": {"write_page_index": True},
    "short pages": {"data_page_size": 50},
    "no statistics": {"write_statistics": False},
    "statistics of one column": {"write_statistics": ["i"]},
    "by polars": None,
}
COLUMNS = {
    "i": lambda draw, rows: pa.array(draw.integers(-50, 50, rows), mask=draw.random(rows) < 0.1),
    "required": lambda draw, rows: pa.array(draw.integers(0, 9, rows)),
    "x": lambda draw, rows: pa.array(draw.normal(size=rows)),
    "b": lambda draw, rows: pa.array(draw.random(rows) < 0.5, mask=draw.random(rows) < 0.1),
    "s": lambda draw, rows: pa.array([f"player {n}" for n in draw.integers(0, 9, rows)]),
    "a long name, with é": lambda _, rows: pa.array([f"{'z' * 300}{n}" for n in range(rows)]),
    "nothing": lambda _, rows: pa.array([None] * rows, pa.float64()),
    "when": lambda draw, rows: pa.array(
        draw.integers(0, 10**6, rows).astype("datetime64[us]"), pa.timestamp("us", "Europe/Paris")
    ),
    "price": lambda draw, rows: pa.array(draw.integers(0, 99, rows).astype("int32")).cast(
        pa.decimal128(12, 2)
    ),
    "list": lambda draw, rows: pa.array(
        [[1, None][:n] for n in draw.integers(0, 3, rows)], pa.list_(pa.int64())
    ),
    "struct": lambda _, rows: pa.array([{"i": n, "name": str(n)} for n in range(rows)]),
}
FLAT = [name for name in COLUMNS if name != "list"]  # of which nulls decide on the types


def table(number):
    draw, rows = np.random.default_rng(number), number % 7 + 1
    fields = {name: make(draw, rows) for name, make in COLUMNS.items()}
    schema = pa.schema([
        pa.field(name, values.type, nullable=name != "required") for name, values in fields.items()
    ])  # fmt: skip
    return pa.table(fields, schema)


def write(content, path, options):
    if options is None:
        pl.from_arrow(content).write_parquet(path)
    else:
        pq.write_table(content, path, **options)
    return str(path)


def write_all(folder, options):
    return [write(table(at), folder / f"{at:02}.parquet", options) for at in range(FILES)]


def held(paths):
    footers = Footers()
    return [Held(footers.read(str(path))) for path in paths]


def little_is_enough(monkeypatch):
    """Have polars decode whatever it may."""
    monkeypatch.setattr(engine, "POLARS_FROM_BYTES", 0)
    monkeypatch.setattr(engine, "IMPORT_S", 0)


def joined_of(paths):
    sources = held(paths)
    return join(sources, sources[0].file.schema.arrow)


@pytest.mark.parametrize("options", WRITERS.values(), ids=WRITERS)
def test_the_rows_are_those_of_the_files_in_order(tmp_path, options):
    paths = write_all(tmp_path, options)
    one = joined_of(paths)
    file = pq.ParquetFile(pa.BufferReader(one.data))
    expected = pa.concat_tables(pq.read_table(path) for path in paths)
    assert file.metadata.num_row_groups == FILES
    assert file.read().equals(expected)
    assert pl.read_parquet(one.data).equals(pl.read_parquet(paths))
    assert pl.read_parquet(one.data).schema == pl.read_parquet(paths).schema


@pytest.mark.parametrize("options", WRITERS.values(), ids=WRITERS)
def test_nulls_are_those_of_the_statistics(tmp_path, options):
    paths = write_all(tmp_path, options)
    one = joined_of(paths)
    groups = [pq.ParquetFile(path).metadata.row_group(0) for path in paths]
    for column in range(groups[0].num_columns):
        statistics = [group.column(column).statistics for group in groups]
        known = all(found is not None and found.has_null_count for found in statistics)
        expected = sum(found.null_count for found in statistics) if known else None
        assert one.nulls(column) == expected


@pytest.mark.parametrize("options", WRITERS.values(), ids=WRITERS)
def test_dictionaries_are_those_that_each_footer_leads_to(tmp_path, options):
    paths = write_all(tmp_path, options)
    one, sources = joined_of(paths), held(paths)
    for column, name in enumerate(list(COLUMNS)[:9]):
        expected = list(pages_of(sources, name))
        found = list(one.dictionaries(column))
        if expected == [None]:  # the first without one ends the search
            assert found[0] is None
        else:
            assert found == expected


def test_many_columns_are_joined(tmp_path):
    frame = pd.DataFrame(np.arange(2000.0).reshape(2, 1000)).rename(columns=str)
    paths = [str(tmp_path / name) for name in ("a", "b")]
    for path in paths:
        frame.to_parquet(path)
    assert pl.read_parquet(joined_of(paths).data).equals(pl.read_parquet(paths))


NOT_JOINED = {
    "several row groups": lambda content, path: pq.write_table(content, path, row_group_size=1),
    "another order of columns": lambda content, path: pq.write_table(
        content.select(content.column_names[::-1]), path
    ),
    "a column that may not be null": lambda content, path: pq.write_table(
        content.cast(content.schema.set(2, content.schema.field(2).with_nullable(False))), path
    ),
    "no rows": lambda content, path: pq.write_table(content.slice(0, 0), path),
}


@pytest.mark.parametrize("write_other", NOT_JOINED.values(), ids=NOT_JOINED)
def test_a_file_of_another_kind_is_decoded_with_the_others_but_not_joined(
    tmp_path, monkeypatch, write_other, assert_same
):
    paths = [write(table(at), tmp_path / f"{at}.parquet", {}) for at in (1, 2, 3)]
    assert joined_of(paths) is not None
    write_other(table(2), paths[1])
    assert joined_of(paths) is None
    little_is_enough(monkeypatch)
    monkeypatch.setattr(parts, "decode_with_arrow", lambda *_: pytest.fail("Arrow decodes"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeedrateWarning)
        found = FrameReader(ThreadScheduler(2)).load(paths, FLAT)
    assert_same(found, read_frame(paths, FLAT))


@pytest.mark.parametrize("name", ["pandas", "ARROW:schema"])
def test_names_and_values_like_those_of_notes_do_not_matter(tmp_path, name):
    frame = pd.DataFrame({name: [name, name], "n": [1, 2]})
    paths = [str(tmp_path / f"{number}.parquet") for number in range(4)]
    for path in paths:
        frame.to_parquet(path)
    assert pl.read_parquet(joined_of(paths).data).equals(pl.read_parquet(paths))


def test_files_whose_layout_is_not_known_are_decoded_by_polars_but_not_joined(
    tmp_path, monkeypatch, assert_same
):
    paths = write_all(tmp_path, {})
    monkeypatch.setattr(joined, "read_chunks", lambda *_: None)  # of all files alike
    little_is_enough(monkeypatch)
    monkeypatch.setattr(parts, "decode_with_arrow", lambda *_: pytest.fail("Arrow decodes"))
    assert_same(FrameReader(ThreadScheduler(2)).load(paths, FLAT), read_frame(paths, FLAT))


NUMBERS = ["values", "uncompressed", "compressed", "data page", "dictionary"]


def with_number(data, which, change):
    """A file whose footer has another number of as many bytes at one place."""
    path = b"\x19\x18\x08required\x15"
    at = data.index(path) + len(path) + 2  # after the codec
    for _ in range(NUMBERS.index(which)):
        _, at = varint(data, at)
        at += 1
    _, end = varint(data, at)
    number = change(bytearray(data[at:end]))
    return data[:at] + number + data[end:]


def most(number):
    """The largest, which is even as zigzag numbers are that are not negative."""
    return bytes([0x7E]) if len(number) == 1 else b"\xfe" + b"\xff" * (len(number) - 2) + b"\x7f"


def negative(number):
    number[0] |= 1
    return number


@pytest.mark.parametrize("change", [most, negative])
@pytest.mark.parametrize("which", NUMBERS)
def test_numbers_that_cannot_be_are_not_believed(tmp_path, which, change):
    paths = write_all(tmp_path, {"compression": "none"})
    file = tmp_path / "06.parquet"
    file.write_bytes(with_number(file.read_bytes(), which, change))
    if which == "uncompressed" and change is most:  # nothing tells how much it is
        assert pl.read_parquet(joined_of(paths).data).equals(pl.read_parquet(paths))
    else:
        with pytest.raises(UnusualFooterError):
            joined_of(paths)


def test_no_damaged_footer_leads_out_of_its_file(tmp_path):
    draw = random.Random(0)  # noqa: S311 - no secret
    first = tmp_path / "a.parquet"
    write(table(4), first, {})
    good = first.read_bytes()
    size = int.from_bytes(good[-8:-4], "little")
    sources, arrow = held([first]) * 3, held([first])[0].file.schema.arrow
    before, joined_files = bytes(sources[0].data), 0
    for _ in range(1000):
        damaged = bytearray(good)
        for _ in range(draw.choice([1, 1, 3])):
            damaged[draw.randrange(len(good) - 8 - size, len(good) - 8)] = draw.randrange(256)
        other = Held(sources[0].file._replace(content=Content(bytes(damaged))))
        try:
            found = join([sources[0], other, sources[2]], arrow)
        except UnusualFooterError:
            continue
        if found is None:
            continue
        joined_files += 1
        groups = pq.ParquetFile(pa.BufferReader(found.data)).metadata
        for column in range(groups.num_columns):
            chunk = groups.row_group(1).column(column)
            start = chunk.data_page_offset - (len(before) - 8 - size)
            assert 4 <= start <= start + chunk.total_compressed_size <= len(before) - 8 - size
            _, page, _ = found.dictionaries(column)
            assert page is None or page[1] == before[start : start + len(page[1])]
        rows = pq.ParquetFile(pa.BufferReader(found.data))
        for group in (0, 2):
            assert rows.read_row_group(group).equals(pq.read_table(first))
    assert 100 < joined_files < 2000


def test_damage_to_a_footer_is_the_error_of_its_file(tmp_path, monkeypatch, assert_same):
    little_is_enough(monkeypatch)
    paths = [write(table(6), tmp_path / name, {}) for name in ("a", "b", "c")]
    good = Path(paths[1]).read_bytes()
    start = good.index(b"\x19\x18\x08required") - 100
    refused = 0
    for at in range(start, start + 200, 2):
        damaged = bytearray(good)
        damaged[at] ^= 1 << at % 7
        Path(paths[1]).write_bytes(damaged)
        try:
            expected = read_frame(paths)
        except ParquetFileError:
            refused += 1
            with pytest.raises(ParquetFileError, match="b: "):
                FrameReader(ThreadScheduler(2)).load(paths)
        else:
            assert_same(FrameReader(ThreadScheduler(2)).load(paths), expected)
    assert refused > 30


@pytest.mark.parametrize("columns", [None, ["x", "s"], ["list", "i"]])
def test_a_load_joins_small_files_and_is_the_originals(tmp_path, monkeypatch, assert_same, columns):
    little_is_enough(monkeypatch)
    opened = []

    def noted(*args):
        opened.append(join(*args))
        return opened[-1]

    monkeypatch.setattr(engine, "join", noted)
    paths = write_all(tmp_path, {})
    assert_same(FrameReader(ThreadScheduler(2)).load(paths, columns), read_frame(paths, columns))
    assert opened
    assert None not in opened
