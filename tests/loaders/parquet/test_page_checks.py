"""Footers, levels and decoded nulls of good files agree; damage to levels makes them differ."""

import io
import random
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.parquet import page_checks
from feedrate.loaders.parquet.page_checks import Decoded, agree

ROWS = 3000
BY_ARROW = {
    "as pandas writes": {},
    "uncompressed": {"compression": "none"},
    "pages of version 2": {"data_page_version": "2.0", "compression": "zstd"},
    "no dictionaries": {"use_dictionary": False, "compression": "none"},
    "checksums": {"write_page_checksum": True, "compression": "none"},
    "an index of pages": {"write_page_index": True, "compression": "none"},
    "row groups": {"row_group_size": 700, "compression": "none"},
    "short pages": {"data_page_size": 500, "compression": "none"},
    "no statistics": {"write_statistics": False},
    "statistics of one column": {"write_statistics": ["i"]},
}
BY_POLARS = {
    "polars": {},
    "polars, uncompressed": {"compression": "uncompressed"},
    "polars, row groups": {"row_group_size": 700},
    "polars, no statistics": {"statistics": False},
}
WRITERS = [*BY_ARROW, *BY_POLARS]


@pytest.fixture(autouse=True)
def _small_is_large_enough(monkeypatch):
    monkeypatch.setattr(page_checks, "LEVELS_FROM_BYTES", 0)
    monkeypatch.setattr(page_checks, "LEVELS_PART", 1)


def table(missing, rows=ROWS):
    draw = np.random.default_rng(0)
    mask = missing(draw, rows)
    whole = draw.integers(0, 50, rows)
    columns = {
        "i": whole,
        "x": draw.normal(size=rows),
        "b": whole > 25,
        "f": draw.normal(size=rows).astype("float32"),
        "when": whole.astype("datetime64[us]"),
        "s": np.array([f"player {number}" for number in whole], object),
        "a long text, named with é": np.array([f"{'z' * 300}{number}" for number in whole], object),
    }
    kinds = {"s": pa.string(), "a long text, named with é": pa.string()}
    return pa.table({
        name: pa.array(values, kinds.get(name), mask=mask) for name, values in columns.items()
    })  # fmt: skip


def written(content, writer):
    file = io.BytesIO()
    if writer in BY_POLARS:
        pl.from_arrow(content).write_parquet(file, **BY_POLARS[writer])
    else:
        pq.write_table(content, file, **BY_ARROW[writer])
    return file.getvalue()


class Held(NamedTuple):
    size: int
    rows: int
    data: bytes

    def read(self, at, count):
        return self.data[at : at + count]


def source(data, rows):
    return Held(len(data), rows, data)


def decoded(content, more=0):
    return [
        Decoded(name, leaf, content[name].null_count + more)
        for leaf, name in enumerate(content.column_names)
    ]


MISSING = {
    "none": lambda _, rows: np.zeros(rows, bool),
    "few": lambda draw, rows: draw.random(rows) < 0.01,
    "many": lambda draw, rows: draw.random(rows) < 0.4,
    "all": lambda _, rows: np.ones(rows, bool),
    "long runs": lambda _, rows: np.arange(rows) // 600 % 2 == 0,
}


@pytest.mark.parametrize("missing", MISSING.values(), ids=MISSING)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_good_file_agrees_with_itself(writer, missing):
    content = table(missing)
    data = written(content, writer)
    files = [source(data, ROWS), source(data, ROWS)]
    columns = [one._replace(nulls=2 * one.nulls) for one in decoded(content)]
    assert agree(files, columns, len(columns))


@pytest.mark.parametrize("writer", [one for one in WRITERS if "no statistics" not in one])
def test_other_nulls_than_the_statistics_count_are_seen(writer):
    content = table(MISSING["few"])
    columns = decoded(content)
    more = [columns[0]._replace(nulls=columns[0].nulls + 1), *columns[1:]]
    assert not agree([source(written(content, writer), ROWS)], more, len(columns))


def test_without_statistics_there_is_nothing_to_compare():
    content = table(MISSING["few"])
    data = written(content, "no statistics")
    assert agree([source(data, ROWS)], decoded(content, more=1), len(content.column_names))


@pytest.mark.parametrize("writer", ["uncompressed", "pages of version 2", "polars, uncompressed"])
def test_levels_that_are_neither_runs_nor_bits_are_seen(writer):
    content = table(MISSING["long runs"]).select(["i"])
    data = bytearray(written(content, writer))
    at = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0).data_page_offset
    seen = 0
    for place in range(at, at + 150):
        damaged = bytes([*data[:place], data[place] | 0x80, *data[place + 1 :]])
        seen += not agree([source(damaged, ROWS)], decoded(content), 1)
    assert seen > 20  # all but the statistics in the header, and the values


def test_columns_are_told_apart_where_only_some_are_loaded_and_a_struct_lies_between():
    content = table(MISSING["few"]).select(["i", "x"])
    nested = pa.array([{"x": k, "y": None} for k in range(ROWS)])
    whole = content.add_column(1, "n", nested)
    wanted = [Decoded("x", 3, content["x"].null_count)]
    data = written(whole, "as pandas writes")
    assert agree([source(data, ROWS)], wanted, 4)
    assert not agree([source(data, ROWS)], [wanted[0]._replace(nulls=0)], 4)


@pytest.mark.parametrize("writer", WRITERS)
def test_any_damage_to_pages_or_footer_gives_an_answer(writer):
    content = table(MISSING["few"], rows=300)
    data = written(content, writer)
    draw = random.Random(0)  # noqa: S311 - no secret
    for _ in range(100):
        found = bytearray(data)
        at = draw.randrange(4, len(data) - 8)
        found[at : at + draw.randrange(1, 9)] = draw.randbytes(8)
        answer = agree([source(bytes(found), 300)], decoded(content), len(content.column_names))
        assert answer in (True, False)
