"""Which value of which row is another one than in the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

CANDIDATES = 200  # lost rows that are compared with an unknown one

Read = Callable[[int], np.ndarray]
"""The values of a row by its number, float32, null as 0."""


def changed_value(
    unknown: Sequence[float], lost: Sequence[int] | np.ndarray, columns: Sequence[str], read: Read
) -> tuple[int, str] | None:
    """Find the lost row that an unknown one was made of, and say how it differs.

    Args:
        unknown: the values of a delivered row that the files do not have.
        lost: numbers of rows that were not delivered.
        columns: the names of the values.
        read: reads a row of the files.

    Returns:
        The number of the row that has most values in common, at least half of them, and the
        first difference in words; None if no row has as many.
    """
    row = np.asarray(unknown, np.float32)
    row = np.where(np.isnan(row), np.float32(0), row)
    best, number, expected = 0, -1, row
    for one in lost[:CANDIDATES]:
        values = read(int(one))
        alike = int((values == row).sum())
        if alike > best:
            best, number, expected = alike, int(one), values
    if best * 2 < len(columns):
        return None
    at = int(np.flatnonzero(expected != row)[0])
    return number, f"{columns[at]} is {row[at]:g} instead of {expected[at]:g}"
