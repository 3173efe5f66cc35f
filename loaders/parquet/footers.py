"""What Parquet footers say before anything is decoded: rows, and which files are of one schema.

Parsing a footer costs more than decoding a small file's column, and in a folder of daily files
nearly all say the same. So a footer is parsed once for all files that agree with it byte by byte
in whatever the schema is made of: what comes before the number of rows (the Parquet schema), and
the notes at the end that pandas and Arrow leave. Of the notes two kinds of numbers may differ: the
end of the RangeIndex, which is the number of rows, and how many categories a column has, which
its dictionary says.

The layout is FileMetaData of the Parquet format, in Thrift's compact protocol.

No number in a footer is believed alone. A footer that is not parsed as a whole must give a row
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

# Files up to this size are read as a whole when their footer is, since to open one again takes
# about as long as to read it.
SMALL_BYTES = 128 << 10

# Holds the footer of a file with some dozen columns. A longer one costs a second read, once:
# from then on as much is read at first.
TAIL_BYTES = 16 << 10
_TAIL_SLACK = 256  # bytes by which footers of one schema may differ
END_BYTES = 8  # the footer's length and the magic bytes
MAGIC = b"PAR1"
READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_KNOWN = 4096  # schemas remembered before starting over
# Notes that are compared as they are. They differ by the number of rows, which daily files share:
# to blank it out takes 120 us of 56 columns, to compare them half a microsecond.
_LATELY = 32
_LONG = 1 << 20  # bytes of a footer that Arrow parses as a whole, since it is quicker
# A page of Arrow and Spark has at most 20,000 rows and takes 20 bytes or more. A file that
# claims more rows than this for each of its bytes is left to pandas, and training refuses it.
ROWS_PER_BYTE = 1 << 16

ARROW_NOTES, _PANDAS_NOTES = b"ARROW:schema", b"pandas"
_STOP = re.compile(rb'"(?:stop|num_categories)": \d+')
_ATTRIBUTES = re.compile(rb'"attributes": \{[^}]')  # of a frame: anything may stand in them

_FIELD_VERSION, _FIELD_SCHEMA, _FIELD_ROWS = 0x10 | I32, 0x10 | LIST, 0x10 | I64
# What follows the rows of a row group: its end, or one of the fields 4 to 7.
_AFTER_ROWS = frozenset((0x00, 0x10 | LIST, 0x20 | I64, 0x30 | I64, 0x40 | I16))


class FileSchema(NamedTuple):
    """How the columns of one or many files are stored."""

    arrow: pa.Schema
    physical: tuple[str, ...]
    """Parquet's own type of each leaf column, such as `INT96`."""
    logical: tuple[str, ...] = ()
    """What the values of each leaf column mean, such as the unit of timestamps."""


