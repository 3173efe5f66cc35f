"""What the footers of many files of one schema say of their column chunks, read all at once.

Arrow takes 65 us to parse the footer of a file of 14 columns, Python about as long. Here all column
chunks are read side by side, as arrays: 400 such footers in 4 ms. That works where each column's
path is found in its place and every byte between is laid out as writers of today do it; else
nothing is said.

The layouts are FileMetaData, SchemaElement, RowGroup, ColumnChunk, ColumnMetaData, Statistics and
SizeStatistics of the Parquet format, in Thrift's compact protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .thrift import (
    BINARY,
    FALSE,
    I32,
    I64,
    LIST,
    NUMBER,
    STRUCT,
    TRUE,
    as_varint,
    field,
    fields,
    length_of_list,
    list_header,
    skip,
    varint,
)

_KNOWN = 64  # schemas remembered
_BITS, _MORE = 7, 0x80  # of a varint's byte: those of the number, and that another follows
_WIDTH = 5  # bytes of a number at most, up to 2 ** 34
_PAD = bytes(64)  # behind the last footer, for numbers that would run beyond it
_REPEATED = 2  # of the repetition types
_TYPE, _REPETITION, _NAME, _CHILDREN = 1, 3, 4, 5  # fields of a schema's element
# Headers of fields: of the codec, of numbers and places, of the path.
_INT, _LONG, _LATER_LONG, _LIST = field(I32), field(I64), field(I64, 2), field(LIST)
_STATISTICS = field(STRUCT), field(STRUCT, 3)  # after a dictionary's place, and without one
# Of statistics: an extreme after another field and after nulls, nulls after extremes and without.
_EXTREME, _LATER_EXTREME, _NULLS = field(BINARY), field(BINARY, 2), (field(I64), field(I64, 3))
_EXACT = (field(TRUE), field(FALSE))  # whether an extreme is one, or was cut
_CODECS = 8  # from none to lz4_raw
_NOTES = re.compile(rb"\x18(?:\x06pandas|\x0cARROW:schema)")


def _list(kind: int, element: bytes) -> bytes:
    """Matches a list of up to eight elements."""
    some = (rb"\x%02x(?:%b){%d}" % (count << 4 | kind, element, count) for count in range(9))
    return b"(?:%b)" % b"|".join(some)


# What stands between the statistics of a column and the next path: how many pages are encoded how;
# how large values are and how levels spread; the ends of the column; where the index of its pages
# is. Then, of the next column, where it is, its type and its encodings.
_PAGES = _list(STRUCT, rb"\x15%b\x15%b\x15%b\x00" % ((NUMBER,) * 3))
_END = (
    rb"(?:[\x19\x29\x49]%b)?"
    rb"(?:[\x3c\x4c\x5c\x7c](?:\x16%b)?(?:[\x19\x29\x39]%b){0,2}\x00)?"
    rb"\x00(?:\x16%b\x15%b){0,2}\x00"
) % (_PAGES, NUMBER, _list(I64, NUMBER), NUMBER, NUMBER)
_BEGIN = rb"\x26%b\x1c\x15%%b\x19%b" % (
    NUMBER, _list(I32, rb"[\x00\x04\x06\x08\x0a\x0c\x0e\x10\x12]"),
)  # fmt: skip
# After the last column: its end, bytes and rows; where the row group is, its size, its number.
_LAST = re.compile(
    rb"%b\x16%b\x16%b(?:\x26%b)?(?:[\x16\x36]%b)?(?:[\x14\x24\x44]%b)?\x00"
    % (_END, *((NUMBER,) * 5)),
    re.DOTALL,
)


class Leaf(NamedTuple):
    """A column of values."""

    kind: int
    """The byte of Parquet's number for its type."""
    path: bytes
    """As the footer has it in each row group, with the field's header."""
    repeats: bool


