"""Dictionaries from their pages are those that Arrow reads, or left to Arrow."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders.base.errors import ParquetFileError
from feedrate.loaders.base.schedule import ThreadScheduler
from feedrate.loaders.frames import engine, parts
from feedrate.loaders.frames.reader import FrameReader
from feedrate.loaders.parquet import dictionaries
from feedrate.loaders.parquet.dictionaries import in_codes, pages_of, read_dictionaries
from feedrate.loaders.parquet.original import read_frame
from hypothesis import given
from hypothesis import strategies as st

KIND = pa.dictionary(pa.int8(), pa.string())


class File:
    """A file's bytes, as `page_checks.Source`."""

    def __init__(self, path):
        self.data = path.read_bytes()
        self.size, self.rows = len(self.data), pq.read_metadata(path).num_rows

    def read(self, at, count):
        return self.data[at : at + count]


def by_arrow(path, name="c"):
    column = pq.read_table(path, columns=[name]).column(0)
    return column.chunk(0).dictionary.to_pylist()


def read(*paths, name="c"):
    found = read_dictionaries(pages_of([File(path) for path in paths], name), pa.string())
    return None if found is None else [one.to_pylist() for one in found]


CODECS = ("none", "snappy", "gzip", "brotli", "zstd", "lz4")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("page", ["1.0", "2.0"])
def test_they_are_read_in_order_with_the_values_that_no_row_has(tmp_path, codec, page):
    path = tmp_path / "a.parquet"
    categories = ["unused", "b", "é", "", "a", "also unused"]
    frame = pd.DataFrame({
        "n": range(4), "c": pd.Categorical(["b", None, "", "é"], categories), "x": [0.5] * 4,
    })  # fmt: skip
    frame.to_parquet(path, compression=codec, data_page_version=page)
    assert read(path) == [categories] == [by_arrow(path)]


def test_files_with_the_same_page_share_one(tmp_path):
    paths = [tmp_path / f"{number}.parquet" for number in range(3)]
    for path, categories in zip(paths, (["a", "b"], ["a", "b"], ["b", "a"]), strict=True):
        pd.DataFrame({"c": pd.Categorical(["a"], categories)}).to_parquet(path)
    first, second, third = read_dictionaries(
        pages_of([File(path) for path in paths], "c"), pa.string()
    )
    assert first is second
    assert third.to_pylist() == ["b", "a"]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=60, unique=True))
def test_any_text_is_read_as_arrow_reads_it(tmp_path_factory, categories):
    path = tmp_path_factory.mktemp("any") / "a.parquet"
    codes = pa.array(np.arange(len(categories)).repeat(2), pa.int16())
    column = pa.DictionaryArray.from_arrays(codes, pa.array(categories))
    pq.write_table(pa.table({"c": column}), path)
    assert read(path) == [by_arrow(path)]


def left_to_arrow(path):
    """What is not read from one short and plain page."""
    values = pa.array([f"name {number}" for number in range(2000)])
    many = pa.DictionaryArray.from_arrays(pa.array(range(2000), pa.int16()), values)
    few = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["a", "b"]))
    return {
        "several row groups": lambda: pq.write_table(
            pa.table({"c": many}), path, row_group_size=500
        ),
        "a long page": lambda: pq.write_table(pa.table({"c": many}), path),
        "no dictionary": lambda: pq.write_table(pa.table({"c": few}), path, use_dictionary=False),
        "no values": lambda: pd.DataFrame({"c": pd.Categorical([None])}).to_parquet(path),
        "no such column": lambda: pq.write_table(pa.table({"d": few}), path),
        "bytes that are not UTF-8": lambda: pq.write_table(
            pa.table({"c": pa.array([b"\xff", b"a"])}), path
        ),
    }


@pytest.mark.parametrize("what", left_to_arrow(None))
def test_what_is_kept_otherwise_is_left_to_arrow(tmp_path, what):
    path = tmp_path / "a.parquet"
    left_to_arrow(path)[what]()
    assert read(path) is None


