"""Find the kind of column that costs the most time, by a few quick loads before careful ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ...loaders.parquet.schema import in_words, kind_of, needs_pandas
from ..system.units import counted

PLAIN_KINDS = ("number", "boolean", "timestamp")  # these need no object per value
QUICK_ROUNDS = 3  # the fastest counts: other work disturbed the slower ones
QUICK_S = 0.8  # after it, no further round begins: the careful ones need the time
ABOUT_EQUAL = 0.7  # of the largest saving; kinds that save less are no equal cause
SHOWN = 5  # names of columns


Seconds = Callable[[Sequence[str] | None], float]
"""Loads some columns and returns the duration in seconds; None means all wanted columns."""


@dataclass(frozen=True)
class Kind:
    """Columns that cost time for one reason: the type of their values."""

    words: tuple[str, ...]
    columns: tuple[str, ...]

    def __str__(self) -> str:
        """As part of a sentence.

        >>> print(Kind(("lists",), ("tags", "ids")))
        the 2 columns of lists ('tags', 'ids')
        """
        names = ", ".join(map(repr, self.columns[:SHOWN]))
        more = f" and {len(self.columns) - SHOWN} more" if len(self.columns) > SHOWN else ""
        count = len(self.columns)
        which = "column" if count == 1 else counted(count, "column")
        return f"the {which} of {' and '.join(self.words)} ({names}{more})"


def kinds_of(fields: Sequence[pa.Field]) -> list[Kind]:
    """The kinds of columns other than plain numbers.

    All columns that make pandas read the files itself are one kind, whatever they hold: leaving
    out only some of them changes nothing.
    """
    by_pandas = [field for field in fields if needs_pandas(field.type)]
    found: dict[str, list[str]] = {}
    for field in fields:
        if field not in by_pandas and kind_of(field.type) not in PLAIN_KINDS:
            # Lists are one kind, whatever they hold: they cost one array per row.
            words = in_words(field.type).partition(" of ")[0]
            found.setdefault(words, []).append(field.name)
    kinds = [Kind((words,), tuple(names)) for words, names in found.items()]
    if by_pandas:
        held = dict.fromkeys(in_words(field.type) for field in by_pandas)
        kinds.append(Kind(tuple(held), tuple(field.name for field in by_pandas)))
    return kinds


def costliest(
    kinds: Sequence[Kind],
    loaded: Sequence[str],
    seconds: Seconds,
    clock: Callable[[], float] = time.monotonic,
) -> Kind:
    """The kind that saves most if left out, merged with those that save about as much.

    Args:
        kinds: at least one, and none with all of the loaded columns.
        loaded: all columns that are loaded.
        seconds: times a load.
        clock: in seconds.
    """
    if len(kinds) == 1:
        return kinds[0]
    began = clock()
    seconds(None)  # a warm-up
    as_is: list[float] = []
    without: list[list[float]] = [[] for _ in kinds]
    for _ in range(QUICK_ROUNDS):
        as_is.append(seconds(None))
        for kind, took in zip(kinds, without, strict=True):
            took.append(seconds(others(kind, loaded)))
        if clock() - began > QUICK_S:
            break
    saves = [min(as_is) - min(took) for took in without]
    most = max(saves)
    alike = [kind for kind, saved in zip(kinds, saves, strict=True) if saved >= ABOUT_EQUAL * most]
    together = Kind(
        tuple(dict.fromkeys(word for kind in alike for word in kind.words)),
        tuple(name for kind in alike for name in kind.columns),
    )
    if most > 0 and others(together, loaded):
        return together
    return kinds[saves.index(most)]


def others(kind: Kind, loaded: Sequence[str]) -> list[str]:
    """The loaded columns that are not of a kind."""
    return [name for name in loaded if name not in kind.columns]
