"""Work that waits for a network: in order, within a bound, and no more once nobody waits."""

import threading
import time

import pytest
from feedrate.loaders.remote.ahead import RequestPool, map_ahead, map_paths
from feedrate.loaders.remote.source import source_of_version
from feedrate.loaders.remote.window import Wanted, Window

PATIENCE_S = 30  # this only ends a failing test


def test_results_come_in_order_whatever_is_ready_first():
    def work(number):
        time.sleep(0.002 * (number % 5))
        return number * 10

    for threads in (1, 3, 40):
        found = list(map_ahead(work, range(40), threads, lambda _: 1, 1000))
        assert found == [number * 10 for number in range(40)]


@pytest.mark.parametrize("most", [1, 10, 25])
def test_no_more_bytes_are_begun_than_allowed_but_always_one_item(most):
    lock = threading.Lock()
    begun = []

    def work(number):
        with lock:
            begun.append(number)
        return number

    taken = 0
    for _ in map_ahead(work, range(30), 8, lambda _: 10, most):
        taken += 1
        time.sleep(0.001)
        with lock:
            assert len(begun) - (taken - 1) <= max(1, most // 10)
    assert taken == 30


def test_items_are_taken_as_they_are_needed():
    made = []

    def items():
        for number in range(1000):
            made.append(number)
            yield number

    results = map_ahead(lambda number: number, items(), 4, lambda _: 0, 1)
    assert next(results) == 0
    assert len(made) <= 3 * 4 + 1
    results.close()
    assert len(made) <= 3 * 4 + 1


def test_an_error_comes_in_its_place_and_ends_the_work():
    done = []

    def work(number):
        if number == 3:
            raise ValueError(number)
        done.append(number)
        return number

    results = map_ahead(work, range(1000), 2, lambda _: 0, 1)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert max(done) < 20


def test_closing_early_begins_nothing_more_and_leaves_no_thread():
    before = set(threading.enumerate())
    done = []
    results = map_ahead(done.append, range(1000), 3, lambda _: 0, 1)
    next(results)
    results.close()
    assert len(done) <= 3 * 3
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_nothing_gives_nothing():
    assert list(map_ahead(str, [], 4, lambda _: 0, 1)) == []


def test_files_use_workers_and_objects_requests():
    names = set()

    def work(path):
        names.add(threading.current_thread().name.rpartition("_")[0])
        return path

    files = ["a", "b", "c"]
    assert list(map_paths(work, files, 2)) == files
    assert "feedrate-request" not in names
    mixed = ["a", "s3://bucket/b", "c"]
    names.clear()
    assert list(map_paths(work, mixed, 0)) == mixed
    assert names == {"feedrate-request"}


def test_windows_share_a_bound_and_pass_on_what_is_left():
    begun = []

    def wanted(number):
        def plan():
            begun.append(number)
            return source_of_version("s3://bucket/key", 60, "1"), []

        return Wanted(plan, 60)

    pool = RequestPool(4, ahead_bytes=130)
    windows = [Window(pool) for _ in range(5)]
    for number, window in enumerate(windows):
        window.add([wanted(number)])
    assert pool.waiting_bytes == 120
    for waiting, window in zip((2, 2, 2, 1, 0), windows, strict=True):
        assert window.take(0) is not None
        assert pool.waiting_bytes == 60 * waiting
        assert window.take(0) is None
    assert sorted(begun) == [0, 1, 2, 3, 4]
    pool.close()
