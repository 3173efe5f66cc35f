"""Check that columns decoded by polars agree with their footers and pages.

polars checks less than Arrow: it may return rows of a damaged page that Arrow, and so pandas,
rejects. A file states the nulls of a column in the footer's statistics, in the definition levels of
its pages, and by missing values. Damage to levels nearly always makes these differ. Levels can be
read if they are not compressed: in files without compression, and in pages of version 2.

A difference does not prove damage, since some writers get statistics wrong. Arrow then decodes the
files again, and its rows or its error are used.

The layouts are ColumnMetaData, Statistics, PageHeader and the hybrid of runs and bit-packed groups
of the Parquet format, in Thrift's compact protocol. Regular expressions match them: a footer of 14
columns takes 6 us, for which Arrow takes 65; 6,000 levels take 2 to 11 us.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple, Protocol

from .footer_bytes import END_BYTES
from .thrift import NUMBER, as_text, as_varint, varint

# Levels are read in files from this size, which take 300 us to load: up to 1 / LEVELS_PART of the
# file.
LEVELS_FROM_BYTES = 128 << 10
LEVELS_PART = 1024

_HEADER_BYTES = 512  # of a page, unless its statistics hold long text
_LONG_HEADER_BYTES = 32 << 10  # Arrow keeps minima and maxima of up to 4 KiB, each twice
_LENGTH_BYTES = 4  # for the levels' length, before them in pages of version 1
_UNCOMPRESSED, _VERSION_1 = b"\x00", b"\x15\x00"
_CACHED = 4096


def _one_of(codes: Iterable[int]) -> bytes:
    return b"[%b]" % b"".join(rb"\x%02x" % code for code in codes)


def extreme(longest: int) -> bytes:
    """Matches a minimum or maximum of up to `longest` bytes, with its field header."""
    first = (8, 4, 1)  # of numbers
    lengths = [*first, *(length for length in range(longest + 1) if length not in first)]
    return rb"\x18(?:%b)" % b"|".join(rb"\x%02x.{%d}" % (length, length) for length in lengths)


# Fields after a column's path: codec, values, two sizes, the offsets of the first data page and of
# the dictionary.
_CHUNK = re.compile(rb"(.)\x16(%b)\x16%b\x16%b\x26(%b)(?:\x26(%b))?" % ((NUMBER,) * 5), re.DOTALL)
# The end of a page header: statistics of numbers, the end of the page's kind, the header's end.
_HEADER_END = rb"(?:\x1c(?:%b%b)?[\x16\x36]%b(?:\x28%b%b(?:[\x11\x12]{2})?)?\x00)?\x00\x00" % (
    extreme(8), extreme(8), NUMBER, extreme(8).removeprefix(rb"\x18"), extreme(8),
)  # fmt: skip
# Sizes, an optional checksum; values, their encoding, both kinds of levels as hybrids. If the end
# matches, the bytes of levels follow.
_PAGE_1 = re.compile(
    rb"\x15\x00\x15%b\x15(%b)(?:\x15%b\x1c|\x2c)\x15(%b)\x15[\x00-\x12]\x15\x06\x15[\x06\x08]"
    rb"(?:%b)?" % (*((NUMBER,) * 4), _HEADER_END),
    re.DOTALL,
)
# Sizes, an optional checksum; values, nulls, rows, encoding, bytes of levels, is_compressed.
_PAGE_2 = re.compile(
    rb"\x15\x06\x15%b\x15(%b)(?:\x15%b\x4c|\x5c)\x15(%b)\x15%b\x15%b\x15[\x00-\x12]\x15(%b)"
    rb"\x15\x00[\x11\x12]?(?:%b)?" % (*((NUMBER,) * 7), _HEADER_END),
    re.DOTALL,
)
_STATISTICS = (0x1C, 0x3C)  # field headers: with and without a dictionary before it
_BINARY, _NULLS = 0x18, (0x16, 0x36)  # likewise, with and without a minimum and maximum
_NO_NULLS = b"\x00\x28"  # zero, then the header of a maximum
_KIND_BINARY, _KIND_NUMBER, _KIND_BOOLEANS = 8, 6, (1, 2)
_NOTES_SLACK = 64  # most bytes by which a schema's notes differ: digits of the RangeIndex

# Levels of one bit. A run is an even number and the level; a bit-packed group 2 k + 1 and k bytes.
_RUN = rb"(?:%b|%b%b)[\x00\x01]" % (_one_of(range(0, 128, 2)), _one_of(range(128, 256, 2)), NUMBER)
_BITS = b"|".join(rb"\x%02x.{%d}" % (2 * size + 1, size) for size in range(1, 64))
_LEVELS = re.compile(rb"(?:%b|%b)*+" % (_RUN, _BITS), re.DOTALL)
_MANY_BITS = re.compile(rb"%b%b" % (_one_of(range(129, 256, 2)), NUMBER))


@cache
def _nulls_of_chunks() -> re.Pattern[bytes]:
    """Finds the nulls of each column chunk of a footer; compiles in some ms.

    They follow the offset of the data or the dictionary, and both deprecated extremes.
    """
    number, text = rb"\x18\x08.{8}" * 2, extreme(127) * 2
    return re.compile(
        rb"\x26%b[\x1c\x3c](?:%b\x16|\x36|%b\x16)(%b)" % (NUMBER, number, text, NUMBER), re.DOTALL
    )


class Source(Protocol):
    """A file that was decoded."""

    @property
    def size(self) -> int:
        """The size in bytes."""

    @property
    def rows(self) -> int:
        """The rows of all row groups."""

    def read(self, at: int, count: int) -> bytes:
        """Return `count` bytes from offset `at`, or fewer at the end of the file."""
        ...


class Decoded(NamedTuple):
    """A leaf column that may hold nulls, as it was decoded."""

    name: str
    leaf: int
    """Its position among the leaf columns of the files."""
    nulls: int
    """The number of nulls in all files together."""


class _Page(NamedTuple):
    """The contents of a page's header."""

    header: int
    """Bytes of the header itself."""
    size: int
    """Bytes that follow the header."""
    values: int
    """The number of values, including nulls."""
    levels: int | None
    """Bytes of definition levels; None in version 1, where this number precedes them."""


