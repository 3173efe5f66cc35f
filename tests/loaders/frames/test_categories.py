"""Columns of categories: decoded once, and then what pandas.concat makes of them."""

import itertools

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


def categorical(values, categories, *, ordered=False):
    return pd.Categorical(values, categories=categories, ordered=ordered)


A_TO_C = ["a", "b", "c"]
DIGITS = [str(number) for number in range(10)]
FILES = {
    "the same": [categorical(["a", "c"], A_TO_C), categorical(["b", None], A_TO_C)],
    "the same, unused": [categorical(["a"], A_TO_C), categorical(["a"], A_TO_C)],
    "in another order": [
        categorical(["a", "c"], A_TO_C), categorical(["a", None], ["c", "b", "a"]),
    ],
    "others": [categorical(["a", "b"], ["a", "b"]), categorical(["c", None], ["c", "a"])],
    "more": [categorical(["a"], ["a"]), categorical(["b", "a"], ["a", "b"])],
    "ordered": [
        categorical(["a", "b"], A_TO_C, ordered=True), categorical(["c"], A_TO_C, ordered=True),
    ],
    "ordered, in another order": [
        categorical(["a", "b"], A_TO_C, ordered=True),
        categorical(["c"], ["c", "b", "a"], ordered=True),
    ],
    "all null": [categorical(["a", "b"], A_TO_C), categorical([None, None], A_TO_C)],
    "none at all": [categorical([None], []), categorical([None, None], [])],
    "none, then some": [categorical([None], []), categorical(["a"], ["a"])],
    "no rows": [
        categorical(["a", "b"], A_TO_C), categorical([], A_TO_C), categorical(["c"], A_TO_C),
    ],
    "nine, then ten": [
        categorical(["3"], DIGITS[:9]), categorical(["9"], DIGITS), categorical(["8"], DIGITS[:9]),
    ],
    "numbers": [categorical([1, 2], [1, 2]), categorical([3], [3])],
    "the same numbers": [categorical([1, 2], [2, 1]), categorical([1], [2, 1])],
    "text and categories": [pd.array(["a", "b"], "str"), categorical(["a"], ["a"])],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:column 'c' is")
@pytest.mark.parametrize(
    ("cache", "workers"), [("none", 0), ("none", 2), ("memory", 2), ("disk", 2)]
)
@pytest.mark.parametrize("name", FILES)
def test_categories_of_files_become_what_concat_makes_of_them(
    name, cache, workers, tmp_path, assert_same
):
    paths = []
    for number, column in enumerate(FILES[name]):
        frame = pd.DataFrame({
            "n": np.arange(len(column)) + number, "c": column,
            "s": pd.array([f"s{k}" for k in range(len(column))], "str"),
        })  # fmt: skip
        paths.append(tmp_path / f"{number}.parquet")
        frame.to_parquet(paths[-1])
    paths = paths[:1] + paths + paths[::-1]
    expected = read_frame(paths)
    reader = FrameReader(ThreadScheduler(workers), cache=make_cache(cache, tmp_path / "cache"))
    for wanted in (paths, paths[2:], paths):
        assert_same(reader.load(wanted), read_frame(wanted))
    assert_same(reader.load(paths, ["c"]), expected[["c"]])


@pytest.mark.parametrize("workers", [0, 2])
def test_row_groups_of_a_file_share_its_categories(workers, tmp_path, assert_same):
    groups = [["a", "b"], ["b", "c"], ["d", "a"]]
    paths = []
    for number, order in enumerate(itertools.permutations(groups)):
        paths.append(str(tmp_path / f"{number}.parquet"))
        kind = pa.dictionary(pa.int32(), pa.string())
        schema = pa.schema([("c", kind), ("n", pa.int64())])
        with pq.ParquetWriter(paths[-1], schema) as writer:
            for values in order:
                column = pa.array(values).dictionary_encode()
                writer.write_table(pa.table([column, [1, 2]], schema=schema))
    reader = FrameReader(ThreadScheduler(workers))
    for some in (paths, paths[:1], paths[:1] * 3):
        assert_same(reader.load(some), read_frame(some))


def test_files_with_categories_are_decoded_together(tmp_path, monkeypatch):
    calls = []
    real = parts.decode_with_polars
    monkeypatch.setattr(
        parts,
        "decode_with_polars",
        lambda files, layout: calls.append(len(files)) or real(files, layout),
    )
    for number in range(40):
        categories = [str(number) for number in range(5 + number % 9)]
        pd.DataFrame({"n": [number], "c": categorical(["0"], categories)}).to_parquet(
            tmp_path / f"{number:02}.parquet"
        )
    FrameReader(ThreadScheduler(2)).load(sorted(tmp_path.iterdir()))
    assert sum(calls) == 40
    assert len(calls) <= 2 * parts.PARTS_PER_WORKER
