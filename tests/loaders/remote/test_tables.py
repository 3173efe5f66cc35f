"""URLs of tables, and the Delta tables that are read, or refused by name."""

import doctest
import json
import os
import struct

import pandas as pd
import pyarrow as pa
import pytest
from feedrate.loaders import table_files
from feedrate.loaders.base.errors import (
    FeedrateWarning,
    InputError,
    MissingBackendError,
    ParquetFileError,
    StorageError,
)
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.remote import delta, table_urls
from feedrate.loaders.remote.requests import counts
from feedrate.loaders.remote.urls import RemotePath
from feedrate.loaders.storage import ParquetStorage

deltalake = pytest.importorskip("deltalake")
# Of base 85, which Delta writes bitmaps in (https://rfc.zeromq.org/spec/32/).
Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
BITMAPS = 1681511377  # the first number of an array of bitmaps


@pytest.fixture
def write(tmp_path):
    """A function that appends rows to the Delta table `trips`, and returns its folder."""

    def append(values, **options):
        folder = tmp_path / "trips"
        deltalake.write_deltalake(folder, pa.table({"a": values}), mode="append", **options)
        return folder

    return append


def load(paths, folder):
    return OptimizedHistoricalDataLoader(folder, profile=None).load_files(paths)


def edit_log(folder, change, version=0):
    """Change the actions of a version: `change(action)`."""
    log = folder / "_delta_log" / f"{version:020}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        change(action)
    log.write_text("\n".join(map(json.dumps, actions)))


def with_features(*names):
    def change(action):
        if "protocol" in action:
            action["protocol"] = {
                "minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": [*names], "writerFeatures": [*names],
            }  # fmt: skip

    return change


def with_field_metadata(**fields):
    def change(action):
        if "metaData" in action:
            schema = json.loads(action["metaData"]["schemaString"])
            for field in schema["fields"]:
                field["metadata"] = fields
            action["metaData"]["schemaString"] = json.dumps(schema)

    return change


def test_examples_in_docstrings_hold():
    assert doctest.testmod(table_urls).failed == 0


def test_only_the_files_of_the_newest_version_are_named(write, tmp_path, assert_same):
    folder = write([1, 2])
    write([3])
    deltalake.DeltaTable(folder).optimize.compact()
    table = table_files(f"delta://{folder}")
    assert len(table.files) == 1
    assert len(list(folder.glob("*.parquet"))) == 3
    assert (table.url, table.snapshot, table.folder) == (f"delta://{folder}", "2", folder)
    assert table.sizes == [table.files[0].stat().st_size]
    rows = load(table.files, tmp_path)
    assert_same(rows.sort_values("a", ignore_index=True), pd.DataFrame({"a": [1, 2, 3]}))


def test_rows_that_were_deleted_are_in_no_named_file(write, tmp_path):
    folder = write([1, 2, 3])
    deltalake.DeltaTable(folder).delete("a = 2")
    assert load(table_files(f"delta://{folder}").files, tmp_path)["a"].tolist() == [1, 3]


def test_earlier_versions_are_named_in_the_url_or_in_python(write, tmp_path):
    folder = write([1])
    write([2])
    for url, version in ((f"delta://{folder}@0", None), (f"delta://{folder}", 0)):
        table = table_files(url, version)
        assert (table.url, table.snapshot) == (f"delta://{folder}", "0")
        assert load(table.files, tmp_path)["a"].tolist() == [1]
    assert len(table_files(f"delta+file://{folder}/").files) == 2
    with pytest.raises(InputError, match="names version 0, and version= is 1"):
        table_files(f"delta://{folder}@0", 1)
    with pytest.raises(InputError, match="has no version 7"):
        table_files(f"delta://{folder}", 7)
    with pytest.raises(InputError, match="'newest' is no version"):
        table_files(f"delta://{folder}", "newest")


def test_columns_that_older_files_lack_are_null(write, tmp_path):
    folder = write([1])
    more = pa.table({"a": [2], "b": ["x"]})
    deltalake.write_deltalake(folder, more, mode="append", schema_mode="merge")
    with pytest.warns(FeedrateWarning, match="column 'b' is (text|missing) in"):
        rows = load(table_files(f"delta://{folder}").files, tmp_path).sort_values("a")
    assert rows["b"].isna().tolist() == [True, False]


def test_files_of_partitions_are_in_the_order_of_dates_and_the_columns_are_named(tmp_path):
    folder = tmp_path / "trips"
    days = ["2025-01-03", "2025-01-01", "2025 01/02"]
    rows = pa.table({"a": [3, 1, 9], "day": days})
    deltalake.write_deltalake(folder, rows, partition_by=["day"])
    with pytest.warns(FeedrateWarning, match="only in the names of folders are not loaded: day"):
        table = table_files(f"delta://{folder}")
    assert table.partition_columns == ["day"]
    assert list(load(table.files, tmp_path).columns) == ["a"]
    assert load(table.files, tmp_path)["a"].tolist() == [1, 3, 9]


