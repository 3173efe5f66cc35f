"""DATA may be a table that names its files, or a repository whose splits are data types."""

import pandas as pd
import pyarrow as pa
import pytest
from feedrate.harness.plan.source import find_files, open_source
from feedrate.harness.plan.spec import Spec
from feedrate.harness.record.results import Header, Results
from feedrate.harness.run.scheduler import check_resumable
from feedrate.loaders.base.errors import FeedrateWarning, InputError, StorageError
from feedrate.loaders.base.machine import fingerprint


@pytest.fixture
def table(tmp_path):
    """The folder of a Delta table of two files, one of which is in use."""
    deltalake = pytest.importorskip("deltalake")
    folder = tmp_path / "lake" / "trips"
    folder.mkdir(parents=True)
    for rows in ([1, 2], [3]):
        deltalake.write_deltalake(folder, pa.table({"a": rows}), mode="overwrite")
    return folder


def test_a_table_is_a_data_type_with_a_snapshot(table):
    source = open_source(f"delta://{table}")
    assert (source.data_type, source.base_dir, len(source.files)) == ("trips", table.parent, 1)
    assert (source.snapshot, source.dataset.snapshot) == ("1", "1")
    assert [source.name_in_type(path) for path in source.files] == [
        path.removeprefix(f"{table}/") for path in source.files
    ]
    earlier = open_source(f"delta://{table}@0", "trips")
    assert (earlier.dataset.snapshot, earlier.dataset.rows_per_file) == ("0", 2)
    with pytest.raises(InputError, match="unknown data type 'trip'"):
        open_source(f"delta://{table}", "trip")


def test_a_table_without_files_is_an_error(table):
    pytest.importorskip("deltalake").DeltaTable(table).delete()
    with pytest.raises(StorageError, match="has no files; there is nothing to measure"):
        find_files(f"delta://{table}")


def test_a_table_in_a_store_is_found_by_its_objects(table, upload):
    url = upload(table.parent)
    source = open_source(f"delta+{url}/trips")
    assert source.of_objects
    assert (source.data_type, source.base_dir, source.snapshot) == ("trips", url, "1")


def test_the_folder_of_a_table_is_loaded_with_all_its_files_and_a_warning(table):
    with pytest.warns(FeedrateWarning, match=f"is a table, .* name it as delta://{table}"):
        assert len(find_files(str(table)).files) == 2


def test_a_sweep_is_not_continued_on_another_snapshot(table):
    source = open_source(f"delta://{table}")
    header = Header(spec={}, environment=fingerprint(), dataset=source.dataset)
    results = Results(header, [], truncated=False)
    assert check_resumable(results, Spec(), source.dataset) == []
    earlier = open_source(f"delta://{table}@0").dataset
    assert "the data's snapshot was '1', is '0'" in check_resumable(results, Spec(), earlier)


@pytest.fixture
def repository(tmp_path):
    """A repository with a large and a small split."""
    folder = tmp_path / "prices"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# Prices\n")
    shards = {"train-00000-of-00002": 900, "train-00001-of-00002": 900, "test-00000-of-00001": 9}
    for name, rows in shards.items():
        pd.DataFrame({"a": range(rows)}).to_parquet(folder / "data" / f"{name}.parquet")
    return folder


def test_splits_of_a_repository_are_data_types(repository):
    source = open_source(str(repository))
    assert (source.data_type, source.others, source.base_dir) == ("train", ["test"], repository)
    assert source.dataset.data_type == "train"
    assert [source.name_in_type(path) for path in source.files] == [
        "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
    ]  # fmt: skip
    assert len(open_source(f"{repository}/", "test").files) == 1
    with pytest.raises(InputError, match=r"unknown data type 'dev'.*test, train"):
        find_files(str(repository), "dev")


def test_folders_that_are_no_clone_keep_their_names(repository):
    (repository / "README.md").unlink()
    source = open_source(str(repository))
    assert (source.data_type, len(source.files), source.split) == ("data", 3, None)


def test_a_folder_of_save_to_disk_says_how_to_export(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"ARROW1")
    with pytest.raises(StorageError, match=r"save_to_disk, as Arrow and not Parquet; export"):
        find_files(str(tmp_path))
