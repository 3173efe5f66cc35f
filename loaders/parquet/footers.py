"""Read Parquet footers: the number of rows, and which files have the same schema.

Parsing a footer costs more than decoding a small file's column, and in a folder of daily files
nearly all footers are alike. So a footer is parsed once for all files that have the same bytes in
the parts that define the schema: those before the number of rows (the Parquet schema), and the
notes of pandas and Arrow at the end. Two kinds of numbers in the notes may differ: the end of the
RangeIndex, which is the number of rows, and the number of categories of a column, which its
dictionary has.

The layout is FileMetaData of the Parquet format, in Thrift's compact protocol.

No number in a footer is trusted alone. A footer that is not parsed as a whole must give a row
group as many rows as the file; others are parsed by Arrow, and `Footer.sound` says whether their
numbers agree. Decoders count the rows again.
"""

from __future__ import annotations

import binascii
import os
import re
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..base.stages import stage
from .reader import DAMAGE, reading
from .thrift import BINARY, I16, I32, I64, LIST, MANY, STRUCT, skip, varint

# Files up to this size are read as a whole with their footer, since opening one again takes about
# as long as reading it.
SMALL_BYTES = 128 << 10

# Enough for the footer of a file with some dozen columns. A longer one costs a second read, once:
# later first reads are that long.
TAIL_BYTES = 16 << 10
_TAIL_SLACK = 256  # bytes by which footers of one schema may differ
END_BYTES = 8  # the footer's length and the magic bytes
MAGIC = b"PAR1"
READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_KNOWN = 4096  # schemas remembered before starting over
# Recent notes that are compared unchanged. They differ by the number of rows, which daily files
# share: blanking it takes 120 us for 56 columns, comparing the notes half a microsecond.
_LATELY = 32
_LONG = 1 << 20  # bytes; longer footers are parsed by Arrow, which is faster
# A page of Arrow and Spark has at most 20,000 rows and takes 20 bytes or more. A file that
# claims more rows than this for each of its bytes is left to pandas, and training rejects it.
ROWS_PER_BYTE = 1 << 16

ARROW_NOTES, _PANDAS_NOTES = b"ARROW:schema", b"pandas"
_STOP = re.compile(rb'"(?:stop|num_categories)": \d+')
_ATTRIBUTES = re.compile(rb'"attributes": \{[^}]')  # of a frame: they may contain anything

_FIELD_VERSION, _FIELD_SCHEMA, _FIELD_ROWS = 0x10 | I32, 0x10 | LIST, 0x10 | I64
# The byte after the rows of a row group: its end, or one of the fields 4 to 7.
_AFTER_ROWS = frozenset((0x00, 0x10 | LIST, 0x20 | I64, 0x30 | I64, 0x40 | I16))


class FileSchema(NamedTuple):
    """How the columns of one or many files are stored."""

    arrow: pa.Schema
    physical: tuple[str, ...]
    """Parquet's own type of each leaf column, such as `INT96`."""
    logical: tuple[str, ...] = ()
    """Parquet's logical type of each leaf column, such as the unit of timestamps."""


class Content:
    """A small file's bytes, until they are decoded."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data

    def take(self) -> bytes | None:
        """Return the bytes and drop them; None if they were taken before."""
        data, self._data = self._data, None
        return data


class Footer(NamedTuple):
    """A file, as it was when its footer was read."""

    path: str
    size: int
    mtime_ns: int
    rows: int
    schema: FileSchema
    """The same object for files with the same schema."""
    sound: bool = True
    """Whether its row groups add up to its rows, and the file is large enough for them."""
    content: Content | None = None
    """The bytes of a small file, if requested."""
    groups: tuple[int, ...] | None = None
    """The row groups that are wanted, to which `rows` then refers; None for all."""
    schema_bytes: int = 0
    """Bytes of the footer before its number of rows; 0 if that is not known."""


class Identity(NamedTuple):
    """Values that show whether a path still leads to the same file; links are followed."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """The identity of the file that has this status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class Opened(NamedTuple):
    """A footer and its bytes, of which those from `start` to `end` describe the row groups."""

    footer: Footer
    identity: Identity
    data: bytes
    end: int

    @property
    def start(self) -> int:
        """The offset of the number of rows, `Footer.schema_bytes`."""
        return self.footer.schema_bytes

    def groups(self) -> int | None:
        """The number of row groups listed after the number of rows; None if unsure."""
        if not self.start:
            return None
        try:
            _, at = varint(self.data, self.start + 1)
            count, kind = self.data[at + 1] >> 4, self.data[at + 1] & 0x0F
            if kind != STRUCT:
                return None
            return varint(self.data, at + 2)[0] if count == MANY else count
        except (IndexError, ValueError):
            return None

    def group_rows(self) -> tuple[int, ...]:
        """The number of rows of each row group.

        Raises:
            ParquetFileError: the footer is damaged.
        """
        if self.footer.sound and self.groups() == 1:
            return (self.footer.rows,)
        return rows_of_groups(self.metadata())

    def metadata(self) -> pq.FileMetaData:
        """The footer as Arrow parses it.

        Raises:
            ParquetFileError: it is damaged.
        """
        with reading(self.footer.path):
            return pq.ParquetFile(file_of(self.data), pre_buffer=False).metadata


