"""Tables that name their files: a snapshot of Delta Lake or Apache Iceberg as Parquet files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.dates import date_of, date_order
from ..base.errors import InputError, StorageError
from ..base.warn import warn
from .delta import delta_snapshot
from .iceberg import iceberg_snapshot, in_catalog
from .listing import list_objects
from .options import Options, remember
from .table_urls import DataFile, Snapshot, TableUrl, table_url
from .urls import RemotePath, is_url

_VACUUMED = "load the newest version, or one that has not been cleaned up"


@dataclass(frozen=True)
class TableFiles:
    """The files of one version of a table."""

    url: str
    """The table's URL, without a version."""
    snapshot: str | None
    """The Delta version or Iceberg snapshot id; None for a table that was never written to."""
    folder: Path | RemotePath
    """The table's folder."""
    files: list[Path] | list[RemotePath]
    """In the order of dates in their folders and names, then of paths; objects with their sizes
    and versions."""
    sizes: list[int]
    """Of each file, in bytes."""
    partition_columns: list[str]
    """Partition columns that are not in the files, and so not in frames."""


def table_files(
    url: str,
    version: int | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> TableFiles:
    """The files of a table, to be loaded as any others: `loader.load_files(table.files)`.

    Tables whose files alone would give wrong rows are refused: with deletion vectors, delete files,
    column mapping or renamed columns. Columns that only the folders' names have are named in a
    warning.

    Args:
        url: `delta:///FOLDER`, `delta+s3://BUCKET/FOLDER`, `iceberg:///FOLDER` or the same with its
            metadata file, `iceberg+s3://…`, or `iceberg://CATALOG/NAMESPACE.TABLE` (a catalog of
            pyiceberg's configuration). `@12` at the end is a version.
        version: a Delta version; an Iceberg snapshot id, or the name of a branch or tag. By default
            that of the URL, else the newest.
        storage_options: as for `ParquetStorage`, for the table's objects.

    Raises:
        InputError: no such version, or a table that is refused.
        MissingBackendError: `pip install "feedrate[tables]"`.
        StorageError: there is no table, a file of it is missing or has another size, or its store
            refuses or does not answer.
    """
    table = table_url(url)
    if table.in_catalog:
        table = in_catalog(table)
    if version is not None and table.version is not None:
        raise InputError(f"{url} names version {table.version}, and version= is {version!r}")
    if storage_options:
        if not is_url(table.place):
            raise InputError(
                f"storage_options are for object stores, and {table.place} is not in one; leave "
                "them out"
            )
        remember(_folder(table.place), Options.of(storage_options))
    found = _snapshot(table, version if version is not None else table.version)
    paths = _ordered(found)
    if found.not_in_files:
        warn(
            f"partition columns that are only in the names of folders are not loaded: "
            f"{', '.join(found.not_in_files)} (of {table})"
        )
    return TableFiles(
        url=str(table._replace(version=None)),
        snapshot=found.id,
        folder=RemotePath(found.root) if is_url(found.root) else Path(found.root),
        files=_listed(found, paths),  # type: ignore[arg-type]  # all are of one kind
        sizes=[file.size for file in paths],
        partition_columns=found.not_in_files,
    )


def _snapshot(table: TableUrl, version: int | str | None) -> Snapshot:
    if table.format == "iceberg":
        return iceberg_snapshot(table, version)
    if version is not None and not str(version).isdecimal():
        raise InputError(f"version {version!r} is no version of a Delta table; give a number")
    return delta_snapshot(table, None if version is None else int(version))


def _folder(place: str) -> str:
    """The table's folder, also of a metadata file in it."""
    return place.rpartition("/metadata/")[0] if place.endswith(".metadata.json") else place


def _ordered(found: Snapshot) -> list[DataFile]:
    def key(file: DataFile) -> tuple[Any, ...]:
        name = file.path.removeprefix(f"{found.root}/")
        return date_order(date_of(name), name)

    return sorted(found.files, key=key)


def _listed(found: Snapshot, files: Sequence[DataFile]) -> list[Path | RemotePath]:
    """The files as paths; those that are gone, or not as the table says, are errors.

    Objects below the table's folder are listed, at one request per 1,000.
    """
    objects = [file for file in files if is_url(file.path)]
    below = f"{found.root}/"
    listed: dict[str, RemotePath] = {}
    if any(file.path.startswith(below) for file in objects):
        listed = {str(path): path for path in list_objects(found.root)}
    paths: list[Path | RemotePath] = []
    for file in files:
        path: Path | RemotePath = Path(file.path)
        if is_url(file.path):
            unlisted = RemotePath(file.path, file.size)
            path = listed.get(file.path, unlisted)
            size = None if path is unlisted and file.path.startswith(below) else path.size
        else:
            size = _size(Path(file.path))
        _check_size(found, file, size)
        paths.append(path)
    return paths


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _check_size(found: Snapshot, file: DataFile, size: int | None) -> None:
    of = f"{file.path}, of snapshot {found.id} of the table,"
    if size is None:
        raise StorageError(f"{of} does not exist (cleaned up?); {_VACUUMED}")
    if size != file.size:
        raise StorageError(
            f"{of} has {size:,} bytes instead of {file.size:,}: it was overwritten; restore it, or "
            "the table from a copy"
        )