def test_a_page_that_is_damaged_is_left_to_arrow(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pd.DataFrame({"c": pd.Categorical(["a", "b", "c"] * 9, ["c", "b", "a", "d"])})
    frame.to_parquet(path, compression="none")
    good = path.read_bytes()
    start = good.index(b"\x01\0\0\0c\x01\0\0\0b")
    for at in range(4, start + 20):
        for bit in range(8):
            data = bytearray(good)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            found = read(path)
            assert found is None or found == [_or_none(by_arrow, path)], (at, bit)


def _or_none(work, path):
    try:
        return work(path)
    except (pa.ArrowException, OSError):
        return None


def test_a_file_that_was_cut_is_left_to_arrow(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"c": pd.Categorical(["a", "b"])}).to_parquet(path)
    source = File(path)
    source.data = source.data[:20] + source.data[-source.size + 60 :]
    assert read_dictionaries(pages_of([source], "c"), pa.string()) is None


def test_text_becomes_codes_by_each_files_own_dictionary():
    text = pa.array(["a", "b", None, "b", "c", "a"], pa.large_string())
    one, other = pa.array(["b", "a"]), pa.array(["c", "a"])
    first, second = in_codes(text, [one, one, other], [2, 2, 2], KIND)
    assert first.indices.to_pylist() == [1, 0, None, 0]
    assert second.indices.to_pylist() == [0, 1]
    assert first.type == KIND
    assert pa.chunked_array([first, second]).to_pylist() == text.to_pylist()


@pytest.mark.parametrize("text", [["a", "x"], ["x", None]])
def test_a_value_that_its_dictionary_lacks_is_an_error(text):
    text = pa.array(text, pa.large_string())
    with pytest.raises(pa.ArrowInvalid, match="not in its file's dictionary"):
        in_codes(text, [pa.array(["a"])], [2], KIND)


def test_more_values_than_the_type_has_codes_for_are_an_error():
    values = pa.array([str(number) for number in range(200)])
    with pytest.raises(pa.ArrowInvalid):
        in_codes(values.cast(pa.large_string()), [values], [200], KIND)


def test_long_pages_are_those_beyond_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"c": pd.Categorical(["a", "b"])}).to_parquet(path)
    assert read(path) == [["a", "b"]]
    monkeypatch.setattr(dictionaries, "LONGEST_PAGE", 8)
    assert read(path) is None


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("whole", [True, False])
def test_categories_of_any_codec_are_loaded_by_several_threads(
    tmp_path, monkeypatch, codec, whole, assert_same
):
    monkeypatch.setattr(engine, "POLARS_FROM_BYTES", 0)
    monkeypatch.setattr(engine, "IMPORT_S", 0)
    monkeypatch.setattr(engine, "WHOLE_BYTES", 1 << 20 if whole else 0)
    monkeypatch.setattr(parts, "POLARS_PART_S", 1e-9)
    paths = [str(tmp_path / f"{number:02}.parquet") for number in range(60)]
    for number, path in enumerate(paths):
        text = [f"name {(number + row) % 50}" for row in range(40)]
        pd.DataFrame({"c": pd.Categorical(text)}).to_parquet(path, compression=codec)
    expected = read_frame(paths)
    for _ in range(3):
        assert_same(FrameReader(ThreadScheduler(4, 4)).load(paths), expected)


@pytest.mark.parametrize("codec", CODECS)
def test_a_damaged_page_is_the_error_of_its_file_or_skips_it(
    tmp_path, monkeypatch, codec, assert_same
):
    monkeypatch.setattr(engine, "POLARS_FROM_BYTES", 0)
    monkeypatch.setattr(engine, "IMPORT_S", 0)
    paths = [str(tmp_path / f"{number}.parquet") for number in range(5)]
    for path in paths:
        column = pd.Categorical(["a" * 40, "b" * 30] * 20)
        pd.DataFrame({"c": column}).to_parquet(path, compression=codec)
    data = bytearray(Path(paths[2]).read_bytes())
    data[20:50] = bytes(30)
    Path(paths[2]).write_bytes(data)
    others = [path for path in paths if path != paths[2]]
    try:
        expected = read_frame(paths)
    except ParquetFileError:
        with pytest.raises(ParquetFileError, match=r"2\.parquet"):
            FrameReader(ThreadScheduler(2)).load(paths)
        reader = FrameReader(ThreadScheduler(2), on_error="skip")
        assert_same(reader.load(paths), read_frame(others))
        assert [error.path for error in reader.skipped] == [paths[2]]
    else:
        assert_same(FrameReader(ThreadScheduler(2)).load(paths), expected)