class _Parsed(NamedTuple):
    """The contents of a footer, and the offsets between which its row groups are."""

    rows: int
    schema: FileSchema
    sound: bool = True
    start: int = 0
    end: int = 0


class _Agreed(NamedTuple):
    """Bytes that a footer must share with a recently parsed one to have its schema."""

    prefix: bytes
    notes: bytes
    schema: FileSchema


class Footers:
    """Reads footers, and remembers the schemas it has parsed; threads may share it."""

    def __init__(self) -> None:
        self._schemas: dict[tuple[bytes, ...], FileSchema] = {}
        self._prefix = b""
        self._lately: tuple[_Agreed, ...] = ()
        self._tail_bytes = TAIL_BYTES

    def read(self, path: str, *, whole: bool = False) -> Footer:
        """A file's footer.

        Args:
            path: the file.
            whole: read a small file as a whole and keep its bytes.

        Raises:
            ParquetFileError: the file is missing, empty, truncated, or not Parquet.
        """
        return self.open(path, whole=whole).footer

    def open(self, path: str, *, whole: bool = False) -> Opened:
        """A file's footer with its bytes; the arguments and errors of `read`."""
        try:
            status, data, content = self._read(path, whole=whole)
            # No usable footer: Arrow opens the file and raises the error.
            parsed = self._parse(data) if data else self._parse_whole(path)
        except DAMAGE:
            with reading(path):  # entering it costs a microsecond
                raise
        if self._tail_bytes < len(data) + END_BYTES <= _LONG:
            self._tail_bytes = len(data) + END_BYTES + _TAIL_SLACK
        sound = parsed.sound and parsed.rows <= status.st_size * ROWS_PER_BYTE
        size, modified = status.st_size, status.st_mtime_ns
        start = parsed.start
        footer = Footer(
            path, size, modified, parsed.rows, parsed.schema, sound, content, None, start
        )
        return Opened(footer, Identity.of(status), data, parsed.end)

    def _read(self, path: str, *, whole: bool) -> tuple[os.stat_result, bytes, Content | None]:
        if not path.isascii():
            path.encode()  # which raises for names that Arrow does not take
        file = os.open(path, READ)  # a FileIO would take half as long again
        try:
            status = os.fstat(file)
            if whole and status.st_size <= SMALL_BYTES:
                with stage("read"):
                    everything = os.read(file, status.st_size)
                return status, _footer_of(everything), Content(everything)
            return status, _last_bytes(file, status.st_size, self._tail_bytes), None
        finally:
            os.close(file)

    def _parse(self, footer: bytes) -> _Parsed:
        try:
            found = self._recognise(footer) if len(footer) <= _LONG else None
        except (IndexError, ValueError):  # it ends too early, or has another layout
            found = None
        return found or self._parse_whole(file_of(footer), schema_end(footer), len(footer))

    def _recognise(self, footer: bytes) -> _Parsed | None:
        """The rows and the schema, without parsing the same schema again; None if unsure."""
        for agreed in self._lately:
            if footer.endswith(agreed.notes) and footer.startswith(agreed.prefix):
                first, end = len(agreed.prefix), len(footer) - len(agreed.notes)
                rows = _rows(footer, first, end)
                if rows is not None:
                    return _Parsed(rows, agreed.schema, start=first, end=end)
        prefix = self._prefix
        if not prefix or not footer.startswith(prefix):
            self._prefix = prefix = footer[: schema_end(footer)]
        start = _notes_start(footer)
        rows = None if start is None else _rows(footer, len(prefix), start)
        if rows is None or start is None:
            return None
        key = (prefix, *_notes(footer[start:]))
        if (schema := self._schemas.get(key)) is None:
            schema = self._parse_whole(file_of(footer)).schema
            self._schemas[key] = schema
        if start < len(footer):
            agreed = _Agreed(prefix, footer[start:], schema)
            self._lately = (agreed, *self._lately[: _LATELY - 1])
        return _Parsed(rows, schema, start=len(prefix), end=start)

    def _parse_whole(self, source: str | pa.BufferReader, start: int = 0, end: int = 0) -> _Parsed:
        with pq.ParquetFile(source, pre_buffer=False) as file:
            leaves = [file.metadata.schema.column(at) for at in range(len(file.metadata.schema))]
            physical = tuple(leaf.physical_type for leaf in leaves)
            logical = tuple(str(leaf.logical_type) for leaf in leaves)
            rows, schema = file.metadata.num_rows, FileSchema(file.schema_arrow, physical, logical)
            groups = rows_of_groups(file.metadata)
        key = (_content(schema.arrow), "".join(physical).encode(), "".join(logical).encode())
        if len(self._schemas) >= _KNOWN:
            self._schemas.clear()
        sound = rows == sum(groups) and min(groups, default=0) >= 0
        return _Parsed(rows, self._schemas.setdefault(key, schema), sound, start, end)


def rows_of_groups(metadata: pq.FileMetaData) -> tuple[int, ...]:
    """The number of rows that a footer gives each row group."""
    return tuple(metadata.row_group(at).num_rows for at in range(metadata.num_row_groups))


