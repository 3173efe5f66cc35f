"""The plain stream: files one after the other, each file's rows in batches of their own."""

import numpy as np
import pandas as pd
import pytest
from feedrate.loaders.base.errors import ColumnError, FeedrateWarning, ParquetFileError
from feedrate.loaders.base.settings import LoaderSettings
from feedrate.loaders.training.matrix import Columns
from feedrate.loaders.training.original_training import PlainStream


@pytest.fixture
def paths(tmp_path):
    """Files of 5, 2 and 4 rows; the second lacks `b`, the last has nothing but `a`."""
    frames = [
        pd.DataFrame({"a": range(5), "b": 1.5, "y": True}),
        pd.DataFrame({"a": range(5, 7), "y": False}),
        pd.DataFrame({"a": range(7, 11)}),
    ]
    paths = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    for path, frame in zip(paths, frames, strict=True):
        frame.to_parquet(path)
    return paths


def settings(**given):
    return LoaderSettings(**{"backend": "original", "batch_size": 2, "shuffle": False, **given})


def test_batches_hold_rows_of_one_file(paths):
    stream = PlainStream(paths, Columns.of(["a"]), settings())
    for _ in range(2):
        assert [x[:, 0].tolist() for x in stream] == [
            [0, 1], [2, 3], [4], [5, 6], [7, 8], [9, 10],
        ]  # fmt: skip


def test_batches_that_are_not_full_can_be_left_out(paths):
    stream = PlainStream(paths, Columns.of(["a"]), settings(drop_last=True))
    assert [x[:, 0].tolist() for x in stream] == [[0, 1], [2, 3], [5, 6], [7, 8], [9, 10]]
    assert list(PlainStream(paths, Columns.of(["a"]), settings(drop_last=True, batch_size=6))) == []


def test_shuffled_rows_stay_in_their_file_and_the_seed_decides_their_order(paths):
    def epochs(seed):
        stream = PlainStream(paths, Columns.of(["a"]), settings(shuffle=True, seed=seed))
        return [np.concatenate([x[:, 0] for x in stream]).tolist() for _ in range(2)]

    first, second = epochs(1)
    assert sorted(first[:5]) == [0, 1, 2, 3, 4]
    assert sorted(first[7:]) == [7, 8, 9, 10]
    assert first != second
    assert epochs(1) == [first, second]


def test_a_column_that_a_file_lacks_is_null_there(paths):
    columns = Columns.of(["b", "a"], "y", null_value=-1)
    with pytest.warns(FeedrateWarning, match="target 'y' has 4 nulls among 4 rows"):
        batches = list(PlainStream(paths, columns, settings(batch_size=5)))
    assert [x[:, 0].tolist() for x, _ in batches] == [[1.5] * 5, [-1, -1], [-1] * 4]
    assert [y.tolist() for _, y in batches] == [[1] * 5, [0, 0], [-1] * 4]
    with pytest.warns(FeedrateWarning):
        alone = list(PlainStream(paths, Columns.of(["b"], "y"), settings(batch_size=5)))
    assert [len(x) for x, _ in alone] == [5, 2, 4]  # also of the file that has neither


def test_a_column_that_no_file_has_is_an_error(paths):
    with pytest.raises(ColumnError, match="no file has a column 'c'; the columns are: a, b, y"):
        PlainStream(paths, Columns.of(["a", "c"]), settings())


def test_a_column_that_pandas_makes_an_index_is_not_taken_for_null(tmp_path):
    path = tmp_path / "indexed.parquet"
    pd.DataFrame({"a": [1]}, index=pd.Index([7], name="row")).to_parquet(path)
    with pytest.raises(ColumnError, match="no column 'row'"):
        list(PlainStream([path], Columns.of(["a", "row"]), settings()))


def test_a_file_that_is_missing_is_an_error(paths, tmp_path):
    with pytest.raises(ParquetFileError, match=r"none\.parquet: the file does not exist"):
        PlainStream([*paths, tmp_path / "none.parquet"], Columns.of(["a"]), settings())
