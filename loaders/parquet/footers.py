"""Read Parquet footers: the number of rows, and which files have the same schema.

Parsing a footer costs more than decoding a small file's column, and in a folder of daily files
nearly all footers are alike. So one footer is parsed for all files that have the same bytes in the
parts that define the schema: the Parquet schema, before the number of rows, and the notes
(key-value metadata) of pandas and Arrow at the end. Two kinds of numbers in the notes may differ:
the end of the RangeIndex, which is the number of rows, and the number of categories of a column,
which is also in its dictionary.

No number in a footer is trusted alone. If a footer is not parsed, one of its row groups must have
as many rows as the file. Arrow parses all others, and `Footer.sound` says whether their numbers
agree. Decoders count the rows again.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..base.stages import stage
from ..remote.source import RemoteSource, open_source
from ..remote.urls import is_url
from ..remote.window import Window
from .footer_bytes import (
    END_BYTES,
    PANDAS_KEY,
    blank_numbers,
    comparable_notes,
    file_of,
    find_notes,
    find_rows,
    footer_in,
    read_footer,
    schema_end,
)
from .reader import DAMAGE, arrow_file, reading
from .thrift import MANY, STRUCT, varint

# Files up to this size are read whole with their footer, since opening a file again takes about as
# long as reading it.
SMALL_BYTES = 128 << 10

# Enough for the footer of a file with some dozen columns. A longer one takes a second read, once:
# from then on that many bytes are read first.
TAIL_BYTES = 16 << 10
_TAIL_SLACK = 256  # bytes by which footers of one schema may differ
READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_MAX_KNOWN = 4096  # schemas remembered before starting over
# Recent notes, compared as they are. Notes differ by the number of rows, which daily files share:
# blanking it takes 120 us for 56 columns, comparing the notes 0.5 us.
_MAX_RECENT = 32
_LONG = 1 << 20  # bytes; longer footers are parsed by Arrow, which is faster
# A page of Arrow and Spark has at most 20,000 rows and takes 20 bytes or more. A file with
# more rows per byte than this is left to pandas, and training rejects it.
ROWS_PER_BYTE = 1 << 16


class FileSchema(NamedTuple):
    """How the columns of one or many files are stored."""

    arrow: pa.Schema
    physical: tuple[str, ...]
    """Parquet's physical type of each leaf column, such as `INT96`."""
    logical: tuple[str, ...] = ()
    """Parquet's logical type of each leaf column, such as the unit of timestamps."""


class Content:
    """A small file's bytes, until they are decoded."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data

    def take(self) -> bytes | RemoteSource | None:
        """Return the bytes and drop them; None if they were taken before."""
        data, self._data = self._data, None
        return data


class Requested(Content):
    """An object of which all bytes, or the wanted parts, will be requested in time."""

    def __init__(self, window: Window, number: int) -> None:
        super().__init__(b"")
        self._window, self._number = window, number

    def take(self) -> bytes | RemoteSource | None:
        """Wait for the object, and return it; None if it was taken before."""
        with stage("read"):
            source = self._window.take(self._number)
        return None if source is None else source.content or source


class Footer(NamedTuple):
    """A file as it was when its footer was read."""

    path: str
    size: int
    mtime_ns: int
    rows: int
    schema: FileSchema
    """The same object for all files of this schema."""
    sound: bool = True
    """Whether the row groups add up to `rows`, and the file is large enough for them."""
    content: Content | None = None
    """The bytes of a small file, if requested."""
    groups: tuple[int, ...] | None = None
    """The wanted row groups, None for all; `rows` counts only their rows."""
    schema_bytes: int = 0
    """Bytes of the footer before its number of rows; 0 if unknown."""
    version: str | None = None
    """Of an object: its ETag."""


class Identity(NamedTuple):
    """Values that show whether a path still leads to the same file; links are followed."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    version: str | None = None
    """Of an object: its ETag."""

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """The identity of the file that has this status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class Opened(NamedTuple):
    """A footer and its bytes; those from `start` to `end` describe the row groups."""

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
            ParquetFileError: the footer is damaged.
        """
        with reading(self.footer.path):
            return pq.ParquetFile(file_of(self.data), pre_buffer=False).metadata


class _Parsed(NamedTuple):
    """The contents of a footer; the row groups lie between the offsets `start` and `end`."""

    rows: int
    schema: FileSchema
    sound: bool = True
    start: int = 0
    end: int = 0


class _Recent(NamedTuple):
    """A recently read schema, and the bytes that a footer with this schema begins and ends with."""

    prefix: bytes
    notes: bytes
    schema: FileSchema