def file_of(footer: bytes) -> pa.BufferReader:
    """A file in memory that has only this footer; the file on disk may have changed since."""
    return pa.BufferReader(MAGIC + footer + len(footer).to_bytes(4, "little") + MAGIC)


def _content(schema: pa.Schema) -> bytes:
    """A schema as bytes, without the end of the RangeIndex."""
    metadata = dict(schema.metadata or {})
    if _PANDAS_NOTES in metadata:
        metadata[_PANDAS_NOTES] = _without_stop(metadata[_PANDAS_NOTES], keep_length=False)
    content: bytes = schema.with_metadata(metadata).serialize().to_pybytes()
    return content


def _footer_of(data: bytes) -> bytes:
    """The footer in a file's bytes; empty if there is none that could be parsed."""
    if len(data) < END_BYTES or not data.endswith(MAGIC):
        return b""
    start = len(data) - END_BYTES - int.from_bytes(data[-END_BYTES:-4], "little")
    return data[start:-END_BYTES] if start >= 0 else b""


def _last_bytes(file: int, size: int, tail_bytes: int) -> bytes:
    """The footer of an open file; empty if there is none that could be parsed.

    Args:
        file: a descriptor.
        size: the file's size in bytes.
        tail_bytes: the number of bytes to read first.
    """
    tail_bytes = min(size, tail_bytes)
    os.lseek(file, size - tail_bytes, os.SEEK_SET)
    tail = os.read(file, tail_bytes)
    if len(tail) < END_BYTES or not tail.endswith(MAGIC):
        return b""
    length = int.from_bytes(tail[-END_BYTES:-4], "little")
    if length + END_BYTES > size:
        return b""
    if length + END_BYTES > len(tail):
        os.lseek(file, size - length - END_BYTES, os.SEEK_SET)
        return os.read(file, length)
    return tail[-length - END_BYTES : -END_BYTES]


def _notes_start(footer: bytes) -> int | None:
    """The offset of the notes of pandas and Arrow, the end if there are none; None if unsure.

    The names of notes as text elsewhere, as among the statistics of a column, make it unsure.
    """
    if b"PANDAS_ATTRS" in footer:
        return None
    starts = [len(footer)]
    for name in (ARROW_NOTES, _PANDAS_NOTES):
        at = footer.find(bytes((0x10 | BINARY, len(name))) + name)
        if at < 0 and footer.find(name) >= 0:
            return None
        if at >= 0:
            if footer.count(bytes((len(name),)) + name) > 1:
                return None
            starts.append(at)
    return min(starts)


def _notes(end: bytes) -> tuple[bytes, bytes]:
    """The notes without the end of the RangeIndex, and Arrow's schema decoded.

    Raises:
        ValueError: Arrow's schema is not in base64.
    """
    coded = b""
    if (at := end.find(ARROW_NOTES)) >= 0:
        # Its name is followed by a field header, the length, and the value in base64.
        length, start = varint(end, at + len(ARROW_NOTES) + 1)
        coded = _without_stop(binascii.a2b_base64(end[start : start + length]))
        end = end[:start] + end[start + length :]
    return _without_stop(end), coded


def _without_stop(notes: bytes, *, keep_length: bool = True) -> bytes:
    """Blank the numbers that may differ in notes; bytes that Arrow laid out keep their length."""
    if _ATTRIBUTES.search(notes):
        return notes
    return _STOP.sub(lambda stop: b"0" * (len(stop.group()) if keep_length else 1), notes)


def _rows(footer: bytes, at: int, end: int) -> int | None:
    """The number of rows, which follows the schema; None if no row group has the same.

    Args:
        footer: the footer's bytes.
        at: where the schema ends.
        end: where the notes begin.
    """
    if len(footer) <= at or footer[at] != _FIELD_ROWS:
        return None
    number, after = varint(footer, at + 1)
    field = footer[at:after]
    again = footer.rfind(field, after, end)
    while again >= 0 and not _is_of_group(footer, again, again + len(field)):
        again = footer.rfind(field, after, again)
    if number & 1 or again < 0:
        return None  # odd zigzag numbers are negative
    return number >> 1


def _is_of_group(footer: bytes, at: int, after: int) -> bool:
    """Whether a field of 64 bits is the number of rows of a row group.

    It follows the end of the last column and a field of 64 bits, the size.
    """
    place = at - 2
    while footer[place] >= 0x80:  # noqa: PLR2004 - the continuation bit
        place -= 1
    follows_columns = footer[place - 1] == 0 and footer[place] == _FIELD_ROWS
    return follows_columns and footer[at - 1] < 0x80 and footer[after] in _AFTER_ROWS  # noqa: PLR2004


def schema_end(footer: bytes) -> int:
    """The offset after the version and the schema; 0 for another layout."""
    try:
        if not footer or footer[0] != _FIELD_VERSION:
            return 0
        _, at = varint(footer, 1)
        return skip(footer, at + 1, LIST) if footer[at] == _FIELD_SCHEMA else 0
    except (IndexError, ValueError, RecursionError):
        return 0
