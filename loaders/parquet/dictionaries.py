"""Read dictionaries of text from their pages: the categories of a file, in the file's order.

polars decodes a column of categories to the values of its rows. That loses unused categories and
the order, and pandas' frame of several files depends on both. Arrow keeps them, but took 93 ms to
decode one such column in 400 files of 14 columns; reading the pages, of ten values each, takes 7.

The layout is DictionaryPageHeader of the Parquet format, in Thrift's compact protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .page_checks import Source, chunks_of, footers_of
from .thrift import NUMBER, varint

LONGEST_PAGE = 16 << 10  # bytes; values are split one by one: Arrow is faster for longer pages
_LENGTH_BYTES = 4  # before each value
# Sizes, an optional checksum; values, a plain encoding, an optional flag for sorted values.
_HEADER = re.compile(
    rb"\x15\x04\x15(%b)\x15(%b)(?:\x15%b\x3c|\x4c)\x15(%b)\x15[\x00\x04][\x11\x12]?\x00\x00"
    % ((NUMBER,) * 4),
    re.DOTALL,
)
_CODECS = {0: None, 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}


class _UnsupportedError(Exception):
    """A dictionary has another layout, is damaged, or is too long."""


def read_dictionaries(
    pages: Iterable[tuple[int, bytes] | None], kind: pa.DataType
) -> list[pa.Array] | None:
    """The dictionary of a column of text in each file.

    Args:
        pages: each file's codec and page with its header, or None if it has no page.
        kind: the type of text.

    Returns:
        Distinct values; the same object for files with equal pages. None if a file has no page, or
        one that is not short and plain: then Arrow must decode the column.
    """
    by_page: dict[tuple[int, bytes], pa.Array] = {}
    dictionaries = []
    try:
        for page in pages:
            if page is None:
                return None
            if page not in by_page:
                by_page[page] = pa.array(_values(*page), kind)
            dictionaries.append(by_page[page])
    except (_UnsupportedError, pa.ArrowException, IndexError, ValueError):
        return None
    return dictionaries


def in_codes(
    text: pa.LargeStringArray,
    dictionaries: Sequence[pa.Array],
    rows: Sequence[int],
    kind: pa.DictionaryType,
) -> list[pa.DictionaryArray]:
    """Encode text with dictionaries, in chunks that have one dictionary each.

    Args:
        text: the rows of all files.
        dictionaries: the dictionary of each file.
        rows: the number of rows of each file.
        kind: the type that Arrow gives the column.

    Raises:
        pa.ArrowInvalid: a value is not in its file's dictionary, or there are more values than the
            type has codes for.
    """
    runs = _runs(dictionaries, rows)
    codes = _codes(text.dictionary_encode(), runs)
    missing = codes < 0
    if np.count_nonzero(missing) != text.null_count:
        raise pa.ArrowInvalid("a value is not in its file's dictionary")
    indices = pa.array(codes, mask=missing if text.null_count else None).cast(kind.index_type)
    chunks, start = [], 0
    for dictionary, count in runs:
        part = indices.slice(start, count)
        chunks.append(pa.DictionaryArray.from_arrays(part, dictionary, ordered=kind.ordered))
        start += count
    return chunks


def _runs(dictionaries: Sequence[pa.Array], rows: Sequence[int]) -> list[tuple[pa.Array, int]]:
    """The dictionary and the number of rows of each run of files that share a dictionary."""
    runs = groupby(zip(dictionaries, rows, strict=True), key=lambda file: id(file[0]))
    return [
        (files[0][0], sum(count for _, count in files)) for files in (list(run) for _, run in runs)
    ]


def _codes(encoded: pa.DictionaryArray, runs: Sequence[tuple[pa.Array, int]]) -> np.ndarray:
    """The position of each row's value in the dictionary of its file; -1 if it has none.

    Values are hashed once for all files: one Arrow call per file would take 30 us.
    """
    unused = len(encoded.dictionary)  # the place of values that no row has
    missing = unused + 1  # the place of rows without a value
    entries = pa.concat_arrays([dictionary for dictionary, _ in runs])
    distinct = encoded.dictionary.cast(entries.type)
    places = pc.index_in(entries, value_set=distinct).fill_null(unused).to_numpy()
    indices = encoded.indices.fill_null(missing).to_numpy()
    code_at = np.full(missing + 1, -1, np.int32)
    codes = np.empty(len(indices), np.int32)
    at = start = 0
    for dictionary, count in runs:
        run_places = places[at : at + len(dictionary)]
        code_at[run_places] = np.arange(len(dictionary), dtype=np.int32)
        np.take(code_at, indices[start : start + count], out=codes[start : start + count])
        code_at[run_places] = -1
        at, start = at + len(dictionary), start + count
    return codes


def pages_of(sources: Sequence[Source], name: str) -> Iterator[tuple[int, bytes] | None]:
    """Yield each file's codec and page of a column's dictionary.

    Args:
        sources: files of one schema.
        name: a flat column.

    Yields:
        None if a file has several row groups, or no dictionary that is short enough.

    Raises:
        OSError: a file can no longer be read.
    """
    for source, footer in zip(sources, footers_of(sources), strict=True):
        chunk = next(chunks_of(footer, name), None)
        if chunk is None or chunk[4] is None or _number(footer, chunk.start(2)) != source.rows:
            yield None
            return
        at = _number(footer, chunk.start(4))
        size = _number(footer, chunk.start(3)) - at  # up to the first data page
        is_short = 0 < size <= LONGEST_PAGE
        yield (_number(chunk[1], 0), source.read(at, size)) if is_short else None


def _number(data: bytes, at: int) -> int:
    """The number of a zigzag varint; an odd one is negative and raises `_UnsupportedError`."""
    number, _ = varint(data, at)
    if number & 1:
        raise _UnsupportedError
    return number >> 1


def _values(codec: int, page: bytes) -> list[str]:
    """The distinct values of a page."""
    header = _HEADER.match(page)
    if header is None or len(page) > LONGEST_PAGE:
        raise _UnsupportedError
    size, stored_size, count = (_number(page, header.start(group)) for group in (1, 2, 3))
    stored = page[header.end() :]
    if len(stored) != stored_size or not 0 < count <= size <= LONGEST_PAGE or codec not in _CODECS:
        raise _UnsupportedError
    name = _CODECS[codec]
    try:
        # A new codec each time: two threads must not use one for gzip at once.
        data = stored if name is None else pa.Codec(name).decompress(stored, size, asbytes=True)
    except OSError as error:
        raise _UnsupportedError from error
    if len(data) != size:
        raise _UnsupportedError
    values, at = list[str](), 0
    while at < size:
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "little")
        values.append(data[start:at].decode())
    if at != size or len(values) != count or len(set(values)) != count:
        raise _UnsupportedError
    return values
