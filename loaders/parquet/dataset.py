"""A fingerprint of the data a profile was measured on, from a listing and three footers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..base.errors import ParquetFileError
from ..base.mounts import storage_kind
from ..remote.known import with_versions
from ..remote.source import open_source
from ..remote.urls import RemotePath, common_folder, is_url
from .reader import open_parquet, reading


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """The data that a measurement applies to."""

    data_type: str | None
    folder: str
    files: int
    bytes: int
    schema: str
    """A digest of the column names and types."""
    columns: int
    """Distinct column names."""
    rows_per_file: int
    row_groups_per_file: float
    codecs: list[str]
    storage: str | None = None
    """`local`, `network`, `memory` or `object store`; None if unknown."""
    snapshot: str | None = None
    """Of a table that names its files: the version they are of."""


def describe(
    paths: Sequence[str | os.PathLike[str]],
    data_type: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    snapshot: str | None = None,
) -> Dataset:
    """Describe files by their number and sizes, and the footers of the first, middle and last.

    Args:
        paths: the files, in date order.
        data_type: the name of the files' data type.
        folder: the data type's folder; by default the files' common folder.
        snapshot: the version of the table that names the files.

    Raises:
        ParquetFileError: one of those three footers, or a file's size, cannot be read.
    """
    paths = _listed(paths)
    sizes = [_size(path) for path in paths]
    positions = sorted({0, len(paths) // 2, len(paths) - 1}) if paths else []
    footers = []
    for position in positions:
        with reading(paths[position]), open_parquet(paths[position]) as file:
            footers.append((file.schema_arrow, file.metadata))
    fields = {f"{field.name}\t{field.type}" for schema, _ in footers for field in schema}
    return Dataset(
        data_type=data_type,
        folder=real_folder(folder or (_common_folder(paths) if paths else "")),
        files=len(paths),
        bytes=sum(sizes),
        schema=hashlib.sha256("\n".join(sorted(fields)).encode()).hexdigest()[:16],
        columns=len({name for schema, _ in footers for name in schema.names}),
        rows_per_file=sum(footer.num_rows for _, footer in footers) // max(1, len(footers)),
        row_groups_per_file=sum(footer.num_row_groups for _, footer in footers)
        / max(1, len(footers)),
        codecs=sorted(
            {
                footer.row_group(0).column(position).compression
                for _, footer in footers
                if footer.num_row_groups
                for position in range(footer.num_columns)
            }
        ),
        storage=_storage(paths[0]) if paths else None,
        snapshot=snapshot,
    )


def real_folder(folder: str | os.PathLike[str]) -> str:
    """A folder's path with links resolved, or its URL."""
    return str(folder) if is_url(os.fspath(folder)) else os.path.realpath(folder)


def _listed(paths: Sequence[str | os.PathLike[str]]) -> Sequence[str | os.PathLike[str]]:
    """The paths; those of objects with size and version."""
    names = [name for path in paths if is_url(name := os.fspath(path))]
    known = with_versions(names) if names else {}
    return [known.get(os.fspath(path), path) for path in paths]


def _storage(path: str | os.PathLike[str]) -> str | None:
    return "object store" if is_url(os.fspath(path)) else storage_kind(path)


def _size(path: str | os.PathLike[str]) -> int:
    if isinstance(path, RemotePath) and path.size is not None:
        return path.size
    if is_url(os.fspath(path)):
        return open_source(os.fspath(path)).size
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise ParquetFileError(os.fspath(path), error.strerror or str(error)) from error


def _common_folder(paths: Sequence[str | os.PathLike[str]]) -> str:
    if paths and is_url(os.fspath(paths[0])):
        return common_folder([os.fspath(path) for path in paths])
    return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])  # noqa: PTH100, PTH120 - Path has no commonpath
