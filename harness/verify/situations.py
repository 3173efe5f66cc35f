"""The situations in which a loader is verified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..system.units import counted
from ..trial.protocol import END, HALF

Purpose = Literal["whole", "again", "in-order", "resumed"]


@dataclass(frozen=True)
class Situation:
    """Some epochs on a number of ranks.

    Attributes:
        ranks: how many run at the same time.
        purpose: `whole` epochs; `again` with the same seed; `in-order`: not shuffled; `resumed`
            from a position of a `whole` situation.
        epochs: how many, counting the rest of an epoch as one.
        first_epoch: the number of the first.
        shuffle: whether the loader is asked to shuffle.
        ranks_before: of `resumed`, the ranks of the situation whose position is loaded.
        position: of `resumed`, where it was taken: `HALF` or `END` of the first epoch.
    """

    ranks: int
    purpose: Purpose
    epochs: int
    first_epoch: int = 0
    shuffle: bool = True
    ranks_before: int | None = None
    position: str | None = None

    @property
    def name(self) -> str:
        """A name for its files."""
        before = f"-of{self.ranks_before}-{self.position}" if self.position else ""
        return f"{self.purpose}-{self.ranks}{before}"

    def __str__(self) -> str:
        ranks = counted(self.ranks, "rank")
        if self.purpose == "again":
            return f"{ranks}, same seed again"
        if self.purpose == "in-order":
            return f"{ranks}, not shuffled"
        if self.position is None:
            return ranks
        where = "after half an epoch" if self.position == HALF else "after an epoch"
        if self.ranks_before == self.ranks:
            return f"{ranks}, resumed {where}"
        return f"{ranks}, resumed {where} of {counted(self.ranks_before or 1, 'rank')}"


def plan(
    ranks: Sequence[int], epochs: int, *, shuffle: bool, resume: bool, wrapped: bool
) -> list[Situation]:
    """The situations to run, each after the one that it needs.

    With `resume`, a loader continues on as many ranks as before, and on the next number in
    `ranks`; a wrapper continues on as many ranks as before only. That takes two epochs.
    """
    epochs = max(epochs, 2) if resume else epochs
    situations = []
    for number in ranks:
        situations.append(Situation(number, "whole", epochs, shuffle=shuffle))
        situations.append(Situation(number, "again", 1, shuffle=shuffle))
    if shuffle:
        situations.append(Situation(min(ranks), "in-order", 1, shuffle=False))
    if resume:
        for number in ranks:
            half = Situation(
                number, "resumed", 2, shuffle=shuffle, ranks_before=number, position=HALF,
            )  # fmt: skip
            situations += [half, replace(half, epochs=1, first_epoch=1, position=END)]
            if not wrapped and (following := _following(ranks, number)) != number:
                situations.append(replace(half, ranks=following))
    return situations


def _following(ranks: Sequence[int], number: int) -> int:
    """The next number of ranks; after the last one the first."""
    return ranks[(ranks.index(number) + 1) % len(ranks)]
