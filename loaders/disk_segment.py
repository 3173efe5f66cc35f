"""One segment of the disk cache: files' rows in Arrow IPC streams, their index, and checksums.

`ID.arrow` holds IPC streams of one record batch each, so that a column of numbers is one run of
memory that frames map; then, from the next multiple of 8 KiB, a 64-bit sum of the words of each
8 KiB before it. `ID.json` says what lies where; its first line is the CRC-32 of the rest.

The sums find what disks and crashes do (bits turned, blocks zeroed, lost or exchanged) at the
speed of memory: 55 MB take 5 ms where CRC-32 takes 49. They are no protection against intent.
"""

from __future__ import annotations

import base64
import itertools
import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from .cache import Key
from .errors import UNREADABLE
from .footers import FileSchema
from .layout import Layout, make_layout
from .machine import effective_cpus
from .private_memory import map_private
from .schema import nulls_change_types
from .segments import Place, Segment, copies, merged
from .settings import Decoder, DtypeBackend

# 1: one IPC file per segment, a record batch or more per source file.
# 2: one IPC stream per source file, so that files of any schemas share a segment.
# 3: one IPC stream per layout, nulls of numbers as NaN, and checksums.
VERSION = 3
FORMAT = "feedrate-cache"
BLOCK_BYTES = 8 << 10
_WORD = np.dtype(np.uint64)
COMPARED_BLOCKS = 1024  # at a time: smaller, and threads wait for the interpreter's lock between
_THREAD_BYTES = 8 << 20  # fewer bytes are summed sooner than a thread starts


class DamagedError(Exception):
    """A segment is not what was written."""


class OtherVersionError(Exception):
    """A segment is whole, and of another version of feedrate."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One source file in a segment."""

    path: str
    size: int
    mtime_ns: int
    columns: tuple[str, ...] | None
    stream: int
    start: int
    """Its first row in the stream."""
    stop: int


class Stream(msgspec.Struct, frozen=True):
    """Rows of files of one layout."""

    offset: int
    """Where it begins in `ID.arrow`, in bytes."""
    length: int
    rows: int
    schema: str
    """The files' schema as an IPC message in base64."""
    dtype_backend: DtypeBackend
    numbers: tuple[int, ...]
    """Positions of the columns that are held as numbers."""
    decoder: Decoder = "auto"


class Index(msgspec.Struct, frozen=True):
    """What `ID.json` holds."""

    streams: list[Stream]
    entries: list[Entry]
    bytes: int
    """Length of the streams; the sums follow."""
    sums_crc: int
    format: str = FORMAT
    version: int = VERSION

    def keys(self) -> list[Key]:
        """What identifies each entry's file."""
        return [
            Key(e.path, e.size, e.mtime_ns, e.columns, stream.dtype_backend, stream.decoder)
            for e in self.entries
            for stream in [self.streams[e.stream]]
        ]


class _About(msgspec.Struct):
    """What every version's index says."""

    format: str
    version: int


def encode_index(index: Index) -> bytes:
    """An index as a file's content."""
    content = msgspec.json.encode(index)
    return b"%08x\n" % zlib.crc32(content) + content


def decode_index(content: bytes) -> Index:
    """The index in a file's content.

    Raises:
        DamagedError: it is not one, or not what was written.
        OtherVersionError: another version wrote it.
    """
    crc, _, rest = content.partition(b"\n")
    if crc != b"%08x" % zlib.crc32(rest):
        raise DamagedError("its index is damaged")
    try:
        about = msgspec.json.decode(rest, type=_About)
        if (about.format, about.version) != (FORMAT, VERSION):
            raise OtherVersionError(f"it is {about.format} {about.version}")
        index = msgspec.json.decode(rest, type=Index)
    except UNREADABLE as error:
        raise DamagedError(str(error)) from error
    rows = [stream.rows for stream in index.streams]
    for entry in index.entries:
        known = 0 <= entry.stream < len(rows)
        if not known or not 0 <= entry.start <= entry.stop <= rows[entry.stream]:
            raise DamagedError(f"its index puts {entry.path} where there is nothing")
    return index


