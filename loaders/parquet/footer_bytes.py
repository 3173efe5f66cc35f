"""Find the parts of a Parquet footer in its bytes, without parsing it as a whole.

The layout is FileMetaData of the Parquet format, in Thrift's compact protocol: version, schema,
number of rows, row groups, and at the end the notes: key-value metadata of pandas and Arrow.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable

import pyarrow as pa

from .thrift import BINARY, I16, I32, I64, LIST, MORE, skip, varint

END_BYTES = 8  # the footer's length and the magic bytes
MAGIC = b"PAR1"
ARROW_KEY, PANDAS_KEY = b"ARROW:schema", b"pandas"

_VARYING = re.compile(rb'"(?:stop|num_categories)": \d+')
_ATTRIBUTES = re.compile(rb'"attributes": \{[^}]')  # of a frame: they may contain anything

_FIELD_VERSION, _FIELD_SCHEMA, _FIELD_ROWS = 0x10 | I32, 0x10 | LIST, 0x10 | I64
# The byte after the rows of a row group: its end, or one of the fields 4 to 7.
_AFTER_ROWS = frozenset((0x00, 0x10 | LIST, 0x20 | I64, 0x30 | I64, 0x40 | I16))


def footer_in(data: bytes) -> bytes:
    """The footer in a file's bytes; empty if none can be parsed."""
    if len(data) < END_BYTES or not data.endswith(MAGIC):
        return b""
    start = len(data) - END_BYTES - int.from_bytes(data[-END_BYTES:-4], "little")
    return data[start:-END_BYTES] if start >= 0 else b""


def read_footer(read: Callable[[int, int], bytes], size: int, tail_bytes: int) -> bytes:
    """The footer of an open file; empty if none can be parsed.

    Args:
        read: returns a number of bytes (the second argument) from an offset (the first).
        size: the file's size in bytes.
        tail_bytes: the number of bytes to read first.
    """
    tail_bytes = min(size, tail_bytes)
    tail = read(size - tail_bytes, tail_bytes)
    if len(tail) < END_BYTES or not tail.endswith(MAGIC):
        return b""
    length = int.from_bytes(tail[-END_BYTES:-4], "little")
    if length + END_BYTES > size:
        return b""
    if length + END_BYTES > len(tail):
        return read(size - length - END_BYTES, length)
    return tail[-length - END_BYTES : -END_BYTES]


def file_of(footer: bytes) -> pa.BufferReader:
    """A file in memory that has only this footer; the file on disk may have changed since."""
    return pa.BufferReader(MAGIC + footer + len(footer).to_bytes(4, "little") + MAGIC)


def schema_end(footer: bytes) -> int:
    """The offset after the version and the schema; 0 for another layout."""
    try:
        if not footer or footer[0] != _FIELD_VERSION:
            return 0
        _, at = varint(footer, 1)
        return skip(footer, at + 1, LIST) if footer[at] == _FIELD_SCHEMA else 0
    except (IndexError, ValueError, RecursionError):
        return 0


def find_rows(footer: bytes, at: int, notes_start: int) -> int | None:
    """The number of rows, which follows the schema; None if no row group has the same.

    Args:
        footer: the footer's bytes.
        at: where the schema ends.
        notes_start: where the notes begin.
    """
    if len(footer) <= at or footer[at] != _FIELD_ROWS:
        return None
    number, after = varint(footer, at + 1)
    field = footer[at:after]
    again = footer.rfind(field, after, notes_start)
    while again >= 0 and not _is_in_group(footer, again, again + len(field)):
        again = footer.rfind(field, after, again)
    if number & 1 or again < 0:
        return None  # odd zigzag numbers are negative
    return number >> 1


def _is_in_group(footer: bytes, at: int, after: int) -> bool:
    """Whether the field of 64 bits from `at` to `after` is the number of rows of a row group.

    It follows the end of the last column and a field of 64 bits, the size.
    """
    size_at = at - 2
    while footer[size_at] >= MORE:
        size_at -= 1
    follows_columns = footer[size_at - 1] == 0 and footer[size_at] == _FIELD_ROWS
    return follows_columns and footer[at - 1] < MORE and footer[after] in _AFTER_ROWS


def find_notes(footer: bytes) -> int | None:
    """The offset of the notes, the end if there are none; None if unsure.

    It is unsure if their keys also occur elsewhere, such as in the statistics of a column.
    """
    if b"PANDAS_ATTRS" in footer:
        return None
    starts = [len(footer)]
    for key in (ARROW_KEY, PANDAS_KEY):
        at = footer.find(bytes((0x10 | BINARY, len(key))) + key)
        if at < 0 and footer.find(key) >= 0:
            return None
        if at >= 0:
            if footer.count(bytes((len(key),)) + key) > 1:
                return None
            starts.append(at)
    return min(starts)


def comparable_notes(notes: bytes) -> tuple[bytes, bytes]:
    """The notes with varying numbers blanked: all but Arrow's schema, and that schema decoded.

    Raises:
        ValueError: Arrow's schema is not in base64.
    """
    arrow_schema = b""
    if (at := notes.find(ARROW_KEY)) >= 0:
        # The key is followed by a field header, the length, and the value in base64.
        length, start = varint(notes, at + len(ARROW_KEY) + 1)
        arrow_schema = blank_numbers(binascii.a2b_base64(notes[start : start + length]))
        notes = notes[:start] + notes[start + length :]
    return blank_numbers(notes), arrow_schema


def blank_numbers(notes: bytes, *, keep_length: bool = True) -> bytes:
    """Blank the numbers that may differ within a schema; bytes that Arrow laid out keep length.

    These are the end of the RangeIndex and the number of categories.
    """
    if _ATTRIBUTES.search(notes):
        return notes
    return _VARYING.sub(lambda found: b"0" * (len(found[0]) if keep_length else 1), notes)
