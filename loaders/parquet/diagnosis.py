"""Find out which part of a file is damaged, after it could not be read."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_MAGIC = b"PAR1"
_END_BYTES = 8  # the footer's length, and the magic bytes
_ARROW_NOTE, _NO_NOTE = b"ARROW:schema", b"ARROW_schema"


def damaged_notes(path: str | os.PathLike[str]) -> str | None:
    """Name the notes of Arrow or pandas in a footer that are damaged; None if none are.

    Parquet does not need them, but pandas rejects a file in which they are damaged.
    """
    try:
        footer = _footer(Path(path))
    except OSError:
        return None
    schema = _schema(footer)
    if schema is None:
        without = _schema(footer.replace(_ARROW_NOTE, _NO_NOTE))
        return None if without is None else f"its stored schema ({_ARROW_NOTE.decode()})"
    if not _converts(schema) and _converts(schema.remove_metadata()):
        return "its stored schema for pandas"
    return None


def _footer(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(_END_BYTES, path.stat().st_size), os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-min(length + _END_BYTES, path.stat().st_size), os.SEEK_END)
        return file.read(length)


def _schema(footer: bytes) -> pa.Schema | None:
    """The Arrow schema of a file with this footer; None if Arrow rejects it."""
    alone = _MAGIC + footer + len(footer).to_bytes(4, "little") + _MAGIC
    try:
        with pq.ParquetFile(pa.BufferReader(alone), pre_buffer=False) as file:
            return file.schema_arrow
    except (pa.ArrowException, OSError, ValueError):
        return None


def _converts(schema: pa.Schema) -> bool:
    try:
        schema.empty_table().to_pandas()
    except Exception:  # noqa: BLE001 - pandas raises any error for damaged notes
        return False
    return True
