"""Rows that are in memory: a float32 matrix, or a frame that is converted when rows are taken."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import StorageError
from .matrix import Columns
from .schedule import ordered_map
from .torch_batches import Tensors, as_tensors

# A chunk of 2 MiB of rows is gathered at once and cut into batches. Much smaller, and the calls
# cost more than the copying; larger, and every chunk is fresh memory from the kernel: 8 MiB took
# 1.7 to 5 times as long per row.
CHUNK_BYTES = 2 << 20
FEW_CHUNKS = 4  # starting threads takes about as long as gathering so many
FLOAT_BYTES = 4
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's place for shared memory, not a file


class MatrixRows:
    """Rows of a matrix.

    Args:
        tensors: X of shape (rows, features), and y of shape (rows,) where there is a target;
            float32.
    """

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, indices: np.ndarray) -> Tensors:
        """Copies of rows, by number.

        numpy gathers in one thread. torch's index_select takes all CPUs, 0.6 of the time when
        they are idle; but with one of two CPUs busy it took 10 times as long, numpy no longer.
        """
        return as_tensors(tensor.numpy().take(indices, axis=0) for tensor in self.tensors)

    def chunk_rows(self) -> int:
        """Rows that `take` should gather at once."""
        width = sum(tensor[:1].numel() for tensor in self.tensors) or 1
        return max(1, CHUNK_BYTES // (width * FLOAT_BYTES))

    def check_shared_memory(self) -> None:
        """Raise `StorageError` where the matrix does not fit the memory that processes share."""
        unshared = [t for t in self.tensors if not t.untyped_storage().is_shared()]
        needed = sum(tensor.numel() * FLOAT_BYTES for tensor in unshared)
        if not needed or not SHARED_MEMORY.is_dir():
            return
        free = shutil.disk_usage(SHARED_MEMORY).free
        if needed > free:
            raise StorageError(
                f"the rows take {needed >> 20} MiB of shared memory and {SHARED_MEMORY} has "
                f"{free >> 20} MiB free; make it larger (docker run --shm-size), or use "
                "worker_kind='thread', which shares memory anyway"
            )


class FrameRows:
    """Rows of a frame, converted when they are taken: half the memory, at many times the cost.

    Args:
        frame: the rows.
        columns: features, target and what nulls become.

    Raises:
        ColumnError: a column that is missing or not numeric.
    """

    def __init__(self, frame: pd.DataFrame, columns: Columns) -> None:
        for name in columns.names:  # one at a time, since all at once is what is to be avoided
            replace(columns, features=(name,), target=None).matrix(frame)
        self.frame = frame[columns.names]
        self.columns = columns

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, indices: np.ndarray) -> Tensors:
        """Rows by number, as float32."""
        arrays = self.columns.matrix(self.frame.iloc[indices])
        return as_tensors(array for array in arrays if array is not None)

    def chunk_rows(self) -> int:
        """Rows that `take` should convert at once."""
        return max(1, CHUNK_BYTES // (len(self.columns.names) * FLOAT_BYTES))


def gather(
    rows: MatrixRows | FrameRows,
    indices: np.ndarray,
    batch_size: int,
    num_workers: int = 0,
    prefetch: int = 0,
) -> Iterator[Tensors]:
    """Take rows in chunks of whole batches.

    Two threads on two CPUs made an idle consumer 1.3 to 1.4 times as fast, and did not slow down
    one that trained on both: gathering is a few percent of a training step on the CPU.

    Args:
        rows: where to take them from.
        indices: which, in order.
        batch_size: rows of a batch.
        num_workers: threads that gather; 0, and for a few chunks any, gathers in the caller's.
        prefetch: chunks that are gathered ahead beyond those in work.
    """
    size = max(1, rows.chunk_rows() // batch_size) * batch_size
    parts = [indices[low : low + size] for low in range(0, len(indices), size)]
    return ordered_map(rows.take, parts, num_workers if len(parts) > FEW_CHUNKS else 0, prefetch)