class Chunks(NamedTuple):
    """What footers say of column chunks: arrays of shape (files, columns).

    Places are in bytes from the file's beginning.
    """

    codecs: np.ndarray
    values: np.ndarray
    whole: np.ndarray
    """Bytes when decompressed."""
    stored: np.ndarray
    page: np.ndarray
    """Where the first page with data begins."""
    dictionary: np.ndarray
    """Where the page with the dictionary begins; -1 where there is none."""
    nulls: np.ndarray
    """As the statistics have them; -1 where they do not say."""

    @property
    def start(self) -> np.ndarray:
        """Where the first page begins."""
        return np.where(self.dictionary < 0, self.page, self.dictionary)


@lru_cache(_KNOWN)
def leaves_of(schema: bytes) -> tuple[Leaf, ...]:
    """The columns of values of the footers that begin with these bytes.

    Raises:
        IndexError, KeyError, ValueError: they are laid out otherwise.
    """
    _, at = varint(schema, 1)  # the version, which the header of the schema's list follows
    count, at = length_of_list(schema, at + 1)
    found = list[Leaf]()
    # Of each group that is not complete: children to come, names, whether it repeats.
    above = list[tuple[int, tuple[bytes, ...], bool]]()
    for number in range(count):
        places = {field: place for field, _, place in fields(schema, at)}
        at = skip(schema, at, STRUCT)
        names, repeats = tuple[bytes, ...](), False
        if number:
            left, names, repeats = above.pop()
            if left > 1:
                above.append((left - 1, names, repeats))
            length, start = varint(schema, places[_NAME])
            names = *names, as_varint(length) + schema[start : start + length]
            repeats = repeats or schema[places[_REPETITION]] >> 1 == _REPEATED
        if _CHILDREN in places:
            above.append((varint(schema, places[_CHILDREN])[0] >> 1, names, repeats))
        else:
            path = bytes((_LIST,)) + list_header(BINARY, len(names)) + b"".join(names)
            found.append(Leaf(schema[places[_TYPE]], path, repeats))
    return tuple(found)


def read_chunks(
    footers: Sequence[bytes], starts: Sequence[int], leaves: Sequence[Leaf]
) -> Chunks | None:
    """What footers say of each column.

    Args:
        footers: those of files of one row group, whose notes at the end may be cut.
        starts: where in each of them the row group begins.
        leaves: their columns.

    Returns:
        None where one of them is laid out otherwise.
    """
    ends = _after_paths(footers, starts, [leaf.path for leaf in leaves])
    if ends is None:
        return None
    text = b"".join((*footers, _PAD))
    data = np.frombuffer(text, np.uint8)
    lengths = [len(footer) for footer in footers]
    first = np.cumsum([0, *lengths[:-1]])
    after_paths = np.array(ends).reshape(len(footers), len(leaves)) + first[:, None]
    try:
        codecs, at = _numbers(data, after_paths, _INT)
        values, at = _numbers(data, at, _LONG)
        whole, at = _numbers(data, at, _LONG)
        stored, at = _numbers(data, at, _LONG)
        page, at = _numbers(data, at, _LATER_LONG)
        coded = data[at] == _LATER_LONG
        dictionary, after = _varints(data, at + 1)
        nulls, after = _statistics(data, np.where(coded, after, at), coded)
    except ValueError:
        return None
    left = np.column_stack([first + starts, after])
    paths = after_paths - [len(leaf.path) for leaf in leaves]
    right = np.column_stack([paths, first + lengths])
    if (codecs >= _CODECS).any() or not _are_usual(text, left, right, leaves):
        return None
    dictionary = np.where(coded, dictionary >> 1, -1)
    return Chunks(codecs, values, whole, stored, page, dictionary, nulls)


def _after_paths(
    footers: Iterable[bytes], starts: Iterable[int], paths: Sequence[bytes]
) -> list[int] | None:
    """Where in its footer each path ends, a footer after the other; None where one is missing."""
    ends = list[int]()
    for footer, start in zip(footers, starts, strict=True):
        end = start
        for path in paths:
            found = footer.find(path, end)
            if found < 0:
                return None
            end = found + len(path)
            ends.append(end)
    return ends


