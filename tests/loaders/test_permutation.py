"""An epoch's order is a permutation of its own, and any part of it can be had alone."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from feedrate.loaders.epochs import Order
from feedrate.loaders.permutation import Visits

ROWS = 10_007


def test_all_rows_come_once_and_another_epoch_has_another_order():
    orders = [Visits(Order(True, 3, epoch), ROWS).at(range(ROWS)) for epoch in (0, 1, 0)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(ROWS))
    assert np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[1])
    assert np.mean(orders[0] == np.arange(ROWS)) < 0.01


@pytest.mark.parametrize("rows", [0, 1, ROWS])
@pytest.mark.parametrize("shuffle", [True, False])
def test_parts_are_those_of_the_whole_in_whatever_order_they_are_asked_for(rows, shuffle):
    order = Order(shuffle, 5)
    whole = Visits(order, rows).at(range(rows))
    assert len(whole) == rows
    visits = Visits(order, rows)
    for start, stop, step in itertools.product((0, 7, rows // 2), (rows // 3, rows), (1, 3, 5000)):
        assert visits.at(range(start, stop, step)).tolist() == whole[start:stop:step].tolist()


def test_threads_that_need_the_order_at_once_draw_it_once():
    drawn = []

    class Counted(Order):
        def permutation(self, rows, *key):
            drawn.append(rows)
            return super().permutation(rows, *key)

    visits = Visits(Counted(True, 1), ROWS)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visits.at, [range(low, low + 100) for low in range(0, ROWS, 100)]))
    assert drawn == [ROWS]