class Footers:
    """Reads footers, and remembers the schemas it has parsed; threads may share it."""

    def __init__(self) -> None:
        self._schemas: dict[tuple[bytes, ...], FileSchema] = {}
        self._prefix = b""
        self._recent: tuple[_Recent, ...] = ()
        self._tail_bytes = TAIL_BYTES

    def read(self, path: str, *, whole: bool = False) -> Footer:
        """A file's footer.

        Args:
            path: the file.
            whole: read a small file whole and keep its bytes.

        Raises:
            ParquetFileError: the file is missing, empty, truncated, or not Parquet.
        """
        return self.open(path, whole=whole).footer

    def open(self, path: str, *, whole: bool = False) -> Opened:
        """A file's footer with its bytes; the arguments and errors of `read`."""
        try:
            identity, data, content = self._read(path, whole=whole)
            # No usable footer: Arrow opens the file and raises the error.
            parsed = self._parse(data) if data else self._parse_with_arrow(arrow_file(path))
        except DAMAGE:
            with reading(path):  # entering it costs a microsecond
                raise
        if self._tail_bytes < len(data) + END_BYTES <= _LONG:
            self._tail_bytes = len(data) + END_BYTES + _TAIL_SLACK
        sound = parsed.sound and parsed.rows <= identity.size * ROWS_PER_BYTE
        footer = Footer(
            path, identity.size, identity.mtime_ns, parsed.rows, parsed.schema, sound, content,
            schema_bytes=parsed.start, version=identity.version,
        )  # fmt: skip
        return Opened(footer, identity, data, parsed.end)

    def _read(self, path: str, *, whole: bool) -> tuple[Identity, bytes, Content | None]:
        if is_url(path):
            return self._read_object(path, whole=whole)
        if not path.isascii():
            path.encode()  # raises for names that Arrow rejects
        file = os.open(path, READ)  # FileIO takes 50% longer
        try:
            status = os.fstat(file)
            if whole and status.st_size <= SMALL_BYTES:
                with stage("read"):
                    data = os.read(file, status.st_size)
                return Identity.of(status), footer_in(data), Content(data)

            def read(at: int, count: int) -> bytes:
                os.lseek(file, at, os.SEEK_SET)
                return os.read(file, count)

            footer = read_footer(read, status.st_size, self._tail_bytes)
            return Identity.of(status), footer, None
        finally:
            os.close(file)

    def _read_object(self, path: str, *, whole: bool) -> tuple[Identity, bytes, Content | None]:
        with stage("read"):
            source = open_source(path, fresh=True, whole=whole)
        identity = Identity(source.size, source.modified_ns, 0, 0, source.version)
        if whole and (data := source.content) is not None:
            return identity, footer_in(data), Content(data)
        return identity, read_footer(source.read, source.size, self._tail_bytes), None

    def _parse(self, footer: bytes) -> _Parsed:
        try:
            parsed = self._recognise(footer) if len(footer) <= _LONG else None
        except (IndexError, ValueError):  # it ends too early, or has another layout
            parsed = None
        return parsed or self._parse_with_arrow(file_of(footer), schema_end(footer), len(footer))

    def _recognise(self, footer: bytes) -> _Parsed | None:
        """The rows and the schema, without parsing the same schema again; None if unsure."""
        for recent in self._recent:
            if footer.endswith(recent.notes) and footer.startswith(recent.prefix):
                start, end = len(recent.prefix), len(footer) - len(recent.notes)
                rows = find_rows(footer, start, end)
                if rows is not None:
                    return _Parsed(rows, recent.schema, start=start, end=end)
        prefix = self._prefix
        if not prefix or not footer.startswith(prefix):
            self._prefix = prefix = footer[: schema_end(footer)]
        notes_start = find_notes(footer)
        rows = None if notes_start is None else find_rows(footer, len(prefix), notes_start)
        if rows is None or notes_start is None:
            return None
        notes = footer[notes_start:]
        key = (prefix, *comparable_notes(notes))
        if (schema := self._schemas.get(key)) is None:
            schema = self._parse_with_arrow(file_of(footer)).schema
            self._schemas[key] = schema
        if notes:
            recent = _Recent(prefix, notes, schema)
            self._recent = (recent, *self._recent[: _MAX_RECENT - 1])
        return _Parsed(rows, schema, start=len(prefix), end=notes_start)

    def _parse_with_arrow(self, source: Any, start: int = 0, end: int = 0) -> _Parsed:
        with pq.ParquetFile(source, pre_buffer=False) as file:
            leaves = [file.metadata.schema.column(at) for at in range(len(file.metadata.schema))]
            physical = tuple(leaf.physical_type for leaf in leaves)
            logical = tuple(str(leaf.logical_type) for leaf in leaves)
            rows, schema = file.metadata.num_rows, FileSchema(file.schema_arrow, physical, logical)
            groups = rows_of_groups(file.metadata)
        key = (_as_bytes(schema.arrow), "".join(physical).encode(), "".join(logical).encode())
        if len(self._schemas) >= _MAX_KNOWN:
            self._schemas.clear()
        sound = rows == sum(groups) and min(groups, default=0) >= 0
        return _Parsed(rows, self._schemas.setdefault(key, schema), sound, start, end)


def rows_of_groups(metadata: pq.FileMetaData) -> tuple[int, ...]:
    """The number of rows that a footer gives each row group."""
    return tuple(metadata.row_group(at).num_rows for at in range(metadata.num_row_groups))


def _as_bytes(schema: pa.Schema) -> bytes:
    """A schema as bytes, without the numbers in its notes that may differ."""
    metadata = dict(schema.metadata or {})
    if PANDAS_KEY in metadata:
        metadata[PANDAS_KEY] = blank_numbers(metadata[PANDAS_KEY], keep_length=False)
    data: bytes = schema.with_metadata(metadata).serialize().to_pybytes()
    return data
