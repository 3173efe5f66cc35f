import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.harness.plan.source import open_source
from feedrate.loaders.base.errors import ColumnError, InputError, StorageError


@pytest.fixture
def two_types(storage):
    (storage / "small").mkdir()
    pd.DataFrame({"text": ["a"]}).to_parquet(storage / "small" / "small_20250101.parquet")
    return storage


def test_a_storage_gives_the_data_type_with_the_most_bytes(two_types):
    source = open_source(str(two_types))
    assert (source.data_type, len(source.files), source.others) == ("logs", 12, ["small"])
    assert source.base_dir == two_types


def test_a_data_type_can_be_named(two_types):
    assert open_source(str(two_types), "small").data_type == "small"


def test_a_data_types_own_folder_belongs_to_the_storage_above(two_types):
    source = open_source(str(two_types / "logs"))
    assert (source.data_type, source.base_dir) == ("logs", two_types)
    assert len(source.files) == 12


@pytest.mark.parametrize(
    "layout", ["2025/01/{day:02}", "date=2025-01-{day:02}", "games_202501{day:02}.parquet"]
)
def test_a_type_of_dated_folders_is_not_taken_for_a_storage(tmp_path, layout):
    for day in (1, 2):
        folder = tmp_path / "games" / layout.format(day=day)
        folder.mkdir(parents=True)
        pd.DataFrame({"x": [day]}).to_parquet(folder / "part.parquet")
    source = open_source(str(tmp_path / "games"))
    assert (source.data_type, len(source.files)) == ("games", 2)


def test_a_glob_and_a_single_file_are_data_too(storage):
    assert len(open_source(str(storage / "logs" / "*_2025010?.parquet")).files) == 9
    assert len(open_source(str(storage / "logs" / "logs_20250101.parquet")).files) == 1


def test_what_is_not_there_is_named(storage, tmp_path):
    with pytest.raises(StorageError, match="absent"):
        open_source(str(tmp_path / "absent"))
    with pytest.raises(StorageError, match="no file matches"):
        open_source(str(storage / "*.nothing"))
    with pytest.raises(InputError, match="logs"):
        open_source(str(storage), "log")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(StorageError, match="no Parquet"):
        open_source(str(empty))


def test_features_are_all_numeric_and_boolean_columns_but_the_target(storage):
    source = open_source(str(storage))
    assert source.features(None, None) == ["points", "minutes", "started"]
    assert source.features(None, "minutes") == ["points", "started"]
    assert source.features(["minutes"], "points") == ["minutes"]


def test_columns_that_become_numbers_are_features_where_they_are_named(tmp_path):
    kinds = {
        "day": pa.date32(), "moment": pa.timestamp("us", "UTC"), "clock": pa.time32("s"),
        "span": pa.duration("ms"), "price": pa.decimal128(9, 2), "nothing": pa.null(),
        "level": pa.dictionary(pa.int8(), pa.int16()),
    }  # fmt: skip
    table = pa.table({name: pa.nulls(2, kind) for name, kind in kinds.items()} | {"n": [1, 2]})
    path = tmp_path / "logs_20250101.parquet"
    pq.write_table(table, path)
    source = open_source(str(path))
    assert source.features(list(kinds), "n") == list(kinds)
    assert source.features(None, None) == ["price", "level", "n"]


def test_a_column_without_values_in_the_first_file_is_what_others_have(tmp_path):
    for day, values in ((1, pa.nulls(1)), (2, pa.array(["a"]))):
        pq.write_table(pa.table({"x": values}), tmp_path / f"logs_2025010{day}.parquet")
    with pytest.raises(ColumnError, match="'x' is text, which does not become numbers"):
        open_source(str(tmp_path)).features(["x"], None)


def test_columns_that_cannot_be_trained_on_are_named(storage):
    source = open_source(str(storage))
    with pytest.raises(ColumnError, match="player"):
        source.features(["player"], None)
    with pytest.raises(ColumnError, match="points"):
        source.features(["pointz"], None)
    with pytest.raises(ColumnError, match="gameDate"):
        source.features(None, "gameDate")


def test_data_without_numbers_says_that_it_cannot_be_trained_on(two_types):
    shutil.rmtree(two_types / "logs")
    with pytest.raises(ColumnError, match="no numeric"):
        open_source(str(two_types)).features(None, None)


def test_a_glob_within_dated_folders_belongs_to_the_type_above_them(tmp_path):
    for day in (1, 2):
        folder = tmp_path / "games" / "2025" / "01" / f"{day:02}"
        folder.mkdir(parents=True)
        pd.DataFrame({"x": [day]}).to_parquet(folder / "part.parquet")
    source = open_source(str(tmp_path / "games" / "2025" / "*" / "*" / "*.parquet"))
    assert (source.data_type, source.base_dir) == ("games", tmp_path)


def test_the_current_folder_has_a_name(storage, monkeypatch):
    monkeypatch.chdir(storage / "logs")
    source = open_source(".")
    assert (source.data_type, source.base_dir) == ("logs", storage)


def test_a_column_that_only_some_files_have_is_known(storage):
    pd.DataFrame({"late": [1.0]}).to_parquet(storage / "logs" / "logs_20250113.parquet")
    assert open_source(str(storage)).features(["late"], None) == ["late"]
