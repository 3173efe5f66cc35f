"""From delivered rows to findings; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..system.units import counted
from ..trial.row_index import FileRows, RowIndex
from .deliveries import Delivered, Epoch, Mixing, Tally, distinct_numbers, mixing, tally
from .findings import NAMED, Finding, Kind, listed
from .situations import Situation

LEAST_MOVED = 0.01  # of the mean displacement of a uniform shuffle
MOST_NEIGHBOURS = 0.5  # of rows that follow the same row as in the files
FEWEST_SHUFFLED = 20  # rows; the order of fewer tells little
EQUAL_STEPS = "so that the ranks take equal steps"
NEARLY_ALL = 0.95  # of what a rank would deliver if its share were wrong


@dataclass(frozen=True)
class Checker:
    """Checks epochs against the rows of the files.

    Attributes:
        index: the rows.
        files: their names.
        batch_size: rows of a step that the loader was asked for.
        drop_last: whether a loader may leave out a last step that is not full.
        strict: whether rows that are left out or repeated for equal steps are faults.
    """

    index: RowIndex
    files: FileRows
    batch_size: int
    drop_last: bool = False
    strict: bool = False

    def rows(
        self, situation: Situation, number: int, epoch: Epoch, *, before: Epoch = ()
    ) -> Iterator[Finding]:
        """Check that an epoch has every row once, on all ranks together.

        Args:
            situation: where.
            number: of the epoch.
            epoch: the rows of each rank.
            before: what the ranks of an earlier situation had delivered of the same epoch.
        """
        found = tally(self.index, [*before, *epoch])
        place = (str(situation), number)
        lost = len(found.lost)
        if lost and lost <= self._may_be_left_out(situation, found, before):
            why = "in last steps that are not full" if self.drop_last else EQUAL_STEPS
            text = f"{counted(lost, 'row')} left out {why}"
            yield Finding("left-out", *place, text, lost, self._names(found.lost))
            return
        if not before and (shares := self._wrong_shares(epoch, found)) is not None:
            kind, text = shares
            yield Finding(kind, *place, text, max(lost, len(found.repeated)))
            return
        if found.unknown:
            text = f"{counted(found.unknown, 'row')} with values that the files do not have"
            yield Finding("other-values", *place, text, found.unknown)
        if lost > found.unknown:  # as many as are unknown have other values
            yield self._lost(place, found, lost - found.unknown)
        if len(found.repeated):
            yield self._repeated(place, found, epoch, before)

    def steps(self, situation: Situation, number: int, epoch: Epoch) -> Iterator[Finding]:
        """Check that all ranks take equally many steps."""
        counts = [len(part.steps) for part in epoch]
        if len(set(counts)) > 1:
            shown = ", ".join(map(str, counts))
            text = f"the ranks take {shown} steps; a training step of all ranks would wait forever"
            yield Finding("unequal-steps", str(situation), number, text, max(counts) - min(counts))

    def shuffled(
        self, situation: Situation, number: int, epoch: Epoch, last: Epoch | None
    ) -> Iterator[Finding]:
        """Check that a shuffle moves the rows of each rank, and in another way than in `last`."""
        for rank, part in enumerate(epoch):
            numbers = distinct_numbers(self.index, part.classes)
            rows, first = np.unique(numbers, return_index=True)
            order = rows[np.argsort(first)]  # each row at its first delivery
            if len(order) < FEWEST_SHUFFLED:
                continue
            moved = mixing(order)
            if (kind := _weakness(moved)) is not None:
                which = f" of rank {rank}" if len(epoch) > 1 else ""
                yield Finding(kind, str(situation), number, _mixed(moved, which), len(order))
                return
        if last is not None:
            yield from self._repeated_order(situation, number, epoch, last)

    def in_order(self, situation: Situation, number: int, epoch: Epoch) -> Iterator[Finding]:
        """Check that rows that are not shuffled keep the order of the files on each rank."""
        for rank, part in enumerate(epoch):
            numbers = distinct_numbers(self.index, part.classes)
            back = np.flatnonzero(np.diff(numbers) < 0)
            if len(back):
                names = self._names(numbers[back + 1])
                which = f" of rank {rank}" if len(epoch) > 1 else ""
                text = (
                    f"rows{which} are not in the order of the files though shuffling is off, "
                    f"first at {names[0]}"
                )
                yield Finding("other-order", str(situation), number, text, len(back), names)
                return

    def same(
        self, situation: Situation, number: int, epoch: Epoch, expected: Epoch, than: str
    ) -> Iterator[Finding]:
        """Check that each rank delivers its rows in the same order as before.

        Args:
            situation: where.
            number: of the epoch.
            epoch: the rows of each rank.
            expected: the rows that each rank delivered before.
            than: when that was, in words.
        """
        for rank, (part, other) in enumerate(zip(epoch, expected, strict=True)):
            if np.array_equal(part.classes, other.classes):
                continue
            shorter = min(len(part.classes), len(other.classes))
            differ = np.flatnonzero(part.classes[:shorter] != other.classes[:shorter])
            first = int(differ[0]) if len(differ) else shorter
            which = f"rank {rank}: " if len(epoch) > 1 else ""
            text = f"{which}another order than {than}, from row {first:,} of the epoch on"
            count = len(differ) + abs(len(part.classes) - len(other.classes))
            yield Finding("other-order", str(situation), number, text, count)
            return

    def _repeated_order(
        self, situation: Situation, number: int, epoch: Epoch, last: Epoch
    ) -> Iterator[Finding]:
        for rank, (part, other) in enumerate(zip(epoch, last, strict=True)):
            rows = distinct_numbers(self.index, part.classes)
            others = distinct_numbers(self.index, other.classes)
            if len(rows) >= FEWEST_SHUFFLED and np.array_equal(rows, others):
                which = f" on rank {rank}" if len(epoch) > 1 else ""
                text = f"the epoch repeats the order of the one before{which}"
                yield Finding("repeated-order", str(situation), number, text, len(part.classes))
                return

    def equal_rows(self) -> Iterator[Finding]:
        """A note if rows are equal in all columns, since they cannot be told apart."""
        alike = self.index.rows - len(self.index.hashes)
        if alike:
            text = (
                f"{counted(alike, 'row')} of {self.index.rows:,} are equal to another one in "
                "these columns; an exchange of equal rows cannot be seen"
            )
            yield Finding("equal-rows", "the files", None, text, alike)

    def _may_be_left_out(self, situation: Situation, found: Tally, before: Epoch) -> int:
        """How many rows an epoch may lack so that ranks take equal steps."""
        if self.strict or found.unknown or len(found.repeated):
            return 0
        if self.drop_last:
            return situation.ranks * self.batch_size - 1
        earlier = sum(len(part.classes) for part in before)
        left = (self.index.rows - earlier) % situation.ranks
        changed = situation.ranks_before not in (None, situation.ranks)
        return left + (self.index.rows % (situation.ranks_before or 1) if changed else 0)

    def _wrong_shares(self, epoch: Epoch, found: Tally) -> tuple[Kind, str] | None:
        """Whether each rank delivers all rows, or a share of its share."""
        ranks, rows = len(epoch), self.index.rows
        if ranks == 1 or rows < ranks * ranks:
            return None
        delivered = [len(part.classes) for part in epoch]
        if min(delivered) >= NEARLY_ALL * rows and not len(found.lost):
            return "not-sharded", f"each of {ranks} ranks delivers all {rows:,} rows"
        share = rows / ranks**2
        near = all(abs(count - share) <= max(1, (1 - NEARLY_ALL) * share) for count in delivered)
        if near and not len(found.repeated):
            text = (
                f"all {ranks} ranks together deliver {found.total:,} of {rows:,} rows: the rows "
                "are divided among them twice"
            )
            return "sharded-twice", text
        return None

    def _lost(self, place: tuple[str, int], found: Tally, lost: int) -> Finding:
        # Among unknown rows, which of the lost ones have other values is not known.
        names = () if found.unknown else self._names(found.lost)
        listed_names = f": {listed(names, lost)}" if names else ""
        return Finding("lost", *place, f"{counted(lost, 'row')} lost{listed_names}", lost, names)

    def _repeated(
        self, place: tuple[str, int], found: Tally, epoch: Epoch, before: Epoch
    ) -> Finding:
        count = len(found.repeated)
        names = self._names(found.repeated)
        are_equal = len({len(part.classes) for part in epoch}) == 1  # which padding is for
        may_be_padding = not self.strict and not len(found.lost) and len(epoch) > 1 and are_equal
        if may_be_padding and not len(tally(self.index, [*before, *without_last(epoch)]).repeated):
            text = f"{counted(count, 'row')} repeated in the last step {EQUAL_STEPS}"
            return Finding("padding", *place, text, count, names)
        text = f"{counted(count, 'row')} repeated: {listed(names, count)}"
        return Finding("repeated", *place, text, count, names)

    def _names(self, numbers: np.ndarray | Sequence[int]) -> tuple[str, ...]:
        return tuple(self.files.name(int(number)) for number in numbers[:NAMED])


def _weakness(moved: Mixing) -> Kind | None:
    if moved.displacement == 0:
        return "not-shuffled"
    weak = moved.displacement < LEAST_MOVED or moved.neighbours > MOST_NEIGHBOURS
    return "weak-shuffle" if weak else None


def _mixed(moved: Mixing, which: str) -> str:
    if moved.displacement == 0:
        return f"the rows{which} come in the files' order though shuffling is on"
    return (
        f"the shuffle{which} moves rows by {moved.displacement:.2%} of what a uniform one does, "
        f"and {moved.neighbours:.0%} of them still follow the same row as in the files"
    )


def halves(epoch: Sequence[Delivered], steps: Sequence[int]) -> tuple[Epoch, Epoch]:
    """The rows of each rank before and after a number of steps."""
    pairs = list(zip(epoch, steps, strict=True))
    return [part.first(at) for part, at in pairs], [part.rest(at) for part, at in pairs]


def without_last(epoch: Epoch) -> Epoch:
    """The epoch without the last step of each rank."""
    return [part.first(len(part.steps) - 1) for part in epoch]