def write_segment(path: Path, keys: Mapping[str, Key], places: Mapping[str, Place]) -> Index:
    """Write files' rows to a new file, readable by its owner alone.

    Args:
        path: the file; it must not exist.
        keys: what identifies each file.
        places: where their rows are.

    Raises:
        OSError: the file cannot be written.
    """
    streams: list[Stream] = []
    entries: list[Entry] = []
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file:
        for group in _groups(places):
            start, stop = group[0][1].start, group[-1][1].stop
            segment = group[0][1].segment
            offset = file.tell()
            held = segment.held_layout(start, stop)
            _write_stream(file, segment, held, start, stop)
            for source, place in group:
                key = keys[source]
                entries.append(
                    Entry(
                        key.path, key.size, key.mtime_ns, key.columns, len(streams),
                        place.start - start, place.stop - start,
                    )
                )  # fmt: skip
            schema = base64.b64encode(held.schema.serialize()).decode()
            first = keys[group[0][0]]
            streams.append(
                Stream(
                    offset, file.tell() - offset, stop - start, schema, first.dtype_backend,
                    tuple(sorted(held.dtypes)), first.decoder,
                )
            )  # fmt: skip
            file.write(b"\0" * (-file.tell() % BLOCK_BYTES))
        file.flush()
        size = file.tell()
        sums = block_sums(map_private(file.fileno(), size)).tobytes()
        file.write(sums)
    return Index(streams, entries, size, zlib.crc32(sums))


def _groups(places: Mapping[str, Place]) -> list[list[tuple[str, Place]]]:
    """Files whose rows follow each other and may be converted at once, one file otherwise."""
    ordered = sorted(places.items(), key=lambda item: (id(item[1].segment), item[1].start))
    groups: list[list[tuple[str, Place]]] = []
    for path, place in ordered:
        last = groups[-1][-1][1] if groups else None
        if last is not None and len(merged([last, place])) == 1 and _may_join(last, place):
            groups[-1].append((path, place))
        else:
            groups.append([(path, place)])
    return groups


def _may_join(one: Place, other: Place) -> bool:
    """Whether a stream, which has one dictionary a column, may hold neighbours of a segment."""
    layout = other.segment.layout
    if not layout.together:
        return False
    for position in layout.nested:
        if any(map(nulls_change_types, _chunks((one, other), position))):
            return False
    for position in (at for at, kind in enumerate(layout.schema.types) if pt.is_dictionary(kind)):
        dictionaries = [chunk.dictionary for chunk in _chunks((one, other), position)]
        if not all(each.equals(dictionaries[0]) for each in dictionaries):
            return False
    return True


def _chunks(places: Iterable[Place], position: int) -> Iterator[pa.Array]:
    for place in places:
        yield from place.segment.column(position, place.start, place.stop).chunks


def _write_stream(file: Any, segment: Segment, layout: Layout, start: int, stop: int) -> None:
    arrays: list[pa.Array] = []
    names: list[str] = []
    for dtype, positions in layout.numbers:
        for position in positions:
            values = segment.numbers(position, start, stop)
            arrays.append(pa.array(values.view(_stored(dtype))))
            names.append(str(position))
    for position in layout.others:
        column = segment.column(position, start, stop).combine_chunks()
        arrays.append(column)
        names.append(str(position))
    batch = pa.record_batch(arrays, names=names)
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=False)
    with pa.ipc.new_stream(file, batch.schema, options=options) as writer:
        writer.write_batch(batch)


def _stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The numbers that stand for a dtype on disk, where NaT and NaN are values like others."""
    if dtype.kind == "M":
        return np.dtype(np.int64)
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


def block_sums(memory: np.ndarray) -> np.ndarray:
    """The sum of the 64-bit words of each block of bytes, modulo 2**64."""
    words = memory.view(_WORD).reshape(-1, BLOCK_BYTES // _WORD.itemsize)
    sums: np.ndarray = words.sum(axis=1, dtype=_WORD)
    return sums


class _Comparison:
    """Sums of blocks that are being compared: in threads at once, and by whoever waits for it.

    Args:
        memory: whole blocks.
        sums: what each should sum to.
    """

    def __init__(self, memory: np.ndarray, sums: np.ndarray) -> None:
        self._memory, self._sums = memory, sums
        self._left = deque(range(0, len(sums), COMPARED_BLOCKS))
        helpers = min(effective_cpus() - 1, len(memory) // _THREAD_BYTES)
        pool = ThreadPoolExecutor(max(1, helpers), thread_name_prefix="sums")
        self._others = [pool.submit(self._holds) for _ in range(helpers)]
        pool.shutdown(wait=False)

    def finish(self) -> None:
        """Compare what is left.

        Raises:
            DamagedError: a sum differs.
        """
        here = self._holds()
        if not (all(other.result() for other in self._others) and here):
            raise DamagedError("its checksums do not match")

    def _holds(self) -> bool:
        while True:
            try:
                low = self._left.popleft()
            except IndexError:
                return True
            part = self._memory[low * BLOCK_BYTES : (low + COMPARED_BLOCKS) * BLOCK_BYTES]
            if not np.array_equal(block_sums(part), self._sums[low : low + COMPARED_BLOCKS]):
                return False


class FileStore:
    """Numbers in a file, which every frame has a private mapping of.

    Args:
        path: the segment's file.
        memory: a mapping of it that nobody writes to.
        blocks: views of that mapping, of shape (columns, rows).
    """

    def __init__(self, path: Path, memory: np.ndarray, blocks: list[np.ndarray]) -> None:
        self.path = path
        self.memory = memory
        self.blocks = blocks

    def own(self, start: int, stop: int) -> list[np.ndarray]:
        """Rows of each block: copied a page at a time when they are written to.

        Where the file is gone, or the process has no mappings left, they are copied at once.
        """
        try:
            memory = map_file(self.path, len(self.memory))
        except OSError:
            return copies(self.blocks, start, stop)
        return [self._mapped(block, memory)[:, start:stop] for block in self.blocks]

    def _mapped(self, block: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """A block as another mapping of the file has it."""
        if not block.size:
            return np.empty_like(block)
        offset = block.ctypes.data - self.memory.ctypes.data
        return np.ndarray(block.shape, block.dtype, memory, offset, block.strides)


def map_file(path: Path, size: int) -> np.ndarray:
    """A file's first bytes, mapped privately; no descriptor stays open.

    Raises:
        OSError: it cannot be opened or mapped, or is shorter.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size < size:
            raise OSError("the file was cut")
        return map_private(descriptor, size)
    finally:
        os.close(descriptor)


