"""One segment of the disk cache: files' rows in Arrow IPC streams, their index, and checksums.

`ID.arrow` holds IPC streams of one record batch each, so that a column of numbers is contiguous
memory that frames are views of. `ID.json` is the index: where each file's rows are, and the
checksum of the streams. Its first line is the CRC-32 of the rest.

The checksum (XXH3, 64 bits) detects damage by disks and crashes, as fast as memory is read. It
does not protect against tampering.
"""

from __future__ import annotations

import base64
import itertools
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from xxhash import xxh3_64_intdigest

from ..base.errors import UNREADABLE
from ..base.mounts import storage_kind
from ..parquet.footers import FileSchema
from ..parquet.layout import Layout, held_alike, make_layout
from ..parquet.schema import nulls_change_types
from .base import Form, Key
from .mapping import map_file
from .pages import MappedPages
from .segments import Place, Segment, merged
from .views import Watch

# 1: one IPC file per segment, a record batch or more per source file.
# 2: one IPC stream per source file, so that files of any schemas share a segment.
# 3: one IPC stream per layout, nulls of numbers as NaN, and checksums.
# 4: keys have ctime and inode, too; one set of columns and one checksum per segment.
VERSION = 4
FORMAT = "feedrate-cache"
ALIGNMENT = 64  # bytes; streams begin at multiples of it


class DamagedError(Exception):
    """A segment is not as it was written."""


class OtherVersionError(Exception):
    """A segment is intact, but another version of feedrate wrote it."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One source file in a segment."""

    key: Key
    stream: int
    start: int
    """Its first row in the stream."""
    stop: int


class Stream(msgspec.Struct, frozen=True):
    """Rows of files of one layout."""

    offset: int
    """Its first byte in `ID.arrow`."""
    length: int
    rows: int
    schema: str
    """The files' schema as an IPC message in base64."""
    numbers: tuple[int, ...]
    """Positions of the columns that are held as numbers."""


class Index(msgspec.Struct, frozen=True):
    """The content of `ID.json`."""

    form: Form
    streams: list[Stream]
    entries: list[Entry]
    bytes: int
    """Length of the streams."""
    checksum: int
    written_ns: int
    """Time of writing, since 1970."""
    format: str = FORMAT
    version: int = VERSION


class _Header(msgspec.Struct):
    """The fields that every version's index has."""

    format: str
    version: int


def encode_index(index: Index) -> bytes:
    """Encode an index as the content of a file."""
    content = msgspec.json.encode(index)
    return b"%08x\n" % zlib.crc32(content) + content


def decode_index(content: bytes) -> Index:
    """Decode the index from the content of a file.

    Raises:
        DamagedError: the content is not an index, or not as written.
        OtherVersionError: another version wrote it.
    """
    crc, _, rest = content.partition(b"\n")
    if crc != b"%08x" % zlib.crc32(rest):
        raise DamagedError("its index is damaged")
    try:
        header = msgspec.json.decode(rest, type=_Header)
        if (header.format, header.version) != (FORMAT, VERSION):
            raise OtherVersionError(f"it is {header.format} {header.version}")
        index = msgspec.json.decode(rest, type=Index)
    except UNREADABLE as error:
        raise DamagedError(str(error)) from error
    rows = [stream.rows for stream in index.streams]
    for entry in index.entries:
        exists = 0 <= entry.stream < len(rows)
        if not exists or not 0 <= entry.start <= entry.stop <= rows[entry.stream]:
            raise DamagedError(f"its index gives {entry.key.path} rows that do not exist")
    return index


def write_segment(path: Path, form: Form, rows: Mapping[Key, Place]) -> Index:
    """Write files' rows to a new file that only its owner may read.

    Args:
        path: the file; it must not exist.
        form: how the rows are held.
        rows: where the rows of each file are.

    Raises:
        OSError: the file cannot be written.
    """
    streams: list[Stream] = []
    entries: list[Entry] = []
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:
        for group in _groups(rows):
            at = 0
            for key, place in group:
                stop = at + place.stop - place.start
                entries.append(Entry(key, len(streams), at, stop))
                at = stop
            offset = file.tell()
            held = _write_stream(file, merged([place for _, place in group]))
            schema = base64.b64encode(held.schema.serialize()).decode()
            numbers = tuple(sorted(held.dtypes))
            streams.append(Stream(offset, file.tell() - offset, at, schema, numbers))
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
        file.flush()
        size = file.tell()
        checksum = xxh3_64_intdigest(map_file(file.fileno(), size).data)
    return Index(form, streams, entries, size, checksum, time.time_ns())


def _groups(rows: Mapping[Key, Place]) -> list[list[tuple[Key, Place]]]:
    """Group files, in order, so that one stream can hold each group."""
    groups: list[list[tuple[Key, Place]]] = []
    for key, place in rows.items():
        if groups and _share_stream(groups[-1][0][1], place):
            groups[-1].append((key, place))
        else:
            groups.append([(key, place)])
    return groups


