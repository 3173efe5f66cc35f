"""Iceberg tables are read without a catalog, and refused where their files say something else."""

import json
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feedrate.loaders import table_files
from feedrate.loaders.base.errors import (
    FeedrateWarning,
    InputError,
    MissingBackendError,
    StorageError,
)
from feedrate.loaders.optimized_historical_loader import OptimizedHistoricalDataLoader
from feedrate.loaders.remote import iceberg_columns
from feedrate.loaders.remote.urls import RemotePath

pytest.importorskip("pyiceberg")
pytest.importorskip("sqlalchemy")
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestWriterV2,
)
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import ManifestGroupPlanner
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import LongType, NestedField, StringType
from pyiceberg.utils.config import Config

MAPPING = "schema.name-mapping.default"


@pytest.fixture
def catalog(tmp_path):
    """A catalog of tables below a folder."""
    catalog = SqlCatalog("here", uri=f"sqlite:///{tmp_path}/tables.db", warehouse=str(tmp_path))
    catalog.create_namespace("db")
    return catalog


@pytest.fixture
def trips(catalog):
    """A table with two files of one row each."""
    table = catalog.create_table("db.trips", pa.schema([("a", pa.int64()), ("b", pa.string())]))
    for row in (1, 2):
        table.append(pa.table({"a": [row], "b": [str(row)]}))
    return table


def url_of(table):
    return f"iceberg://{table.metadata_location.removeprefix('file://')}"


def values(table, version=None, column="a"):
    paths = table_files(url_of(table), version).files
    loader = OptimizedHistoricalDataLoader("/", profile=None)
    return sorted(loader.load_files(paths, [column])[column])


def edit_metadata(table, change):
    """Change a table's metadata file: `change(document)`."""
    path = table.metadata_location.removeprefix("file://")
    with open(path, "r+", encoding="utf-8") as file:  # noqa: PTH123 - read and written
        document = json.load(file)
        change(document)
        file.seek(0)
        file.truncate()
        json.dump(document, file)


def test_a_table_gives_its_files_of_the_current_snapshot(trips, assert_same):
    table = table_files(url_of(trips))
    assert table.snapshot == str(trips.current_snapshot().snapshot_id)
    assert str(table.folder) == trips.location().removeprefix("file://")
    assert table.sizes == [path.stat().st_size for path in table.files]
    frame = OptimizedHistoricalDataLoader("/", profile=None).load_files(table.files)
    expected = pd.DataFrame({"a": [1, 2], "b": ["1", "2"]})
    assert_same(frame.sort_values("a", ignore_index=True), expected)


def test_footers_are_not_read_while_no_name_has_changed(trips, monkeypatch):
    monkeypatch.setattr(iceberg_columns, "map_paths", None)
    assert len(table_files(url_of(trips)).files) == 2


def test_rows_that_were_deleted_by_rewriting_are_in_no_named_file(trips):
    trips.delete("a == 1")
    assert values(trips) == [2]


def test_earlier_snapshots_are_named_by_id_branch_or_tag(trips):
    first, second = (snapshot.snapshot_id for snapshot in trips.snapshots())
    trips.manage_snapshots().create_tag(first, "start").commit()
    assert values(trips, first) == values(trips, "start") == [1]
    assert table_files(f"{url_of(trips)}@{second}").snapshot == str(second)
    with pytest.raises(InputError, match=r"unknown snapshot '7'.*main.*start"):
        table_files(url_of(trips), 7)


def test_a_table_that_was_never_written_to_has_no_files(catalog):
    table = table_files(url_of(catalog.create_table("db.new", pa.schema([("a", pa.int64())]))))
    assert (table.snapshot, table.files) == (None, [])


