"""What follows from delivered rows, by arrays alone."""

import math

import numpy as np
import pytest
from feedrate.harness.trial.row_index import FileRows, RowIndex
from feedrate.harness.verify.checks import Checker
from feedrate.harness.verify.deliveries import Delivered, mixing, tally
from feedrate.harness.verify.situations import Situation, plan
from feedrate.harness.verify.values import changed_value

BATCH = 64


def checker(rows=1000, values=None, **options):
    numbers = np.arange(rows, dtype="float32") if values is None else np.asarray(values, "float32")
    index = RowIndex.of([numbers[:, None]])
    return Checker(index, FileRows(["a.parquet"], [len(numbers)]), BATCH, **options)


def ranks_of(check, *shares, batch=BATCH):
    """What ranks deliver, given the numbers of their rows."""
    parts = []
    for numbers in shares:
        rows = np.asarray(numbers, "float32")[:, None]
        steps = [min(batch, len(rows) - low) for low in range(0, len(rows), batch)]
        parts.append(Delivered(check.index.classes(rows), np.array(steps, np.int64)))
    return parts


def kinds(check, epoch, before=(), ranks=None, **situation):
    place = Situation(ranks or len(epoch), "whole", 1, **situation)
    return [one.kind for one in check.rows(place, 0, epoch, before=before)]


def test_rows_are_numbered_by_value_and_equal_ones_are_counted():
    index = RowIndex.of([np.float32([[1], [2], [1]]), np.float32([[math.nan], [0]])])
    assert (index.rows, len(index.hashes)) == (5, 3)
    assert sorted(index.sizes) == [1, 2, 2]  # NaN counts as 0
    found = tally(index, [Delivered(index.classes(np.float32([[1], [7], [0]])), np.array([3]))])
    assert (found.unknown, found.total, len(found.lost), len(found.repeated)) == (1, 3, 3, 0)


def test_only_rows_that_cannot_be_divided_may_be_left_out():
    check = checker(1000)
    assert kinds(check, ranks_of(check, range(0, 998, 2), range(1, 1000, 2))) == ["lost"]
    check = checker(1001)
    whole = ranks_of(check, range(0, 1000, 2), range(1, 1000, 2))
    assert kinds(check, whole) == ["left-out"]
    assert kinds(checker(1001, strict=True), whole) == ["lost"]


def test_dropped_last_steps_are_less_than_a_batch_of_each_rank():
    check = checker(640, drop_last=True)
    assert kinds(check, ranks_of(check, range(576))) == ["lost"]
    assert kinds(check, ranks_of(check, range(577))) == ["left-out"]
    check = checker(1100, drop_last=True)
    wide = Checker(check.index, check.files, 280, drop_last=True)
    assert kinds(wide, ranks_of(check, range(280), range(550, 830))) == ["left-out"]


def test_shares_that_are_wrong_are_named_and_an_idle_rank_is_none():
    check = checker(1000)
    assert kinds(check, ranks_of(check, range(1000), range(1000))) == ["not-sharded"]
    assert kinds(check, ranks_of(check, range(250), range(500, 750))) == ["sharded-twice"]
    assert kinds(check, ranks_of(check, range(500), [])) == ["lost"]


def test_rows_of_the_last_step_that_fill_it_are_padding_and_others_are_not():
    odd = checker(999)
    filled = ranks_of(odd, range(500), [*range(500, 999), 0])
    assert kinds(odd, filled) == ["padding"]
    check = checker(1000)
    longer = ranks_of(check, range(500), [*range(500, 1000), 0])
    assert kinds(check, longer) == ["repeated"]  # the ranks had equally many without it
    early = ranks_of(check, [0, *range(500)], range(500, 1000))
    assert kinds(check, early) == ["repeated"]
    before = ranks_of(check, range(500))
    rest = ranks_of(check, range(500, 750), [*range(750, 1000), *range(480, 500)])
    assert kinds(check, rest, before) == ["repeated"]  # the last step has fewer rows than that


def test_rows_that_only_changed_are_not_lost():
    check = checker(100)
    changed = ranks_of(check, [*range(98), 1000.5])
    found = list(check.rows(Situation(1, "whole", 1), 0, changed))
    assert [(one.kind, one.count) for one in found] == [("other-values", 1), ("lost", 1)]
    assert found[1].rows == ()  # which of the two is lost cannot be known


def test_equal_rows_say_nothing_of_an_order():
    values = np.arange(1000) % 300  # most are equal to another one
    values[:200] = np.arange(5000, 5200)
    check = checker(values=values)
    order = np.random.default_rng(0).permutation(1000)
    epoch = ranks_of(check, values[order])
    place = Situation(1, "whole", 1)
    assert not list(check.shuffled(place, 0, epoch, None))
    halves = ranks_of(check, values[:500], values[500:])
    assert not list(check.in_order(place, 0, halves))
    same = checker(values=np.zeros(100))
    alike = ranks_of(same, np.zeros(100))
    assert not list(same.shuffled(place, 1, alike, alike))
    (note,) = same.equal_rows()
    assert note.count == 99


def test_mixing_is_that_of_a_uniform_shuffle_or_less():
    uniform = np.random.default_rng(0).permutation(10_000)
    assert mixing(uniform).displacement == pytest.approx(1, rel=0.05)
    assert mixing(uniform).neighbours < 0.01
    assert mixing(np.arange(10_000)).displacement == 0
    files = np.concatenate(np.random.default_rng(0).permutation(np.split(np.arange(10_000), 100)))
    assert mixing(files).displacement > 0.5
    assert mixing(files).neighbours > 0.9


@pytest.mark.parametrize(
    ("unknown", "expected"),
    [
        ([math.inf, 1, 2], (0, "c is 2 instead of 5")),
        ([math.inf, math.nan, 5], (0, "b is 0 instead of 1")),
        ([7, 8, 9], None),
    ],
)
def test_a_changed_value_is_found_by_the_others_of_its_row(unknown, expected):
    rows = {0: np.float32([math.inf, 1, 5]), 1: np.float32([3, 4, 6])}
    assert changed_value(unknown, [0, 1], ["a", "b", "c"], rows.__getitem__) == expected


def test_resuming_takes_two_epochs_and_wrappers_keep_their_ranks():
    situations = plan([1, 2], 1, shuffle=True, resume=True, wrapped=False)
    assert {one.epochs for one in situations if one.purpose == "whole"} == {2}
    assert "2 ranks, resumed after half an epoch of 1 rank" in map(str, situations)
    wrapped = plan([1, 2], 2, shuffle=True, resume=True, wrapped=True)
    assert not [one for one in wrapped if one.ranks_before not in (None, one.ranks)]
    assert all(not one.shuffle for one in plan([1], 1, shuffle=False, resume=False, wrapped=False))