class Opening:
    """A segment that is being opened: its sums are compared meanwhile.

    Args:
        path: its file.
        index: its index.

    Raises:
        DamagedError: the file is not whole.
        OSError: it cannot be opened or mapped.
    """

    def __init__(self, path: Path, index: Index) -> None:
        self.process = os.getpid()
        self._path, self._index = path, index
        whole = index.bytes + index.bytes // BLOCK_BYTES * _WORD.itemsize
        if index.bytes % BLOCK_BYTES or path.stat().st_size != whole:
            raise DamagedError("it is not whole")
        self._memory = map_file(path, whole) if whole else np.empty(0, np.uint8)
        sums = self._memory[index.bytes :]
        if whole and zlib.crc32(sums.data) != index.sums_crc:
            raise DamagedError("its checksums are damaged")
        self._comparison = _Comparison(self._memory[: index.bytes], sums.view(_WORD))

    def finish(self) -> list[Segment]:
        """The segments in the file, one for each stream, once the sums are compared.

        Raises:
            DamagedError: the file is not what was written.
        """
        layouts = [_layout_of(stream) for stream in self._index.streams]
        self._comparison.finish()
        return [
            _open_stream(self._path, self._memory, stream, layout)
            for stream, layout in zip(self._index.streams, layouts, strict=True)
        ]


def open_segment(path: Path, index: Index) -> list[Segment]:
    """The segments in a file, one for each stream, after comparing the sums.

    Raises:
        DamagedError: the file is not what was written.
        OSError: it cannot be opened or mapped.
    """
    return Opening(path, index).finish()


def _layout_of(stream: Stream) -> Layout:
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(stream.schema)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(str(error)) from error
    layout = make_layout(FileSchema(schema, ()), None, stream.dtype_backend)
    if layout is None:
        raise DamagedError("its index is not what was written")
    return layout.with_numbers(stream.numbers)


def _open_stream(path: Path, memory: np.ndarray, stream: Stream, layout: Layout) -> Segment:
    if not 0 <= stream.offset <= stream.offset + stream.length <= len(memory):
        raise DamagedError("its index names bytes beyond its end")
    part = pa.py_buffer(memory).slice(stream.offset, stream.length)
    try:
        with pa.ipc.open_stream(part) as reader:
            batch = reader.read_next_batch()
    except (pa.ArrowException, OSError, StopIteration) as error:
        raise DamagedError(str(error)) from error
    if batch.num_rows != stream.rows or batch.num_columns != len(layout.schema):
        raise DamagedError("its streams are not what the index says")
    base = memory.ctypes.data
    blocks = [
        _block(memory, [_address(batch, at) - base for at in ats], dtype, batch)
        for dtype, ats in layout.numbers
    ]
    segment = Segment(layout, FileStore(path, memory, blocks), stream.rows)
    for position in layout.others:
        segment.put(position, 0, batch.column(str(position)))
    return segment


def _address(batch: pa.RecordBatch, position: int) -> int:
    buffer = batch.column(str(position)).buffers()[1]
    return 0 if buffer is None else buffer.address


def _block(
    memory: np.ndarray, offsets: Sequence[int], dtype: np.dtype[Any], batch: pa.RecordBatch
) -> np.ndarray:
    """Columns of one dtype, which were written one after the other at equal distances."""
    if not batch.num_rows:
        return np.empty((len(offsets), 0), dtype)
    steps = {second - first for first, second in itertools.pairwise(offsets)}
    if len(steps) > 1:
        raise DamagedError("its columns do not lie where they were written")
    stride = steps.pop() if steps else 0
    shape = (len(offsets), batch.num_rows)
    return np.ndarray(shape, dtype, memory, offsets[0], (stride, dtype.itemsize))
