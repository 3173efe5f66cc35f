"""What was found wrong with a loader, or is worth a note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "lost", "repeated", "other-values", "not-sharded", "sharded-twice", "unequal-steps",
    "other-order", "not-shuffled", "weak-shuffle", "repeated-order", "changed-batch",
    "error", "hang", "crash", "left-out", "padding", "not-run", "equal-rows",
]  # fmt: skip
EXCEPTIONS: frozenset[Kind] = frozenset({"left-out", "padding", "not-run"})
"""Kinds that do not fail a loader: how ranks come to equal steps, and what could not be run."""
NOTES: frozenset[Kind] = EXCEPTIONS | {"equal-rows"}
NAMED = 3  # rows


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: of fault, or of note.
        situation: where, such as `2 ranks, resumed after half an epoch`.
        epoch: its number, from 0; None if it concerns several.
        text: one sentence.
        count: rows, or steps, or batches that it concerns.
        rows: the names of the first few rows.
    """

    kind: Kind
    situation: str
    epoch: int | None
    text: str
    count: int = 0
    rows: tuple[str, ...] = ()

    @property
    def is_fault(self) -> bool:
        """Whether it fails the loader."""
        return self.kind not in NOTES


def listed(names: Sequence[str], count: int) -> str:
    """A few names, and how many more there are.

    >>> listed(["a row 1", "a row 2"], 5)
    'a row 1, a row 2 and 3 more'
    """
    more = count - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more > 0 else "")