class _DamagedError(Exception):
    """A page is damaged, or has a layout not known here."""


def nulls_agree(columns: Iterable[Decoded], claimed: Iterable[int | None]) -> bool:
    """Whether columns have as many nulls as claimed; None: no claim."""
    return all(
        nulls is None or nulls == column.nulls
        for column, nulls in zip(columns, claimed, strict=True)
    )


def agree(sources: Sequence[Source], columns: Sequence[Decoded], leaves: int) -> bool:
    """Whether footers and pages agree with what was decoded.

    Args:
        sources: the files that were decoded together, of one schema.
        columns: their columns that may hold nulls.
        leaves: the number of leaf columns of each file.

    Raises:
        OSError: a file can no longer be read.
    """
    try:
        footers = footers_of(sources)
        if not nulls_agree(columns, _claimed_nulls(sources, footers, columns, leaves)):
            return False
        with_nulls = [column.name for column in columns if column.nulls]
        for source, footer in zip(sources, footers, strict=True):
            if with_nulls and has_levels_to_check(source):
                _check_levels_of(source, footer, with_nulls)
    except (_DamagedError, IndexError, ValueError):
        return False
    return True


def has_levels_to_check(source: Source) -> bool:
    """Whether a file is so large that reading its levels adds almost nothing to the load."""
    return source.size >= LEVELS_FROM_BYTES


def footers_of(sources: Sequence[Source]) -> list[bytes]:
    """Footers without most of their final notes, which files of one schema share."""
    footers: list[bytes] = []
    left_out = 0
    for source in sources:
        end = source.size - END_BYTES
        length = int.from_bytes(source.read(end, 4), "little")
        footers.append(source.read(end - length, length - left_out))
        if len(footers) == 1:
            notes_bytes = length - notes_start(footers[0])
            left_out = max(0, notes_bytes - _NOTES_SLACK)
    return footers


def notes_start(footer: bytes) -> int:
    """The offset of the notes (key-value metadata) after all row groups; the end if none."""
    # Search from the end: a column may have such a name.
    starts = (footer.rfind(key) for key in (b"\x06pandas\x18", b"\x0cARROW:schema\x18"))
    return min((start for start in starts if start >= 0), default=len(footer))


def _claimed_nulls(
    sources: Sequence[Source], footers: Sequence[bytes], columns: Sequence[Decoded], leaves: int
) -> Iterable[int | None]:
    """The nulls of each column in all files by their statistics; None if unknown."""
    if all(
        before_one_group(source.rows) in footer
        for source, footer in zip(sources, footers, strict=True)
    ):
        joined, all_leaves = b"".join(footers), leaves * len(footers)
        if not any(column.nulls for column in columns) and joined.count(_NO_NULLS) == all_leaves:
            return [0] * len(columns)
        found = _nulls_of_chunks().findall(joined)
        if len(found) == all_leaves:
            return [sum(map(_number, found[column.leaf :: leaves])) for column in columns]
        if not found:
            return [None] * len(columns)
    return [_claimed_nulls_of(sources, footers, column.name) for column in columns]