def test_a_folder_must_say_which_metadata_is_current(trips, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trips.location().removeprefix("file://"), folder)
    newest = trips.metadata_location.rpartition("/")[2]
    with pytest.raises(StorageError, match=f"current; ask its catalog.*{newest}"):
        table_files(f"iceberg://{folder}")
    hint = folder / "metadata" / "version-hint.text"
    hint.write_text(newest.removesuffix(".metadata.json"))
    assert len(table_files(f"iceberg://{folder}").files) == 2
    old, now = sorted((folder / "metadata").glob("0000[12]-*.json"))
    old.rename(folder / "metadata" / "v7.metadata.json")
    now.rename(folder / "metadata" / "v8.metadata.json")
    hint.write_text("7")  # late, as after a writer that was interrupted
    assert len(table_files(f"iceberg://{folder}").files) == 2
    hint.write_text("99")
    with pytest.raises(StorageError, match="names '99', which is not there"):
        table_files(f"iceberg://{folder}")


def test_no_table_is_an_error(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(StorageError, match="no Iceberg table in"):
            table_files(f"iceberg://{folder}")
    broken = tmp_path / "v1.metadata.json"
    broken.write_text("{}")
    with pytest.raises(StorageError, match="no metadata of an Iceberg table"):
        table_files(f"iceberg://{broken}")


def test_a_catalog_of_the_configuration_finds_a_table(trips, tmp_path, monkeypatch):
    monkeypatch.setenv("PYICEBERG_CATALOG__HERE__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__HERE__URI", f"sqlite:///{tmp_path}/tables.db")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # read on import
    found = table_files("iceberg://here/db.trips")
    assert found.files == table_files(url_of(trips)).files
    with pytest.raises(InputError, match=r"cannot find iceberg://here/db\.none: NoSuchTableError"):
        table_files("iceberg://here/db.none")


class DeleteManifest(ManifestWriterV2):
    """Writes a manifest of delete files, which pyiceberg itself does not."""

    def content(self):
        return ManifestContent.DELETES

    @property
    def _meta(self):
        return super()._meta | {"content": "deletes"}


def commit_deletes(table, path, kind, form=FileFormat.PARQUET, **fields):
    """Commit a delete file; `kind` is its content."""
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as commit:
        given = {
            "content": kind, "file_path": str(path), "file_format": form, "partition": Record(),
            "record_count": 1, "file_size_in_bytes": path.stat().st_size, **fields,
        }  # fmt: skip
        file = DataFile.from_args(**given)
        file.spec_id = 0
        place = f"{table.location()}/metadata/deletes-{commit.snapshot_id}.avro"
        writer = DeleteManifest(
            table.spec(), table.schema(), table.io.new_output(place), commit.snapshot_id, "null"
        )
        with writer:
            entry = ManifestEntry.from_args(snapshot_id=commit.snapshot_id, data_file=file)
            writer.add(entry)
        manifests = [*table.current_snapshot().manifests(table.io), writer.to_manifest_file()]
        commit._manifests = lambda: manifests


def test_position_deletes_are_refused_until_they_are_applied(trips, tmp_path):
    (first, *_) = trips.scan().plan_files()
    path = tmp_path / "positions.parquet"
    pq.write_table(pa.table({"file_path": [first.file.file_path], "pos": [0]}), path)
    commit_deletes(trips, path, DataFileContent.POSITION_DELETES)
    with pytest.raises(InputError, match=r"position deletes or deletion vectors.*rewrite_data"):
        table_files(url_of(trips))
    trips.overwrite(trips.scan().to_arrow())
    assert len(values(trips)) == 1


def test_deletion_vectors_are_refused(trips, tmp_path):
    (tmp_path / "bitmap.puffin").write_bytes(b"PFA1")
    kind = DataFileContent.POSITION_DELETES
    commit_deletes(trips, tmp_path / "bitmap.puffin", kind, FileFormat.PUFFIN)
    with pytest.raises(InputError, match=r"position deletes or deletion vectors"):
        table_files(url_of(trips))


def test_equality_deletes_are_refused(trips, tmp_path):
    path = tmp_path / "values.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    commit_deletes(trips, path, DataFileContent.EQUALITY_DELETES, equality_ids=[1])
    with pytest.raises(InputError, match=r"equality deletes.*rewrite_data_files"):
        table_files(url_of(trips))


def planning(monkeypatch, change):
    """Let plans have changed tasks: `change(task)`."""
    plan = ManifestGroupPlanner.plan_files

    def changed(self, *args):
        return [change(task) for task in plan(self, *args)]

    monkeypatch.setattr(ManifestGroupPlanner, "plan_files", changed)


def test_files_that_are_not_parquet_or_encrypted_are_refused(trips, monkeypatch):
    def as_orc(task):
        task.file._data[2] = FileFormat.ORC
        return task

    with monkeypatch.context() as patch:
        planning(patch, as_orc)
        with pytest.raises(InputError, match="has files of ORC"):
            table_files(url_of(trips))
    monkeypatch.setattr("pyiceberg.manifest.DataFile.key_metadata", b"key")
    with pytest.raises(InputError, match="is encrypted"):
        table_files(url_of(trips))


def test_a_renamed_column_is_refused_until_the_files_are_rewritten(trips):
    with trips.update_schema() as update:
        update.rename_column("b", "c")
    with pytest.raises(InputError, match=r"'b' is named so in .*and 'c' in the table.*Rewrite"):
        table_files(url_of(trips))
    trips.overwrite(pa.table({"a": [5], "c": ["x"]}))
    assert values(trips, column="c") == ["x"]


def test_an_earlier_snapshot_has_the_names_of_its_time(trips):
    before = trips.current_snapshot().snapshot_id
    with trips.update_schema() as update:
        update.rename_column("b", "c")
    trips.overwrite(pa.table({"a": [5], "c": ["x"]}))
    assert values(trips, before, "b") == ["1", "2"]


def test_a_dropped_column_that_is_left_in_files_is_named_in_a_warning(trips):
    with trips.update_schema() as update:
        update.delete_column("b")
    with pytest.warns(FeedrateWarning, match="dropped from iceberg:.* in its files.*: b; name the"):
        table_files(url_of(trips))


def test_a_column_of_an_earlier_columns_name_is_refused(trips):
    with trips.update_schema() as update:
        update.delete_column("b")
    with trips.update_schema() as update:
        update.add_column("b", StringType())
    with pytest.raises(InputError, match="'b' was dropped before another of the same name"):
        table_files(url_of(trips))


def test_an_added_column_is_null_in_older_files(trips):
    with trips.update_schema() as update:
        update.add_column("c", LongType())
    trips.append(pa.table({"a": [3], "b": ["3"], "c": [30]}))
    table = table_files(url_of(trips))
    with pytest.warns(FeedrateWarning, match="column 'c'"):
        frame = OptimizedHistoricalDataLoader("/", profile=None).load_files(table.files)
    assert frame["c"].notna().sum() == 1


def test_a_schema_that_was_removed_from_the_metadata_takes_footers(trips):
    with trips.update_schema() as update:
        update.rename_column("b", "c")

    def forget(document):
        document["schemas"] = [one for one in document["schemas"] if one["schema-id"]]
        for snapshot in document["snapshots"]:
            snapshot["schema-id"] = 1

    edit_metadata(trips, forget)
    with pytest.raises(InputError, match="'b' is named so in"):
        table_files(url_of(trips))


def test_a_renamed_field_of_a_struct_is_refused_and_lists_and_maps_are_fine(catalog):
    kinds = [
        ("s", pa.struct([("x", pa.int64())])),
        ("l", pa.list_(pa.struct([("y", pa.int64())]))),
        ("m", pa.map_(pa.string(), pa.int64())),
    ]
    rows = pa.table(
        {"s": [{"x": 1}], "l": [[{"y": 1}]], "m": [[("k", 1)]]}, schema=pa.schema(kinds)
    )
    table = catalog.create_table("db.nested", pa.schema(kinds))
    table.append(rows)
    with table.update_schema() as update:
        update.add_column("odd name", LongType())  # so that footers are read
    assert len(table_files(url_of(table)).files) == 1
    with table.update_schema() as update:
        update.rename_column(("l", "y"), "z")
    with pytest.raises(InputError, match=r"'l\.element\.y' is named so in .* and 'z' in the table"):
        table_files(url_of(table))


def test_a_default_value_that_a_file_lacks_is_refused(trips):
    with trips.update_schema() as update:
        update.add_column("c", LongType())
    trips.append(pa.table({"a": [3], "b": ["3"], "c": [30]}))

    def add_default(document):
        document["format-version"] = 3
        document["next-row-id"] = 0
        for schema in document["schemas"]:
            for field in schema["fields"]:
                if field["name"] == "c":
                    field["initial-default"] = 7

    edit_metadata(trips, add_default)
    with pytest.raises(InputError, match=r"default value for column 'c', which .* lacks"):
        table_files(url_of(trips))


def add_plain_file(table, path, **columns):
    """Add a file without the ids of columns."""
    pq.write_table(pa.table(columns), path)
    table.add_files([str(path)])


def test_files_that_were_added_without_ids_go_by_the_tables_mapping(trips, tmp_path):
    add_plain_file(trips, tmp_path / "plain.parquet", a=[3], b=["3"])
    assert values(trips) == [1, 2, 3]
    with trips.update_schema() as update:
        update.rename_column("b", "c")
    trips.delete("a < 3")
    with pytest.raises(InputError, match=r"'b' is named so in .*plain\.parquet, and 'c'"):
        table_files(url_of(trips))

    def forget(document):
        del document["properties"][MAPPING]

    edit_metadata(trips, forget)
    with pytest.raises(InputError, match=f"without the ids of columns.*no {MAPPING}"):
        table_files(url_of(trips))


def test_a_partition_column_that_a_file_lacks_is_named_in_a_warning(catalog, tmp_path):
    schema = Schema(NestedField(1, "a", LongType()), NestedField(2, "day", StringType()))
    spec = PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "day"))
    table = catalog.create_table("db.days", schema, partition_spec=spec)
    table.append(pa.table({"a": [1, 2], "day": ["2025-01-02", "2025-01-01"]}))
    found = table_files(url_of(table))
    assert (found.partition_columns, [path.parent.name for path in found.files]) == (
        [], ["day=2025-01-01", "day=2025-01-02"],
    )  # fmt: skip
    add_plain_file(table, tmp_path / "plain.parquet", a=[3], day=["2025-01-03"])
    pq.write_table(pa.table({"a": [3]}), tmp_path / "plain.parquet")

    size = (tmp_path / "plain.parquet").stat().st_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("feedrate.loaders.remote.tables._size", lambda _: size)
        patch.setattr("feedrate.loaders.remote.tables._check_size", lambda *_: None)
        with pytest.warns(FeedrateWarning, match="names of folders are not loaded: day"):
            assert table_files(url_of(table)).partition_columns == ["day"]


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyiceberg", None)
    with pytest.raises(MissingBackendError, match=r"feedrate\[tables\]"):
        table_files("iceberg:///data/trips")