class Content:
    """A small file's bytes, until they are decoded."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data

    def take(self) -> bytes | None:
        """The bytes, which are forgotten then; None where they were taken before."""
        data, self._data = self._data, None
        return data


class Footer(NamedTuple):
    """One file, as it is now."""

    path: str
    size: int
    mtime_ns: int
    rows: int
    schema: FileSchema
    """The same object for files that say the same."""
    sound: bool = True
    """Whether its rows are those of its row groups, and no more than the file has room for."""
    content: Content | None = None
    """Of a small file, where it was asked for."""
    groups: tuple[int, ...] | None = None
    """The row groups that are wanted, to which `rows` then refers; None for all."""
    schema_bytes: int = 0
    """Bytes of the footer before its number of rows; 0 where that is not known."""


class Identity(NamedTuple):
    """What tells that a path still leads to the same file; links are followed."""

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
        """Where the number of rows stands, as `Footer.schema_bytes`."""
        return self.footer.schema_bytes

    def groups(self) -> int | None:
        """How many row groups are listed after the number of rows; None where unsure."""
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
    """What a footer says, and between which of its bytes its row groups are."""

    rows: int
    schema: FileSchema
    sound: bool = True
    start: int = 0
    end: int = 0


class _Agreed(NamedTuple):
    """What files have to agree in to be of one schema with one that was parsed lately."""

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
            whole: keep the bytes of a small file, which are read anyhow.

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
            with reading(path):  # which costs a microsecond to enter
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
        except (IndexError, ValueError):  # it ends too early, or is laid out otherwise
            found = None
        return found or self._parse_whole(file_of(footer), schema_end(footer), len(footer))

    def _recognise(self, footer: bytes) -> _Parsed | None:
        """The rows and the schema, without parsing what was parsed before; None where unsure."""
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
    """A file of a footer alone: the one at hand, whatever has become of the file since."""
    return pa.BufferReader(MAGIC + footer + len(footer).to_bytes(4, "little") + MAGIC)


def _content(schema: pa.Schema) -> bytes:
    """A schema as bytes, without the end of the RangeIndex."""
    metadata = dict(schema.metadata or {})
    if _PANDAS_NOTES in metadata:
        metadata[_PANDAS_NOTES] = _without_stop(metadata[_PANDAS_NOTES], keep_length=False)
    content: bytes = schema.with_metadata(metadata).serialize().to_pybytes()
    return content


def _footer_of(data: bytes) -> bytes:
    """The footer of a file's bytes, or nothing where there is none that could be taken apart."""
    if len(data) < END_BYTES or not data.endswith(MAGIC):
        return b""
    start = len(data) - END_BYTES - int.from_bytes(data[-END_BYTES:-4], "little")
    return data[start:-END_BYTES] if start >= 0 else b""


def _last_bytes(file: int, size: int, tail_bytes: int) -> bytes:
    """The footer, or nothing where there is none that could be taken apart.

    Args:
        file: a descriptor.
        size: its bytes.
        tail_bytes: so many are read at first.
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
    """Where the notes of pandas and Arrow begin, the end where there are none; None where unsure.

    A text of the same letters elsewhere, as among the statistics of a column, makes it unsure.
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
        ValueError: that is not in base64.
    """
    coded = b""
    if (at := end.find(ARROW_NOTES)) >= 0:
        # Its name is followed by a field header, the length, and the value in base64.
        length, start = varint(end, at + len(ARROW_NOTES) + 1)
        coded = _without_stop(binascii.a2b_base64(end[start : start + length]))
        end = end[:start] + end[start + length :]
    return _without_stop(end), coded


def _without_stop(notes: bytes, *, keep_length: bool = True) -> bytes:
    """Notes with the end of the RangeIndex blanked; in bytes that Arrow laid out, at its length."""
    if _ATTRIBUTES.search(notes):
        return notes
    return _STOP.sub(lambda stop: b"0" * (len(stop.group()) if keep_length else 1), notes)


def _rows(footer: bytes, at: int, end: int) -> int | None:
    """The number of rows, which follows the schema; None where the row group's is another.

    Args:
        footer: its bytes.
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
        return None  # of zigzag numbers the odd ones are negative
    return number >> 1


def _is_of_group(footer: bytes, at: int, after: int) -> bool:
    """Whether a field of 64 bits is the rows of a row group.

    Before it are the end of the last column and a field of 64 bits, the size.
    """
    place = at - 2
    while footer[place] >= 0x80:  # noqa: PLR2004 - the continuation bit
        place -= 1
    follows_columns = footer[place - 1] == 0 and footer[place] == _FIELD_ROWS
    return follows_columns and footer[at - 1] < 0x80 and footer[after] in _AFTER_ROWS  # noqa: PLR2004


def schema_end(footer: bytes) -> int:
    """Where the version and the schema end; 0 for what is laid out otherwise."""
    try:
        if not footer or footer[0] != _FIELD_VERSION:
            return 0
        _, at = varint(footer, 1)
        return skip(footer, at + 1, LIST) if footer[at] == _FIELD_SCHEMA else 0
    except (IndexError, ValueError, RecursionError):
        return 0