def _claimed_nulls_of(sources: Sequence[Source], footers: Sequence[bytes], name: str) -> int | None:
    """The nulls of a column in all files by their statistics; None if unknown."""
    total = 0
    for source, footer in zip(sources, footers, strict=True):
        rows_left = source.rows
        for found in chunks_of(footer, name):
            nulls = _nulls(footer, found.end())
            if nulls is None:
                return None
            total += nulls
            rows_left -= _number_at(footer, found.start(2))
            if rows_left <= 0:
                break
        if rows_left:
            return None
    return total


def chunks_of(footer: bytes, name: str) -> Iterator[re.Match[bytes]]:
    """Match a footer's fields of a flat column in each row group.

    The match's groups are the codec, the values, and the offsets of the first data page and of the
    dictionary page.
    """
    path, at = _path(name), 0
    while (at := footer.find(path, at)) >= 0:
        at += len(path)
        if found := _CHUNK.match(footer, at):
            yield found


@lru_cache(_CACHED)
def before_one_group(rows: int) -> bytes:
    """The number of rows, and the header of a list of one row group."""
    return b"\x16%b\x19\x1c" % as_varint(rows << 1)


@lru_cache(_CACHED)
def _number(encoded: bytes) -> int:
    return _number_at(encoded, 0)


def _number_at(data: bytes, at: int) -> int:
    """The number whose zigzag varint begins at `at`; it must not be negative."""
    return varint(data, at)[0] >> 1


@lru_cache(_CACHED)
def _path(name: str) -> bytes:
    """The path of a flat column, as a footer has it."""
    return b"\x19\x18%b\x15" % as_text(name)


def _nulls(data: bytes, at: int) -> int | None:
    """The number of nulls in the statistics that begin at `at`; None if unknown."""
    if data[at] not in _STATISTICS:
        return None
    at += 1
    for _ in ("max", "min"):
        if data[at] == _BINARY:
            at = _after_binary(data, at + 1)
    return _number_at(data, at + 1) if data[at] in _NULLS else None


def _check_levels_of(source: Source, footer: bytes, names: Sequence[str]) -> None:
    """Raise if levels are invalid; check up to 1 / `LEVELS_PART` of the file."""
    bytes_left = source.size // LEVELS_PART
    for name in names:
        for found in chunks_of(footer, name):
            at = _number_at(footer, found.start(3))
            if found[1] != _UNCOMPRESSED and source.read(at, 2) == _VERSION_1:
                return  # levels are compressed like values
            bytes_left -= _check_pages(source, at, _number_at(footer, found.start(2)))
            if bytes_left <= 0:
                return


def _check_pages(source: Source, at: int, values: int) -> int:
    """Raise if a page header or its levels are invalid; return the bytes of levels."""
    checked = 0
    while values > 0:
        try:
            page = _page(source.read(at, _HEADER_BYTES))
        except IndexError:  # its statistics hold long text
            page = _page(source.read(at, _LONG_HEADER_BYTES))
        start, length = at + page.header, page.levels
        if length is None:
            length = int.from_bytes(source.read(start, _LENGTH_BYTES), "little")
            start += _LENGTH_BYTES
        _check_levels(source.read(start, length))
        checked += length
        at += page.header + page.size
        values -= page.values
    return checked


def _page(data: bytes) -> _Page:
    """The page that begins with these bytes."""
    found, levels = _PAGE_1.match(data), None
    if found is None:
        found = _PAGE_2.match(data)
        if found is None:
            raise _DamagedError
        levels = _number_at(data, found.start(3))
    size, values = (_number_at(data, found.start(group)) for group in (1, 2))
    end = found.end()
    header = end if data[end - 2 : end] == b"\0\0" else _header_end(data, end)
    return _Page(header, size, values, levels)


def _header_end(header: bytes, at: int) -> int:
    """The offset after a page header; statistics may come first.

    Raises:
        _DamagedError: the header does not end there.
    """
    if header[at] == _STATISTICS[0]:
        at += 1
        while header[at]:
            kind = header[at] & 0x0F
            if kind == _KIND_BINARY:
                at = _after_binary(header, at + 1)
            elif kind == _KIND_NUMBER:
                _, at = varint(header, at + 1)
            elif kind in _KIND_BOOLEANS:
                at += 1
            else:
                raise _DamagedError
        at += 1
    if header[at] or header[at + 1]:  # the ends of the page's kind, and of the header
        raise _DamagedError
    return at + 2


def _check_levels(levels: bytes) -> None:
    """Check that levels are runs of 0 or 1, and groups of bits.

    Raises:
        _DamagedError: they are not.
    """
    at = 0
    while at < len(levels):
        start = at
        if found := _LEVELS.match(levels, at):
            at = found.end()
        if found := _MANY_BITS.match(levels, at):
            at = found.end() + _number_at(levels, at)
        elif at == start:
            raise _DamagedError
    if at > len(levels):
        raise _DamagedError


def _after_binary(data: bytes, at: int) -> int:
    length, at = varint(data, at)
    return at + length
