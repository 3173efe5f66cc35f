"""An epoch's order is a permutation, all are as likely, and any part of it can be had alone."""

import itertools
from collections import Counter

import numpy as np
import pytest
from feedrate.loaders import permutation
from feedrate.loaders.epochs import Order
from feedrate.loaders.permutation import Visits

ROWS = permutation.GROUPED_FROM + 1001


def test_all_rows_come_once_and_another_epoch_has_another_order():
    orders = [Visits(Order(True, 3, epoch), ROWS).at(range(ROWS)) for epoch in (0, 1, 0)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(ROWS))
    assert np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[1])
    assert np.mean(orders[0] == np.arange(ROWS)) < 0.001


@pytest.mark.parametrize("rows", [0, 1, 1000, ROWS])
@pytest.mark.parametrize("shuffle", [True, False])
def test_parts_are_those_of_the_whole_in_whatever_order_they_are_asked_for(rows, shuffle):
    order = Order(shuffle, 5)
    whole = Visits(order, rows).at(range(rows))
    assert len(whole) == rows
    visits = Visits(order, rows)
    for start, stop, step in itertools.product((0, 7, rows // 2), (rows // 3, rows), (1, 3, 5000)):
        positions = range(start, stop, step)
        assert visits.at(positions).tolist() == whole[start:stop:step].tolist()


def test_every_order_is_as_likely(monkeypatch):
    monkeypatch.setattr(permutation, "GROUPED_FROM", 1)
    seen = Counter(
        tuple(Visits(Order(True, seed), 4).at(range(4)).tolist()) for seed in range(4800)
    )
    assert len(seen) == 24
    expected = 4800 / 24
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 49.7  # p = 0.001