def _share_stream(first: Place, other: Place) -> bool:
    """Whether one stream, with one dictionary per column, can hold both places' rows."""
    layout = other.segment.layout
    if not layout.together or not held_alike(first.segment.layout, layout):
        return False
    for position in layout.nested:
        if any(map(nulls_change_types, _chunks((first, other), position))):
            return False
    for position in (at for at, kind in enumerate(layout.types) if pt.is_dictionary(kind)):
        dictionaries = [chunk.dictionary for chunk in _chunks((first, other), position)]
        if not all(dictionary.equals(dictionaries[0]) for dictionary in dictionaries):
            return False
    return True


def _chunks(places: Iterable[Place], position: int) -> Iterator[pa.Array]:
    for place in places:
        yield from place.segment.column(position, place.start, place.stop).chunks


def _write_stream(file: Any, runs: Sequence[Place]) -> Layout:
    """Write rows of several places as one batch; return how their columns are held."""
    numbers = set(runs[0].segment.layout.dtypes)
    for segment, start, stop in runs:
        numbers &= set(segment.held_layout(start, stop).dtypes)
    layout = runs[0].segment.layout.with_numbers(numbers)
    arrays: list[pa.Array] = []
    names: list[str] = []
    for dtype, positions in layout.numbers:
        for position in positions:
            parts = [segment.numbers(position, start, stop) for segment, start, stop in runs]
            values = parts[0] if len(parts) == 1 else np.concatenate(parts)
            arrays.append(pa.array(values.view(_stored_dtype(dtype))))
            names.append(str(position))
    for position in layout.others:
        chunks = list(_chunks(runs, position))
        kind = chunks[0].type if chunks else layout.types[position]
        arrays.append(pa.chunked_array(chunks, kind).combine_chunks())
        names.append(str(position))
    batch = pa.record_batch(arrays, names=names)
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=False)
    with pa.ipc.new_stream(file, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return layout


def _stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that stores a dtype on disk; NaT and NaN are ordinary values there."""
    if dtype.kind == "M":
        return np.dtype(np.int64)
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


def open_segment(path: Path, index: Index) -> list[Segment]:
    """Compare a file's checksum, then open its segments, one for each stream.

    Raises:
        DamagedError: the file is not as written.
        OSError: it cannot be opened or mapped.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != index.bytes:
            raise DamagedError("its size has changed")
        # On a network file system, a mapped file may be cut or changed unnoticed.
        local = storage_kind(path) != "network"
        size = index.bytes
        memory = map_file(file.fileno(), size) if local else np.fromfile(file, np.uint8, size)
    memory.flags.writeable = False
    if xxh3_64_intdigest(memory.data) != index.checksum:
        raise DamagedError("its checksum does not match")
    watches: list[Watch] | None = None
    with suppress(OSError):  # if the kernel cannot watch memory, checksums are used
        watches = [MappedPages(memory)] if local else None
    return [_open_stream(memory, stream, index.form, watches) for stream in index.streams]


def _layout_of(stream: Stream, form: Form) -> Layout:
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(stream.schema)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(str(error)) from error
    layout = make_layout(FileSchema(schema, ()), None, form.dtype_backend)
    if layout is None:
        raise DamagedError("its index has an unusable schema")
    return layout.with_numbers(stream.numbers)


def _open_stream(
    memory: np.ndarray, stream: Stream, form: Form, watches: Sequence[Watch] | None
) -> Segment:
    layout = _layout_of(stream, form)
    if not 0 <= stream.offset <= stream.offset + stream.length <= len(memory):
        raise DamagedError("its index names bytes beyond its end")
    part = pa.py_buffer(memory).slice(stream.offset, stream.length)
    try:
        with pa.ipc.open_stream(part) as reader:
            batch = reader.read_next_batch()
    except (pa.ArrowException, OSError, StopIteration) as error:
        raise DamagedError(str(error)) from error
    if batch.num_rows != stream.rows or batch.num_columns != len(layout.names):
        raise DamagedError("its streams differ from its index")
    base = memory.ctypes.data
    blocks = [
        _block(memory, [_address(batch, position) - base for position in positions], dtype, batch)
        for dtype, positions in layout.numbers
    ]
    segment = Segment(layout, stream.rows, shared=True, blocks=blocks, watches=watches)
    for position in layout.others:
        segment.put(position, 0, batch.column(str(position)))
    return segment


def _address(batch: pa.RecordBatch, position: int) -> int:
    buffer = batch.column(str(position)).buffers()[1]
    return 0 if buffer is None else buffer.address


def _block(
    memory: np.ndarray, offsets: Sequence[int], dtype: np.dtype[Any], batch: pa.RecordBatch
) -> np.ndarray:
    """The columns of one dtype, which were written at equal distances."""
    if not batch.num_rows:
        return np.empty((len(offsets), 0), dtype)
    steps = {second - first for first, second in itertools.pairwise(offsets)}
    if len(steps) > 1:
        raise DamagedError("its columns are not at equal distances")
    stride = steps.pop() if steps else 0
    shape = (len(offsets), batch.num_rows)
    return np.ndarray(shape, dtype, memory, offsets[0], (stride, dtype.itemsize))