def test_a_table_in_a_store_is_read_by_our_own_requests(url, moto, tmp_path, monkeypatch):
    place = {"s3.endpoint": moto.url, "s3.region": moto.region}
    keys = {"s3.access-key-id": moto.access_key, "s3.secret-access-key": moto.secret_key}
    catalog = SqlCatalog("s3", uri=f"sqlite:///{tmp_path}/s3.db", warehouse=url, **place, **keys)
    catalog.create_namespace("db")
    table = catalog.create_table("db.trips", pa.schema([("a", pa.int64())]))
    table.append(pa.table({"a": [1, 2]}))
    for name in moto.environment():
        monkeypatch.delenv(name)
    given = {"endpoint": moto.url, "region": moto.region, "key": moto.access_key}
    given |= {"secret": moto.secret_key}
    path = table.metadata_location.removeprefix("s3://")
    found = table_files(f"iceberg+s3a://{path}", storage_options=given)
    (file,) = found.files
    assert isinstance(file, RemotePath)
    assert file.version
    assert found.sizes == [file.size]
    loader = OptimizedHistoricalDataLoader(str(found.folder.parent), profile=None)
    assert loader.load_files(found.files)["a"].tolist() == [1, 2]
    with table.update_schema() as update:
        update.rename_column("a", "b")
    path = table.metadata_location.removeprefix("s3://")
    with pytest.raises(InputError, match="'a' is named so in s3://"):
        table_files(f"iceberg+s3://{path}")
