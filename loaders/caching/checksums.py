"""Checksums by which writes to memory are noticed that nobody should write to.

numpy and pandas refuse to write to arrays that are read-only. `torch.from_numpy` takes them with
a warning, and tensors then write to the memory itself; so do numba and ctypes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

# Bytes of a column with one checksum. 38 MB take 1.2 ms column by column, 1.6 in such pieces; in
# smaller ones the calls cost more, and of larger ones more is compared beside the rows asked for.
PIECE_BYTES = 128 << 10


class Checksums:
    """Checksums (XXH3, 64 bits) of the columns of a block, which grow with the rows that are final.

    Args:
        block: of shape (columns, rows); each column lies in one piece.
    """

    def __init__(self, block: np.ndarray) -> None:
        self._item = block.itemsize
        self._columns = [memoryview(column.view(np.uint8)) for column in block]
        self._known = _Known(0, [[] for _ in block])

    def extend(self, rows: int) -> bool:
        """Take the first so many rows of each column, of which no more will be written to.

        Returns:
            False where rows that were taken before are noticed to have changed; `hold` notices
            all others.
        """
        known, size = self._known, rows * self._item
        first = known.size // PIECE_BYTES
        added = [_sums(column, first * PIECE_BYTES, size) for column in self._columns]
        # Only now: a write in between has changed what was added, or is noticed.
        holds = self._hold(known, first, first + 1)
        pairs = zip(known.sums, added, strict=True)
        self._known = _Known(size, [sums[:first] + new for sums, new in pairs])
        return holds

    def hold(self, start: int, stop: int) -> bool:
        """Whether rows are what they were; those beside them in a piece are compared, too."""
        low, high = start * self._item, stop * self._item
        return self._hold(self._known, low // PIECE_BYTES, -(-high // PIECE_BYTES))

    def _hold(self, known: _Known, first: int, last: int) -> bool:
        low, high = first * PIECE_BYTES, min(last * PIECE_BYTES, known.size)
        return all(
            sums[first:last] == _sums(column, low, high)
            for sums, column in zip(known.sums, self._columns, strict=True)
        )


class _Known(NamedTuple):
    """Never changed, so that one thread may compare while another takes more rows."""

    size: int
    """Bytes of each column that have checksums."""
    sums: list[list[int]]
    """Of each column, by the piece."""


def _sums(column: memoryview, low: int, high: int) -> list[int]:
    """The checksum of each piece of a column's bytes from `low` on, the last to `high`."""
    ends = [*range(low, high, PIECE_BYTES), high]
    return [xxh3_64_intdigest(column[start:stop]) for start, stop in pairwise(ends)]
