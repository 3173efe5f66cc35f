"""A dataset's fingerprint: what a profile was measured on, from a listing and three footers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa

from .errors import ParquetFileError
from .reader import as_file_error, open_parquet


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurement holds for, on the data's side."""

    data_type: str | None
    folder: str
    files: int
    bytes: int
    schema: str
    """A digest of the column names and types."""
    columns: int
    rows_per_file: int
    row_groups_per_file: float
    codecs: list[str]


def describe(paths: Sequence[str | os.PathLike[str]], data_type: str | None = None) -> Dataset:
    """Describe files by their number and sizes, and the footers of the first, middle and last.

    Raises:
        ParquetFileError: one of those three, or no file's size, can be read.
    """
    sizes = [_size(path) for path in paths]
    picked = sorted({0, len(paths) // 2, len(paths) - 1}) if paths else []
    footers = []
    for position in picked:
        try:
            with open_parquet(paths[position]) as file:
                footers.append((file.schema_arrow, file.metadata))
        except (pa.ArrowException, OSError) as error:
            raise as_file_error(paths[position], error) from error
    fields = {f"{field.name}\t{field.type}" for schema, _ in footers for field in schema}
    return Dataset(
        data_type=data_type,
        folder=os.path.realpath(_common_folder(paths)) if paths else "",
        files=len(paths),
        bytes=sum(sizes),
        schema=hashlib.sha256("\n".join(sorted(fields)).encode()).hexdigest()[:16],
        columns=len(fields),
        rows_per_file=sum(notes.num_rows for _, notes in footers) // max(1, len(footers)),
        row_groups_per_file=sum(notes.num_row_groups for _, notes in footers)
        / max(1, len(footers)),
        codecs=sorted(
            {
                notes.row_group(0).column(position).compression
                for _, notes in footers
                if notes.num_row_groups
                for position in range(notes.num_columns)
            }
        ),
    )


def _size(path: str | os.PathLike[str]) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise ParquetFileError(os.fspath(path), error.strerror or str(error)) from error


def _common_folder(paths: Sequence[str | os.PathLike[str]]) -> str:
    return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])  # noqa: PTH100, PTH120 - Path has no commonpath
