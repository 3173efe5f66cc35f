"""A fingerprint of the data a profile was measured on, from a listing and three footers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..base.errors import ParquetFileError
from ..base.mounts import storage_kind
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
    """`local`, `network` or `memory`; None if unknown."""


def describe(
    paths: Sequence[str | os.PathLike[str]],
    data_type: str | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Describe files by their number and sizes, and the footers of the first, middle and last.

    Args:
        paths: the files, in date order.
        data_type: the name of the files' data type.
        folder: the data type's folder; by default the files' common folder.

    Raises:
        ParquetFileError: one of those three footers, or a file's size, cannot be read.
    """
    sizes = [_size(path) for path in paths]
    positions = sorted({0, len(paths) // 2, len(paths) - 1}) if paths else []
    footers = []
    for position in positions:
        with reading(paths[position]), open_parquet(paths[position]) as file:
            footers.append((file.schema_arrow, file.metadata))
    fields = {f"{field.name}\t{field.type}" for schema, _ in footers for field in schema}
    return Dataset(
        data_type=data_type,
        folder=os.path.realpath(folder or (_common_folder(paths) if paths else "")),
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
        storage=storage_kind(paths[0]) if paths else None,
    )


def _size(path: str | os.PathLike[str]) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise ParquetFileError(os.fspath(path), error.strerror or str(error)) from error


def _common_folder(paths: Sequence[str | os.PathLike[str]]) -> str:
    return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])  # noqa: PTH100, PTH120 - Path has no commonpath
