"""An epoch's order is a permutation of its own, and is drawn while the one before is gathered."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from feedrate.loaders import LoaderSettings, PyTorchDataLoader
from feedrate.loaders.pytorch import orders as torch_orders
from feedrate.loaders.pytorch.orders import Orders, Visits
from feedrate.loaders.training.epochs import Order

from .torch_rows import dataset_of, pickled, rows_of

ROWS = 10_007


def shuffled(**changes):
    """A loader of rows in memory, which are gathered in nine chunks."""
    settings = LoaderSettings(**{"num_workers": 2, "batch_size": 10, "seed": 1, **changes})
    loader = PyTorchDataLoader.from_settings(settings)
    return loader.create_dataloader(dataset_of("frame"), shuffle=changes.get("shuffle", True))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr("feedrate.loaders.pytorch.memory_rows.CHUNK_BYTES", 500)


@pytest.fixture
def drawn(monkeypatch):
    """The epochs whose permutations were drawn, and in which thread."""
    found = []
    draw = torch_orders._permutation

    def counted(order, rows):
        found.append((order.epoch, threading.current_thread().name))
        return draw(order, rows)

    monkeypatch.setattr(torch_orders, "_permutation", counted)
    return found


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


def test_numbers_beyond_32_bits_are_not_cut(monkeypatch):
    monkeypatch.setattr(torch_orders, "INT32_ROWS", ROWS)
    assert Visits(Order(True, 1), ROWS - 1).at(range(5)).dtype == np.int32
    wide = Visits(Order(True, 1), ROWS).at(range(ROWS))
    assert wide.dtype == np.int64
    assert np.array_equal(np.sort(wide), np.arange(ROWS))


def test_threads_that_need_the_order_at_once_draw_it_once(drawn):
    visits = Visits(Order(True, 1), ROWS)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visits.at, [range(low, low + 100) for low in range(0, ROWS, 100)]))
    assert len(drawn) == 1


def test_what_was_drawn_ahead_is_used_for_that_epoch_alone(drawn):
    orders = Orders(ROWS)
    orders.draw_ahead(Visits(Order(True, 1, 4), ROWS))
    other = orders.visits(Order(True, 2, 5)).at(range(ROWS))
    orders.draw_ahead(Visits(Order(True, 1, 4), ROWS))
    following = orders.visits(Order(True, 1, 5)).at(range(ROWS))
    again = orders.visits(Order(True, 1, 5)).at(range(ROWS))
    assert [epoch for epoch, _ in drawn] == [5, 5, 5, 5]
    assert np.array_equal(following, again)
    assert not np.array_equal(following, other)


def test_the_next_epochs_order_is_drawn_by_a_thread_once_half_of_an_epoch_is_under_way(drawn):
    loader = shuffled()
    batches = iter(loader)
    next(batches)
    assert [epoch for epoch, _ in drawn] == [0]
    list(batches)
    assert [epoch for epoch, _ in drawn] == [0, 1]
    assert drawn[1][1].startswith("feedrate")
    rows = rows_of(loader)
    assert [epoch for epoch, _ in drawn] == [0, 1, 2]
    loader.set_epoch(1)  # which was not the one drawn ahead
    assert rows_of(loader) == rows
    assert [epoch for epoch, _ in drawn] == [0, 1, 2, 1, 2]


def test_a_dataset_can_be_sent_elsewhere_with_an_order_drawn_ahead():
    loader = shuffled()
    first, second = rows_of(loader), rows_of(loader)
    copy = pickled(loader.dataset)
    settings = LoaderSettings(num_workers=0, batch_size=10, seed=1)
    there = PyTorchDataLoader.from_settings(settings).create_dataloader(copy)
    assert [rows_of(there), rows_of(there)] == [first, second]


@pytest.mark.parametrize("changes", [{"num_workers": 0}, {"num_workers": 2, "shuffle": False}])
def test_nothing_is_drawn_ahead_without_threads_or_shuffling(drawn, changes):
    list(shuffled(**changes))
    assert [epoch for epoch, _ in drawn] == ([0] if changes.get("shuffle", True) else [])


def test_an_order_that_could_not_be_drawn_ahead_is_drawn_when_its_epoch_begins(monkeypatch):
    draw = torch_orders._permutation
    failed = []

    def scarce(order, rows):
        if threading.current_thread() is not threading.main_thread() and order.epoch == 1:
            failed.append(order.epoch)
            raise MemoryError
        return draw(order, rows)

    loader = shuffled(num_workers=1)
    first, second = rows_of(loader), rows_of(loader)
    monkeypatch.setattr(torch_orders, "_permutation", scarce)
    loader = shuffled(num_workers=1)
    assert rows_of(loader) == first
    assert failed == [1]
    monkeypatch.undo()
    assert rows_of(loader) == second
