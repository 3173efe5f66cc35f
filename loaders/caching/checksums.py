"""Checksums that detect writes to memory that must not change.

numpy and pandas refuse to write to read-only arrays. `torch.from_numpy` accepts them with a
warning, and tensors then write to the memory itself; so do numba and ctypes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

# Bytes of a column per checksum. 38 MB take 1.2 ms with one checksum per column, 1.6 ms in pieces
# of this size. Smaller pieces need more calls; larger ones compare more rows than requested.
PIECE_BYTES = 128 << 10


class Checksums:
    """Checksums (XXH3, 64 bits) of the columns of a block, extended as rows become final.

    Args:
        block: of shape (columns, rows); each column is contiguous.
    """

    def __init__(self, block: np.ndarray) -> None:
        self._item = block.itemsize
        self._columns = [memoryview(column.view(np.uint8)) for column in block]
        self._final = _Final(0, [[] for _ in block])

    def extend(self, rows: int) -> bool:
        """Record the first `rows` rows of each column as final: they will not be written again.

        Returns:
            False if earlier rows in the last piece changed; `is_unchanged` checks the others.
        """
        final, size = self._final, rows * self._item
        first = final.size // PIECE_BYTES
        added = [_sums(column, first * PIECE_BYTES, size) for column in self._columns]
        # Compare after summing: a write between an earlier comparison and the sums would be missed.
        is_unchanged = self._match(final, first, first + 1)
        pairs = zip(final.sums, added, strict=True)
        self._final = _Final(size, [sums[:first] + new for sums, new in pairs])
        return is_unchanged

    def is_unchanged(self, start: int, stop: int) -> bool:
        """Whether rows are unchanged; also compares other rows in the same pieces."""
        low, high = start * self._item, stop * self._item
        return self._match(self._final, low // PIECE_BYTES, -(-high // PIECE_BYTES))

    def _match(self, final: _Final, first: int, last: int) -> bool:
        low, high = first * PIECE_BYTES, min(last * PIECE_BYTES, final.size)
        return all(
            sums[first:last] == _sums(column, low, high)
            for sums, column in zip(final.sums, self._columns, strict=True)
        )


class _Final(NamedTuple):
    """Never modified, so that one thread may compare while another adds rows."""

    size: int
    """Bytes of each column that have checksums."""
    sums: list[list[int]]
    """Checksums per column and piece."""


def _sums(column: memoryview, low: int, high: int) -> list[int]:
    """The checksum of each piece of a column's bytes from `low` to `high`."""
    ends = [*range(low, high, PIECE_BYTES), high]
    return [xxh3_64_intdigest(column[start:stop]) for start, stop in pairwise(ends)]