def bitmap(rows):
    """A deletion vector within the log, of a table's first file."""
    pyroaring = pytest.importorskip("pyroaring")
    packed = struct.pack("<iqi", BITMAPS, 1, 0) + pyroaring.BitMap(rows).serialize()
    size = len(packed)
    padded = packed + bytes(-size % 4)
    text = ""
    for number in struct.unpack(f">{len(padded) // 4}I", padded):
        text += "".join(Z85[number // 85**place % 85] for place in (4, 3, 2, 1, 0))
    return {
        "storageType": "i", "pathOrInlineDv": text, "sizeInBytes": size, "cardinality": len(rows),
    }  # fmt: skip


def test_deletion_vectors_are_refused_only_where_a_file_has_one(write):
    folder = write([1, 2, 3])
    edit_log(folder, with_features("deletionVectors"))
    assert len(table_files(f"delta://{folder}").files) == 1

    def add(action):
        if "add" in action:
            action["add"]["deletionVector"] = bitmap([1])

    edit_log(folder, add)
    with pytest.raises(InputError, match=r"has deletion vectors.*wrong rows.*APPLY \(PURGE\)"):
        table_files(f"delta://{folder}")


def test_a_deletion_vector_that_cannot_be_read_is_an_error(write):
    folder = write([1, 2, 3])
    edit_log(folder, with_features("deletionVectors"))

    def add(action):
        if "add" in action:
            action["add"]["deletionVector"] = {
                "storageType": "u", "pathOrInlineDv": "vBn[lx{q8@P<9BNH/isA", "offset": 1,
                "sizeInBytes": 36, "cardinality": 2,
            }  # fmt: skip

    edit_log(folder, add)
    with pytest.raises(StorageError, match="cannot read delta:///"):
        table_files(f"delta://{folder}")


@pytest.mark.parametrize("mode", ["name", "id"])
def test_column_mapping_is_refused(write, mode):
    folder = write([1])
    edit_log(folder, with_features("columnMapping"))
    edit_log(
        folder,
        with_field_metadata(
            **{"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "col-1"}
        ),
    )

    def add(action):
        if "metaData" in action:
            action["metaData"]["configuration"] = {"delta.columnMapping.mode": mode}

    assert table_files(f"delta://{folder}").files  # a table may have the feature and not use it
    edit_log(folder, add)
    with pytest.raises(InputError, match=rf"column mapping \(mode '{mode}'\)"):
        table_files(f"delta://{folder}")


def test_widened_types_are_refused(write):
    folder = write([1])
    edit_log(folder, with_features("typeWidening"))
    assert table_files(f"delta://{folder}").files
    change = {"toType": "long", "fromType": "integer"}
    edit_log(folder, with_field_metadata(**{"delta.typeChanges": [change]}))
    with pytest.raises(InputError, match=r"widened type.*DROP FEATURE typeWidening"):
        table_files(f"delta://{folder}")


@pytest.mark.parametrize(
    ("feature", "named"),
    [("brandNew", "brandNew"), ("variantType", "variantType"), ("catalogManaged", "catalog-man")],
)
def test_other_features_are_refused_by_name(write, feature, named):
    folder = write([1])
    edit_log(folder, with_features(feature))
    with pytest.raises(InputError, match=rf"needs {named}.*does not support"):
        table_files(f"delta://{folder}")


def test_a_newer_protocol_is_refused(write):
    folder = write([1])

    def change(action):
        if "protocol" in action:
            action["protocol"] = {"minReaderVersion": 9, "minWriterVersion": 9}

    edit_log(folder, change)
    with pytest.raises(InputError, match="needs reader version 9"):
        table_files(f"delta://{folder}")


def test_features_without_effect_on_files_are_fine(write):
    folder = write([1])
    edit_log(folder, with_features("timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"))
    assert len(table_files(f"delta://{folder}").files) == 1


def test_a_file_that_is_gone_or_was_overwritten_is_an_error(write):
    folder = write([1, 2])
    (file,) = table_files(f"delta://{folder}").files
    pd.DataFrame({"a": range(1000)}).to_parquet(file)
    with pytest.raises(StorageError, match=r"of snapshot 0 .* bytes instead of .*overwritten"):
        table_files(f"delta://{folder}")
    file.unlink()
    with pytest.raises(StorageError, match="of snapshot 0 of the table, does not exist"):
        table_files(f"delta://{folder}")


def test_a_file_that_goes_between_snapshot_and_load_is_an_error_of_the_load(write, tmp_path):
    (file,) = table_files(f"delta://{write([1])}").files
    file.unlink()
    with pytest.raises(ParquetFileError, match=file.name):
        load([file], tmp_path)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("delta://trips", "names no absolute folder"),
        ("delta:///", "names no absolute folder"),
        ("delta+s3://", "names no bucket"),
        ("delta+s3://KEY:HIDDEN@bucket/trips", "may not contain credentials"),
        ("delta://KEY:HIDDEN@bucket/trips", "may not contain credentials"),
        ("delta+s3://bucket/trips?sig=HIDDEN", "may not end in a query"),
        ("s3://bucket/trips", "is no table"),
        ("/data/trips", "is no table"),
        ("delta+weird://bucket/trips", "deltalake reads no tables in such a store"),
    ],
)
def test_other_urls_are_refused_without_showing_secrets(url, said):
    with pytest.raises(InputError, match=said) as caught:
        table_files(url)
    assert "HIDDEN" not in str(caught.value)


def test_no_table_is_an_error_that_says_what_a_folder_needs(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(StorageError, match=r"no Delta table in .*_delta_log"):
            table_files(f"delta://{folder}")


def test_a_table_is_no_storage(tmp_path):
    for use in (ParquetStorage, lambda url: load([url], tmp_path)):
        with pytest.raises(InputError, match=r"is a table.*table_files"):
            use("delta:///data/trips")


def test_options_are_for_stores(write):
    with pytest.raises(InputError, match="storage_options are for object stores"):
        table_files(f"delta://{write([1])}", storage_options={"key": "HIDDEN"})


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
    with pytest.raises(MissingBackendError, match=r"feedrate\[tables\]"):
        table_files("delta:///data/trips")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_says_that_its_parent_must_read_the_table(write, monkeypatch):
    folder = write([1])
    monkeypatch.setattr(delta, "_used_in", os.getpid() + 1)
    with pytest.raises(InputError, match="call table_files before the fork"):
        table_files(f"delta://{folder}")


@pytest.fixture
def in_store(write, upload):
    """The URL of a Delta table of two files in a store."""
    folder = write([1, 2])
    write([3])
    return f"delta+{upload(folder)}"


def test_a_table_in_a_store_is_loaded_with_sizes_and_versions(in_store, assert_same):
    before = counts()
    table = table_files(in_store)
    assert counts().since(before).requests == 1  # a listing; the log is read by deltalake
    assert all(isinstance(path, RemotePath) and path.version for path in table.files)
    assert [path.size for path in table.files] == table.sizes
    rows = load(table.files, str(table.folder.parent)).sort_values("a", ignore_index=True)
    assert_same(rows, pd.DataFrame({"a": [1, 2, 3]}))
    assert table_files(f"{in_store}@0").snapshot == "0"


def test_names_of_partitions_with_odd_letters_are_found_in_a_store(tmp_path, upload):
    folder = tmp_path / "odd"
    rows = pa.table({"a": [1, 2], "p": ["a b/c%20", "x=1+2&ü"]})
    deltalake.write_deltalake(folder, rows, partition_by=["p"])
    with pytest.warns(FeedrateWarning, match="not loaded: p"):
        table = table_files(f"delta+{upload(folder)}")
    assert all(path.version for path in table.files)
    assert sorted(load(table.files, str(table.folder.parent))["a"]) == [1, 2]


def test_options_reach_the_log_and_the_objects(in_store, monkeypatch, moto):
    for name in moto.environment():
        monkeypatch.delenv(name)
    keys = {"key": moto.access_key, "secret": moto.secret_key}
    given = {"endpoint_url": moto.url, "region": moto.region, "allow_http": True, **keys}
    table = table_files(in_store, storage_options=given)
    assert len(load(table.files, str(table.folder.parent))) == 3


def test_an_object_that_was_overwritten_gives_its_new_rows_or_an_error(in_store):
    table = table_files(in_store)
    one, other = table.files
    storage = ParquetStorage(str(table.folder))
    storage._put(one, pd.DataFrame({"a": range(500)}))
    rows = load(table.files, str(table.folder.parent))
    assert len(rows) == 500 + len(load([other], str(table.folder.parent)))
    with pytest.raises(StorageError, match="bytes instead of"):
        table_files(in_store)


def test_a_store_that_does_not_answer_is_an_error_without_secrets():
    keys = {"key": "HIDDENKEY", "secret": "HIDDENSECRET"}
    given = {"endpoint": "http://127.0.0.1:9", "region": "r", "retries": 0, **keys}
    with pytest.raises(StorageError, match="s3://bucket/trips: no connection") as caught:
        table_files("delta+s3://bucket/trips", storage_options=given)
    assert "HIDDEN" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_bucket_without_the_table_is_an_error(s3):  # noqa: ARG001 - it sets the environment
    with pytest.raises(StorageError, match="no Delta table in s3://feedrate/none"):
        table_files("delta+s3://feedrate/none")