def _are_usual(text: bytes, left: np.ndarray, right: np.ndarray, leaves: Sequence[Leaf]) -> bool:
    """Whether what stands between the columns of footers is laid out as it should be.

    Args:
        text: all footers.
        left: where the gaps begin: before the first column, and after the statistics of each.
        right: where they end, the last ones with the footer.
        leaves: the columns.
    """
    gaps = [
        {text[start:stop] for start, stop in zip(*pair, strict=True)}
        for pair in zip(left.T.tolist(), right.T.tolist(), strict=True)
    ]
    first, between, last = gaps[0], gaps[1:-1], gaps[-1]
    begin = _begin(leaves[0].kind, len(leaves))
    if not all(begin.fullmatch(gap) for gap in first):
        return False
    for leaf, some in zip(leaves[1:], between, strict=True):
        pattern = _begin(leaf.kind, None)
        if not all(pattern.fullmatch(gap) for gap in some):
            return False
    rest = {_after_group(gap) for gap in last}
    return len(rest) == 1 and None not in rest


def _after_group(gap: bytes) -> bytes | None:
    """What stands after the row group, up to the notes of pandas or Arrow."""
    end = _LAST.match(gap)
    if end is None:
        return None
    notes = _NOTES.search(gap, end.end())
    return gap[end.end() : None if notes is None else notes.start()]


@lru_cache(_KNOWN)
def _begin(kind: int, columns: int | None) -> re.Pattern[bytes]:
    """Matches what stands before the first path of so many, or between two."""
    before = _END if columns is None else re.escape(bytes((_LIST,)) + list_header(STRUCT, columns))
    return re.compile(before + _BEGIN % re.escape(bytes((kind,))), re.DOTALL)


def _statistics(
    data: np.ndarray, at: np.ndarray, coded: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nulls in the statistics that begin at each place, and where these end.

    Where there are none, or not as usual, -1 and the same place.
    """
    known = data[at] == np.where(coded, *_STATISTICS)
    after = _after_text(data, at + 1, _EXTREME)
    after = _after_text(data, after, _EXTREME)
    known &= (data[after] == _NULLS[0]) | (data[after] == _NULLS[1])
    nulls, after = _varints(data, after + 1)
    after = _after_text(data, after, _LATER_EXTREME)
    after = _after_text(data, after, _EXTREME)
    for _ in ("max", "min"):
        after = after + np.isin(data[after], _EXACT)
    known &= (nulls & 1 == 0) & (data[after] == 0)
    return np.where(known, nulls >> 1, -1), np.where(known, after + 1, at)


def _after_text(data: np.ndarray, at: np.ndarray, header: int) -> np.ndarray:
    """Where the texts of the fields with this header end; the same places where there are none."""
    length, start = _varints(data, at + 1)
    end = np.minimum(start + length, len(data) - len(_PAD))
    return np.where(data[at] == header, end, at)


def _numbers(data: np.ndarray, at: np.ndarray, header: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the fields with this header that begin at each place, and where they end.

    Raises:
        ValueError: another header, or a number that is negative or too large.
    """
    numbers, end = _varints(data, at + 1)
    if (data[at] != header).any() or (numbers & 1).any():
        raise ValueError(header)
    return numbers >> 1, end


def _varints(data: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers that begin at each place, and where they end; -1 for one that is too large."""
    byte = data[at]
    numbers = (byte & (_MORE - 1)).astype(np.int64)
    more = byte >= _MORE
    for place in range(1, _WIDTH):
        if not more.any():
            break
        at = at + more
        byte = data[at]
        numbers |= np.where(more, byte & (_MORE - 1), 0).astype(np.int64) << _BITS * place
        more &= byte >= _MORE
    numbers[more] = -1
    return numbers, at + 1
