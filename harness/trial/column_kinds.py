"""Find the kind of column that costs the most time, with a few quick loads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ...loaders.parquet.schema import in_words, kind_of, needs_pandas
from ..system.units import counted

PLAIN_KINDS = ("number", "boolean", "timestamp")  # these need no object per value
QUICK_ROUNDS = 3  # the fastest counts: other work slows down the rest
QUICK_S = 0.8  # then no further round begins: the careful loads need the time
ABOUT_EQUAL = 0.7  # share of the largest saving from which kinds are merged
SHOWN = 5  # column names in a message


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
    names_by_words: dict[str, list[str]] = {}
    for field in fields:
        if field not in by_pandas and kind_of(field.type) not in PLAIN_KINDS:
            # Lists are one kind, whatever they hold: they cost one array per row.
            words = in_words(field.type).partition(" of ")[0]
            names_by_words.setdefault(words, []).append(field.name)
    kinds = [Kind((words,), tuple(names)) for words, names in names_by_words.items()]
    if by_pandas:
        types = dict.fromkeys(in_words(field.type) for field in by_pandas)
        kinds.append(Kind(tuple(types), tuple(field.name for field in by_pandas)))
    return kinds


def costliest(
    kinds: Sequence[Kind],
    loaded: Sequence[str],
    seconds: Seconds,
    clock: Callable[[], float] = time.monotonic,
) -> Kind:
    """The kind that saves most if left out, merged with those that save about as much.

    Args:
        kinds: at least one; none has all loaded columns.
        loaded: all columns that are loaded.
        seconds: times a load.
        clock: the time in seconds.
    """
    if len(kinds) == 1:
        return kinds[0]
    began = clock()
    seconds(None)  # a warm-up
    base_times: list[float] = []
    times_without: list[list[float]] = [[] for _ in kinds]
    for _ in range(QUICK_ROUNDS):
        base_times.append(seconds(None))
        for kind, times in zip(kinds, times_without, strict=True):
            times.append(seconds(others(kind, loaded)))
        if clock() - began > QUICK_S:
            break
    savings = [min(base_times) - min(times) for times in times_without]
    largest = max(savings)
    similar = [
        kind for kind, saved in zip(kinds, savings, strict=True) if saved >= ABOUT_EQUAL * largest
    ]
    merged = Kind(
        tuple(dict.fromkeys(word for kind in similar for word in kind.words)),
        tuple(name for kind in similar for name in kind.columns),
    )
    if largest > 0 and others(merged, loaded):
        return merged
    return kinds[savings.index(largest)]


def others(kind: Kind, loaded: Sequence[str]) -> list[str]:
    """The loaded columns that are not of a kind."""
    return [name for name in loaded if name not in kind.columns]
