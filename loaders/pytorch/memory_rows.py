"""Rows that are in memory: a matrix of floats, or a frame that is converted when rows are taken."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..base.stages import stage
from ..training.epochs import Order
from ..training.matrix import Columns
from .ahead import helped_map
from .batches import ChunkTransfer, Tensors, as_tensors, joined
from .orders import Orders
from .shared import SharedArrays, starting_worker

# Rows are gathered in chunks of 2 MiB and cut into batches. With much smaller chunks the calls cost
# more than the copying; a larger chunk is always fresh memory from the kernel: 8 MiB took 1.7 to 5
# times as long per row. At 2 MiB the allocator reuses memory: reusing buffers once no view of them
# was held gained nothing.
CHUNK_BYTES = 2 << 20
FEW_CHUNKS = 4  # starting threads takes about as long as gathering this many


class MatrixRows:
    """Rows of a matrix; worker processes share its memory.

    Args:
        arrays: X of shape (rows, features), and y where there is a target, of the same dtype.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = tuple(arrays)
        self._shared: SharedArrays | None = None

    def __len__(self) -> int:
        return len(self.arrays[0])

    def take(self, indices: np.ndarray) -> Tensors:
        """Copies of rows, by number.

        numpy gathers in one thread. torch's index_select uses all CPUs: it took 0.6 of the time on
        idle CPUs, but with one of two CPUs busy 10 times as long; numpy then took no longer.
        """
        return as_tensors(array.take(indices, axis=0) for array in self.arrays)

    def take_into(self, indices: np.ndarray, out: Tensors) -> Tensors:
        """Copy rows, by number, into `out`, which is as long as `indices`."""
        for array, target in zip(self.arrays, out, strict=True):
            # With mode='raise' numpy gathers into a copy of the target first.
            array.take(indices, axis=0, out=target.numpy(), mode="clip")
        return out

    def unfilled(self, rows: int) -> Tensors:
        """Uninitialized memory for `rows` rows."""
        return as_tensors(np.empty((rows, *x.shape[1:]), x.dtype) for x in self.arrays)

    def chunk_rows(self, chunk_bytes: int | None = None) -> int:
        """Rows in a chunk of `chunk_bytes`; by default as many as `take` should gather at once."""
        return _chunk_rows(sum(array[:1].nbytes for array in self.arrays), chunk_bytes)

    def share(self) -> None:
        """Move the rows to memory that worker processes map."""
        if self._shared is None:
            self._shared = SharedArrays(self.arrays)
            self.arrays = self._shared.arrays

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if not starting_worker():
            return MatrixRows, (self.arrays,)
        self.share()
        return MappedRows, (self._shared,)


class FrameRows:
    """Rows of a frame, converted when they are taken: half the memory, at many times the cost.

    Args:
        frame: the rows.
        columns: features, target and the value that replaces nulls.

    Raises:
        ColumnError: a column that is missing or not numeric.
    """

    def __init__(self, frame: pd.DataFrame, columns: Columns) -> None:
        for name in columns.names:  # one at a time, to avoid converting all at once
            replace(columns, features=(name,), target=None).matrix(frame)
        self.frame = frame[columns.names]
        self.columns = columns
        self._shared: SharedArrays | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, indices: np.ndarray) -> Tensors:
        """Rows by number, as floats."""
        return converted(self.columns, self.frame.iloc[indices])

    def chunk_rows(self) -> int:
        """Rows that `take` should convert at once."""
        return _chunk_rows(len(self.columns.names) * self.columns.dtype.itemsize)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shared": None}

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not starting_worker():
            return super().__reduce_ex__(protocol)
        if self._shared is None:
            self._shared = SharedArrays([_serialized(self.frame)])
        return MappedFrameRows, (self._shared, self.columns)


class MappedRows(MatrixRows):
    """A worker process's matrix, in shared memory of which few pages are mapped at a time.

    Args:
        shared: X and y.
    """

    def __init__(self, shared: SharedArrays) -> None:
        super().__init__(shared.arrays)
        self._shared: SharedArrays = shared

    def take(self, indices: np.ndarray) -> Tensors:
        """Copies of rows, by number."""
        out = self.unfilled(len(indices))
        for part in self._shared.parts(len(indices)):
            self.take_into(indices[part], tuple(target[part] for target in out))
        return out


