"""Row numbers by value: which rows of the files a batch holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .fingerprint import row_hashes, value_hashes

UNKNOWN = -1
"""The class of a row whose values no row of the files has."""
_HASHES, _FIRSTS, _NUMBERS = "hashes.npy", "firsts.npy", "numbers.npy"


@dataclass(frozen=True)
class RowIndex:
    """The rows of the files by their values.

    Rows with equal values form a class: no loader's consumer can tell them apart. If all rows
    differ, each class is one row. It takes 24 bytes a row.

    Attributes:
        hashes: the distinct hashes of rows, ascending, uint64.
        firsts: for each class, the position of its first row in `numbers`; then their count.
        numbers: the numbers of the rows in the files' order, by class, ascending in each.
    """

    hashes: np.ndarray
    firsts: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, parts: Iterable[np.ndarray]) -> RowIndex:
        """Index the rows of matrices, float32 of shape (rows, columns), numbered through them."""
        hashed = [hashes_of(part) for part in parts]
        hashes = np.concatenate(hashed) if hashed else np.zeros(0, np.uint64)
        numbers = np.argsort(hashes, kind="stable")
        distinct, firsts = np.unique(hashes[numbers], return_index=True)
        return cls(distinct, np.append(firsts, len(hashes)), numbers)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.numbers)

    @property
    def sizes(self) -> np.ndarray:
        """The number of rows of each class."""
        return np.diff(self.firsts)

    def classes(self, rows: np.ndarray) -> np.ndarray:
        """The class of each row of a matrix as in `of`, or `UNKNOWN`; int64."""
        hashes = hashes_of(rows)
        if not len(self.hashes):
            return np.full(len(hashes), UNKNOWN)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, at, UNKNOWN)

    def save(self, folder: Path) -> None:
        """Write the index for `load` in other processes."""
        for name, array in ((_HASHES, self.hashes), (_FIRSTS, self.firsts)):
            np.save(folder / name, array)
        np.save(folder / _NUMBERS, self.numbers)

    @classmethod
    def load(cls, folder: Path) -> RowIndex:
        """Map the index that `save` wrote; processes share its memory."""
        names = (_HASHES, _FIRSTS, _NUMBERS)
        return cls(*(np.load(folder / name, mmap_mode="r") for name in names))


def hashes_of(rows: np.ndarray) -> np.ndarray:
    """One hash per row; NaN counts as 0, which training loaders deliver for null."""
    clean = np.where(np.isnan(rows), np.float32(0), rows)
    return row_hashes(value_hashes(clean))


class FileRows:
    """Where each row is: the file, and its number in the file.

    Args:
        paths: the files.
        rows: the number of rows of each.
    """

    def __init__(self, paths: Sequence[str], rows: Sequence[int]) -> None:
        self._paths = paths
        self._ends = np.cumsum(rows)

    def place(self, number: int) -> tuple[int, int]:
        """The position of a row's file among the files, and the row's number in it."""
        at = int(np.searchsorted(self._ends, number, side="right"))
        return at, number - (int(self._ends[at - 1]) if at else 0)

    def name(self, number: int) -> str:
        """The name of a row, such as `prices_20250103.parquet row 17`."""
        at, row = self.place(number)
        return f"{self._paths[at].replace(chr(92), '/').rpartition('/')[2]} row {row}"
