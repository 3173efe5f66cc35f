"""Find out which part of a file is damaged, after reading it failed."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..remote.source import open_source
from ..remote.urls import is_url
from .footer_bytes import ARROW_KEY, END_BYTES, file_of

_OTHER_KEY = b"ARROW_schema"  # as long as Arrow's, which ignores it


def damaged_notes(path: str | os.PathLike[str]) -> str | None:
    """Name the damaged notes (key-value metadata) of Arrow or pandas in a footer, if any.

    Parquet does not need them, but pandas rejects a file in which they are damaged.
    """
    try:
        footer = _footer(os.fspath(path))
    except OSError:
        return None
    schema = _schema(footer)
    if schema is None:
        without_arrow = _schema(footer.replace(ARROW_KEY, _OTHER_KEY))
        return None if without_arrow is None else f"its stored schema ({ARROW_KEY.decode()})"
    if not _converts(schema) and _converts(schema.remove_metadata()):
        return "its stored schema for pandas"
    return None


def _footer(path: str) -> bytes:
    with open_source(path).file() if is_url(path) else Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_BYTES))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - length - END_BYTES))
        return file.read(length)


def _schema(footer: bytes) -> pa.Schema | None:
    """The Arrow schema of a file with this footer; None if Arrow rejects it."""
    try:
        with pq.ParquetFile(file_of(footer), pre_buffer=False) as file:
            return file.schema_arrow
    except (pa.ArrowException, OSError, ValueError):
        return None


def _converts(schema: pa.Schema) -> bool:
    try:
        schema.empty_table().to_pandas()
    except Exception:  # noqa: BLE001 - pandas raises any error for damaged notes
        return False
    return True