class MappedFrameRows:
    """A worker process's frame: an Arrow table in shared memory.

    Args:
        shared: the frame as an Arrow stream.
        columns: features, target and the value that replaces nulls.
    """

    def __init__(self, shared: SharedArrays, columns: Columns) -> None:
        self._shared = shared
        self.columns = columns
        self._table: pa.Table = pa.ipc.open_stream(pa.py_buffer(shared.arrays[0])).read_all()

    def __len__(self) -> int:
        return len(self._table)

    def take(self, indices: np.ndarray) -> Tensors:
        """Rows by number, as floats."""
        parts = [
            converted(self.columns, self._take(pa.array(indices[part])))
            for part in self._shared.parts(len(indices))
        ]
        return joined(parts) if parts else converted(self.columns, self._table.slice(0, 0))

    def _take(self, indices: pa.Array) -> pa.Table:
        taken = {}
        for name in self._table.column_names:  # each column has its own pages
            taken[name] = self._table.column(name).take(indices)
            self._shared.release()
        return pa.table(taken)


def converted(columns: Columns, data: pd.DataFrame | pa.Table) -> Tensors:
    """X and, with a target, y."""
    return as_tensors(array for array in columns.matrix(data) if array is not None)


def gather(
    rows: MatrixRows | FrameRows,
    orders: Orders,
    order: Order,
    positions: range,
    batch_size: int,
    num_workers: int = 0,
    prefetch: int = 0,
    transfer: ChunkTransfer | None = None,
) -> Iterator[Tensors]:
    """Take rows in chunks of whole batches.

    Args:
        rows: where to take them from.
        orders: the orders of the rows; the next epoch's is drawn ahead.
        order: this epoch's order.
        positions: positions in this order to take.
        batch_size: rows of a batch.
        num_workers: as in `helped_map`; with 0, or for a few chunks, only the caller's thread
            gathers.
        prefetch: chunks to gather ahead, in addition to those in progress.
        transfer: moves the chunks; rows of a matrix are gathered into its buffers (`room`).
    """
    size = _full_batches(rows.chunk_rows(), batch_size)
    threads = num_workers if len(positions) > FEW_CHUNKS * size else 0
    if transfer is not None and isinstance(rows, MatrixRows):
        limit = min(rows.chunk_rows(transfer.chunk_bytes), len(positions) // max(1, threads))
        size = max(size, _full_batches(limit, batch_size))
    visits = orders.visits(order)
    parts = [positions[low : low + size] for low in range(0, len(positions), size)]
    # A part starts once the part `buffers` places before it has been passed on.
    buffers = max(2, threads + prefetch) if threads else 2

    def take(number: int) -> Tensors:
        with stage("gather"):
            indices = visits.at(parts[number])
            if transfer is None or not isinstance(rows, MatrixRows):
                return rows.take(indices)
            buffer = transfer.room(number % buffers, rows.unfilled(len(indices)))
            return rows.take_into(indices, buffer)

    # The next order is drawn halfway: a caller who takes only a few batches does not wait for it.
    # Earlier with `transfer`: for a GPU, threads gather an epoch in the time of one draw.
    draw_at = len(parts) // (2 if transfer is None else 8)
    beside = (draw_at, functools.partial(orders.draw_ahead, visits))
    return helped_map(take, range(len(parts)), threads, prefetch, beside)


def _full_batches(rows: int, batch_size: int) -> int:
    """`rows` rounded down to whole batches, at least one."""
    return max(1, rows // batch_size) * batch_size


def _chunk_rows(row_bytes: int, chunk_bytes: int | None = None) -> int:
    return max(1, (chunk_bytes or CHUNK_BYTES) // max(1, row_bytes))


def _serialized(frame: pd.DataFrame) -> np.ndarray:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return np.frombuffer(sink.getvalue(), np.uint8)
