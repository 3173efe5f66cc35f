"""What the ranks of a situation delivered, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..trial.row_index import UNKNOWN, RowIndex


@dataclass(frozen=True)
class Delivered:
    """The rows of one epoch of one rank.

    Attributes:
        classes: the class of each row in the index, or `UNKNOWN`, in order.
        steps: the number of rows of each step.
    """

    classes: np.ndarray
    steps: np.ndarray

    def first(self, steps: int) -> Delivered:
        """The first steps only."""
        return replace(
            self, classes=self.classes[: int(self.steps[:steps].sum())], steps=self.steps[:steps]
        )

    def rest(self, steps: int) -> Delivered:
        """All but the first steps."""
        return replace(
            self, classes=self.classes[int(self.steps[:steps].sum()) :], steps=self.steps[steps:]
        )


Epoch = Sequence[Delivered]
"""Of each rank; or of each rank before and after a change of ranks."""


@dataclass(frozen=True)
class Tally:
    """How often the rows of the files were delivered in an epoch.

    Attributes:
        lost: the numbers of rows that were not delivered.
        repeated: for each delivery too many, the number of its row.
        unknown: number of delivered rows that the files do not have.
        total: number of delivered rows.
    """

    lost: np.ndarray
    repeated: np.ndarray
    unknown: int
    total: int


def tally(index: RowIndex, epoch: Epoch) -> Tally:
    """Count the rows of an epoch."""
    classes = np.concatenate([part.classes for part in epoch]) if epoch else np.zeros(0, np.int64)
    known = classes[classes != UNKNOWN]
    counts = np.bincount(known, minlength=len(index.hashes))
    missing = index.sizes - counts
    return Tally(
        lost=_numbers(index, np.maximum(missing, 0)),
        repeated=_numbers(index, np.maximum(-missing, 0)),
        unknown=len(classes) - len(known),
        total=len(classes),
    )


def _numbers(index: RowIndex, counts: np.ndarray) -> np.ndarray:
    """Row numbers, ascending: `counts[i]` of class i, the last of a class first."""
    at = np.flatnonzero(counts)
    repeats = counts[at]
    which = np.repeat(at, repeats)
    back = np.arange(len(which)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    sizes = index.sizes[which]
    places = index.firsts[which] + sizes - 1 - back % sizes
    return np.sort(index.numbers[places])


def distinct_numbers(index: RowIndex, classes: np.ndarray) -> np.ndarray:
    """The numbers of the delivered rows that no other row of the files equals, in order."""
    known = classes[classes != UNKNOWN]
    single = known[index.sizes[known] == 1]
    numbers: np.ndarray = index.numbers[index.firsts[single]]
    return numbers


@dataclass(frozen=True)
class Mixing:
    """How far a shuffle moves rows.

    Attributes:
        displacement: mean distance of a row from its place in the files' order, relative to that
            of a uniform shuffle, which is (n² - 1) / 3n for n rows.
        neighbours: share of rows that directly follow the row before them in the files.
    """

    displacement: float
    neighbours: float


def mixing(numbers: np.ndarray) -> Mixing:
    """How far an order of distinct row numbers is from ascending."""
    count = len(numbers)
    if count < 2:  # noqa: PLR2004 - nothing to move
        return Mixing(1.0, 0.0)
    places = np.argsort(np.argsort(numbers, kind="stable"), kind="stable")
    moved = float(np.abs(places - np.arange(count)).mean())
    follows = float((np.diff(places) == 1).mean())
    return Mixing(moved / ((count * count - 1) / (3 * count)), follows)
