"""From delivered rows to findings; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..system.units import counted
from ..trial.row_index import FileRows, RowIndex
from .deliveries import Delivered, Epoch, Mixing, Tally, mixing, numbers_of, tally
from .findings import NAMED, Finding, Kind, listed
from .situations import Situation

LEAST_MOVED = 0.01  # of the mean displacement of a uniform shuffle
MOST_NEIGHBOURS = 0.5  # of rows that follow the same row as in the files
FEWEST_SHUFFLED = 20  # rows; the order of fewer tells little
ALL = 0.95  # of the rows on each rank: it was not told its share


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
        if (shares := self._shares(epoch, found)) and not before:
            kind, text = shares
            yield Finding(kind, *place, text, max(len(found.lost), len(found.repeated)))
            return
        lost = len(found.lost)
        if found.unknown:
            lost = max(0, lost - found.unknown)
            text = f"{counted(found.unknown, 'row')} with values that the files do not have"
            yield Finding("other-values", *place, text, found.unknown)
        ranks = max(situation.ranks, situation.ranks_before or 1)
        if lost:
            yield self._lost(place, found, lost, ranks)
        if len(found.repeated):
            yield self._repeated(place, found, epoch)

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
            numbers = np.unique(numbers_of(self.index, part.classes), return_index=True)
            order = numbers[0][np.argsort(numbers[1])]  # each row at its first delivery
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
            numbers = numbers_of(self.index, part.classes)
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
            alike = len(part.classes) >= FEWEST_SHUFFLED
            if alike and np.array_equal(part.classes, other.classes):
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

    def _shares(self, epoch: Epoch, found: Tally) -> tuple[Kind, str] | None:
        """Whether each rank delivers all rows, or all ranks together a rank's share."""
        ranks, rows = len(epoch), self.index.rows
        if ranks == 1 or rows < ranks * ranks:
            return None
        if all(len(part.classes) >= ALL * rows for part in epoch) and not len(found.lost):
            return "not-sharded", f"each of {ranks} ranks delivers all {rows:,} rows"
        share = rows / ranks
        if abs(found.total - share) <= (1 - ALL) * share and not len(found.repeated):
            text = (
                f"all {ranks} ranks together deliver {found.total:,} of {rows:,} rows: the rows "
                "are divided among them twice"
            )
            return "sharded-twice", text
        return None

    def _lost(self, place: tuple[str, int], found: Tally, lost: int, ranks: int) -> Finding:
        names = self._names(found.lost)
        uneven = not self.strict and not found.unknown and not len(found.repeated)
        if uneven and lost < ranks:
            text = f"{counted(lost, 'row')} left out, so that the ranks take equal steps"
            return Finding("left-out", *place, text, lost, names)
        if uneven and self.drop_last and lost < ranks * self.batch_size + ranks:
            text = f"{counted(lost, 'row')} left out in last steps that are not full"
            return Finding("left-out", *place, text, lost, names)
        text = f"{counted(lost, 'row')} lost: {listed(names, lost)}"
        return Finding("lost", *place, text, lost, names)

    def _repeated(self, place: tuple[str, int], found: Tally, epoch: Epoch) -> Finding:
        count = len(found.repeated)
        names = self._names(found.repeated)
        if not self.strict and not len(found.lost) and len(epoch) > 1:
            last = sum(len(part.last_step) for part in epoch)
            without = tally(self.index, [part.first(len(part.steps) - 1) for part in epoch])
            if count < last and not len(without.repeated):
                text = (
                    f"{counted(count, 'row')} repeated in the last step, so that the ranks take "
                    "equal steps"
                )
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


def without_last(epoch: Epoch, is_padded: bool) -> Epoch:
    """The epoch without the last step of each rank, if that is filled up."""
    return [part.first(len(part.steps) - 1) for part in epoch] if is_padded else epoch
