"""Rows that are in memory: a float32 matrix, or a frame that is converted when rows are taken."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch  # noqa: TID253 - the matrix is a tensor; only what has imported torch imports this

from .errors import StorageError
from .matrix import Columns
from .torch_batches import Tensors, as_tensors

# A chunk of 2 MiB of rows is gathered at once and cut into batches. Much smaller, and the calls
# cost more than the copying; larger, and every chunk is fresh memory from the kernel: 8 MiB took
# 1.7 to 5 times as long per row.
CHUNK_BYTES = 2 << 20
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
        """Copies of rows, by number."""
        where = torch.as_tensor(indices)
        return tuple(tensor.index_select(0, where) for tensor in self.tensors)

    def chunk_rows(self) -> int:
        """Rows that `take` should gather at once."""
        width = sum(tensor[:1].numel() for tensor in self.tensors) or 1
        return max(1, CHUNK_BYTES // (width * FLOAT_BYTES))

    def check_shared_memory(self) -> None:
        """Raise `StorageError` where the matrix does not fit the memory that processes share."""
        if not SHARED_MEMORY.is_dir() or all(tensor.is_shared() for tensor in self.tensors):
            return
        needed = sum(tensor.numel() * FLOAT_BYTES for tensor in self.tensors)
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
        for name in columns.features:
            Columns((name,)).matrix(frame)
        columns.matrix(frame.iloc[:0])
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


def gather(rows: MatrixRows | FrameRows, indices: np.ndarray, batch_size: int) -> Iterator[Tensors]:
    """Take rows in chunks of whole batches, in the caller's thread.

    A thread that gathers ahead was measured as no gain for an idle consumer and a loss of
    2 to 3 times for one that trains: torch's own threads then compete with a second set.
    """
    size = max(1, rows.chunk_rows() // batch_size) * batch_size
    for low in range(0, len(indices), size):
        yield rows.take(indices[low : low + size])
