"""The files of an Iceberg table, by the package `pyiceberg` and without a catalog service.

Refused, since the files alone would give wrong rows: delete files of every kind, renamed columns,
encrypted files, and files that are not Parquet (https://iceberg.apache.org/spec/).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import FeedrateError, InputError, StorageError, unknown
from .listing import list_objects
from .table_urls import DataFile, Snapshot, TableUrl, location, not_installed, refused
from .urls import is_url

if TYPE_CHECKING:
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table
    from pyiceberg.table.metadata import TableMetadata

_METADATA = ".metadata.json"
_COUNTED = re.compile(r"v(\d+)(?:\.gz)?\.metadata\.json")
_REWRITE = (
    "Apply them: CALL system.rewrite_data_files(table => …, options => "
    "map('delete-file-threshold', '1'))."
)


def in_catalog(table: TableUrl) -> TableUrl:
    """A table's URL by its metadata file, which a catalog of pyiceberg's configuration names.

    Raises:
        InputError: no such catalog or table.
        MissingBackendError: the package is not installed.
    """
    _need()
    from pyiceberg.catalog import load_catalog

    catalog, _, name = table.place.partition("/")
    try:
        place = load_catalog(catalog).load_table(name).metadata_location
    except Exception as error:  # noqa: BLE001 - of any catalog; its text may hold secrets
        raise InputError(
            f"cannot find {table}: {type(error).__name__}; check the table's name, and the catalog "
            f"{catalog!r} in ~/.pyiceberg.yaml or in the environment"
        ) from None
    return TableUrl(table.format, location(place), table.version)


def iceberg_snapshot(table: TableUrl, version: int | str | None) -> Snapshot:
    """The files of an Iceberg table.

    Args:
        table: its URL: of its folder, or of a metadata file.
        version: a snapshot id, or the name of a branch or tag; None for the current snapshot.

    Raises:
        MissingBackendError: the package is not installed.
        InputError: no such snapshot, or a table whose files alone would give wrong rows.
        StorageError: there is no table, or its store refuses or does not answer.
    """
    _need()
    from .iceberg_columns import check_columns

    opened = _opened(table)
    root = location(opened.location())
    snapshot = _snapshot_id(table, opened.metadata, version)
    if snapshot is None:
        return Snapshot(None, root, [], [])
    files = _files(table, opened, snapshot)
    schema = _schema(opened, snapshot, version)
    return Snapshot(str(snapshot), root, files, check_columns(table, opened, schema, files))


def _need() -> None:
    try:
        import pyiceberg  # noqa: F401 - is it there?
    except ImportError as error:
        raise not_installed("pyiceberg") from error


def _opened(table: TableUrl) -> Table:
    from pyiceberg.catalog.noop import NoopCatalog
    from pyiceberg.serializers import FromInputFile
    from pyiceberg.table import Table

    from .iceberg_io import TableIO

    place = table.place if table.place.endswith(_METADATA) else _newest_metadata(table.place)
    files: Any = TableIO()
    try:
        metadata = FromInputFile.table_metadata(files.new_input(place))
    except FeedrateError:
        raise
    except Exception as error:
        raise StorageError(
            f"{place} is no metadata of an Iceberg table that pyiceberg reads: "
            f"{type(error).__name__}"
        ) from error
    return Table(("table",), metadata, place, files, NoopCatalog("none"))


def _newest_metadata(folder: str) -> str:
    """The metadata file that a table's folder names as the current one.

    Without a `version-hint.text` only the catalog knows which one is current: a commit that failed
    may leave a newer file.
    """
    from .iceberg_io import read_file

    names = _names(f"{folder}/metadata")
    all_metadata = sorted(name for name in names if name.endswith(_METADATA))
    if not all_metadata:
        raise StorageError(
            f"there is no Iceberg table in {folder}; give the folder that holds metadata/"
        )
    if "version-hint.text" not in names:
        raise StorageError(
            f"{folder} does not say which metadata file is current; ask its catalog, and name that "
            f"file, such as {folder}/metadata/{all_metadata[-1]}"
        )
    hint = read_file(f"{folder}/metadata/version-hint.text").decode(errors="replace").strip()
    counted = {int(found[1]): name for name in all_metadata if (found := _COUNTED.fullmatch(name))}
    if hint.isdecimal() and int(hint) in counted:
        number = int(hint)
        while number + 1 in counted:  # as Iceberg's own readers do: the hint may be late
            number += 1
        return f"{folder}/metadata/{counted[number]}"
    named = hint if hint.endswith(_METADATA) else f"{hint}{_METADATA}"
    if named not in all_metadata:
        raise StorageError(
            f"{folder}/metadata/version-hint.text names {hint!r}, which is not there"
        )
    return f"{folder}/metadata/{named}"


def _names(folder: str) -> set[str]:
    if is_url(folder):
        return {path.name for path in list_objects(folder) if path.parent == folder}
    try:
        return {path.name for path in Path(folder).iterdir()}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise StorageError(f"cannot list {folder}: {error.strerror or error}") from error


def _snapshot_id(table: TableUrl, metadata: TableMetadata, version: int | str | None) -> int | None:
    if version is None:
        return metadata.current_snapshot_id
    if isinstance(version, str) and version in metadata.refs:
        return metadata.refs[version].snapshot_id
    known = {str(snapshot.snapshot_id) for snapshot in metadata.snapshots}
    if str(version) not in known:
        raise InputError(f"{table}: {unknown('snapshot', str(version), [*known, *metadata.refs])}")
    return int(version)


def _schema(opened: Table, snapshot: int, version: int | str | None) -> Schema:
    """The table's schema, which branches share; that of its time for an earlier snapshot."""
    ref = opened.metadata.refs.get(version) if isinstance(version, str) else None
    if version is None or (ref is not None and ref.snapshot_ref_type == "branch"):
        return opened.schema()
    found = opened.metadata.snapshot_by_id(snapshot)
    number = found.schema_id if found is not None else None
    return opened.schema() if number is None else opened.schemas()[number]


def _files(table: TableUrl, opened: Table, snapshot: int) -> list[DataFile]:
    """The data files of a snapshot; refuses what else it needs to give its rows."""
    tasks: Sequence[Any]
    try:
        tasks = list(opened.scan(snapshot_id=snapshot).plan_files())
    except FeedrateError:
        raise
    except Exception as error:
        if "equality delete" in str(error):
            raise refused(
                table, "has equality deletes: its files hold rows that were deleted", _REWRITE
            ) from None
        raise StorageError(
            f"cannot read the manifests of {table}: {type(error).__name__}: {error}"
        ) from error
    files = []
    for task in tasks:
        file = task.file
        if task.delete_files:
            raise refused(
                table,
                "has position deletes or deletion vectors: its files hold rows that were deleted",
                _REWRITE,
            )
        if str(file.file_format.value) != "PARQUET":
            raise InputError(
                f"{table} has files of {file.file_format.value}, such as {file.file_path}; "
                "feedrate reads Parquet: rewrite them"
            )
        if file.key_metadata:
            raise InputError(f"{table} is encrypted; load a copy that is not")
        files.append(DataFile(location(file.file_path), file.file_size_in_bytes))
    return files
