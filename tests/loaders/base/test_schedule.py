"""Work is scheduled in order, a bounded number of parts ahead, and leaves no thread behind."""

import threading

import pytest
from feedrate.loaders.base import schedule
from feedrate.loaders.base.schedule import ThreadScheduler, map_waiting, ordered_map, split

PATIENCE_S = 30  # what opens at all opens at once; this only ends a failing test


def ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("feedrate_")]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("prefetch", [0, 2, 100])
def test_results_come_in_the_order_of_the_parts(num_workers, prefetch):
    parts = list(range(20))
    assert ThreadScheduler(num_workers, prefetch).run(parts, str) == [str(part) for part in parts]
    assert ThreadScheduler(num_workers, prefetch).run([], str) == []
    assert ours() == []


def test_a_late_part_waits_for_those_before_it():
    second_done = threading.Event()

    def work(part):
        if part == 1:
            assert second_done.wait(PATIENCE_S)
        else:
            second_done.set()
        return part

    assert list(ordered_map(work, [1, 2], 2, 0)) == [1, 2]


@pytest.mark.parametrize(("num_workers", "prefetch"), [(1, 0), (2, 0), (2, 3), (1, 5)])
def test_no_more_parts_are_under_way_than_workers_and_prefetch_allow(num_workers, prefetch):
    begun = []
    taken = 0
    for result in ordered_map(str, _noted(range(30), begun), num_workers, prefetch):
        taken += 1
        assert result == str(taken - 1)
        assert len(begun) <= taken + num_workers + prefetch - 1
    assert len(begun) == taken == 30


def _noted(parts, begun):
    for part in parts:
        begun.append(part)
        yield part


def test_without_workers_the_caller_does_each_part_when_it_is_asked_for():
    begun = []
    threads = set()

    def work(part):
        threads.add(threading.current_thread())
        return part

    results = ordered_map(work, _noted(range(5), begun), 0, 10)
    assert begun == []
    for number in range(5):
        assert next(results) == number
        assert begun == list(range(number + 1))
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_as_many_parts_are_in_work_as_there_are_workers(num_workers):
    together = threading.Barrier(num_workers)

    def work(part):
        together.wait(PATIENCE_S)  # opens only when so many parts are in work at once
        return part

    parts = list(range(num_workers * 3))
    assert ThreadScheduler(num_workers).run(parts, work) == parts


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_the_first_failure_in_the_parts_order_is_raised_as_it_is(num_workers):
    class OwnError(Exception):
        pass

    def work(part):
        if part >= 5:
            raise OwnError(part)
        return part

    with pytest.raises(OwnError) as caught:
        ThreadScheduler(num_workers, 4).run(range(100), work)
    assert caught.value.args == (5,)
    assert ours() == []


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_results_before_a_failure_are_delivered(num_workers):
    results = ordered_map(lambda part: 6 // part, [3, 2, 1, 0, 1], num_workers, 2)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_after_a_failure_parts_that_were_not_begun_are_left():
    begun = []

    def work(part):
        begun.append(part)
        raise ValueError(part)

    with pytest.raises(ValueError, match="0"):
        ThreadScheduler(1, 2).run(range(100), work)
    assert len(begun) <= 3


def test_a_consumer_that_stops_early_leaves_no_thread():
    begun = []
    results = ordered_map(str, _noted(range(100), begun), 2, 2)
    assert next(results) == "0"
    results.close()
    assert ours() == []
    assert len(begun) <= 4


def test_a_generator_that_was_never_begun_starts_no_thread():
    ordered_map(str, range(5), 4, 4)
    assert ours() == []


@pytest.mark.parametrize(
    ("count", "parts", "lengths"),
    [(0, 3, []), (1, 3, [1]), (5, 2, [2, 3]), (6, 3, [2, 2, 2]), (7, 3, [2, 2, 3]), (3, 1, [3])],
)
def test_parts_are_contiguous_nearly_equal_and_never_empty(count, parts, lengths):
    items = list(range(count))
    made = split(items, parts)
    assert [len(part) for part in made] == lengths
    assert [item for part in made for item in part] == items


def _threads_of(work, items, num_workers):
    """The results of work, and the names of the threads that did it."""
    seen = []

    def noted(item):
        seen.append(threading.current_thread().name)
        return work(item)

    return list(map_waiting(noted, items, num_workers)), seen


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, schedule.TRIED, schedule.TRIED + 1, 500])
def test_work_that_does_not_wait_stays_in_the_callers_thread(num_workers, count, monkeypatch):
    monkeypatch.setattr(schedule, "WAITS_S", 60)
    found, seen = _threads_of(str, range(count), num_workers)
    assert found == [str(item) for item in range(count)]
    assert set(seen) <= {threading.current_thread().name}


@pytest.mark.parametrize("count", [schedule.TRIED, schedule.TRIED + 1, 100, 500])
def test_work_that_waits_goes_to_threads_and_comes_in_order(count, monkeypatch):
    monkeypatch.setattr(schedule, "WAITS_S", 0)
    found, seen = _threads_of(str, range(count), 3)
    assert found == [str(item) for item in range(count)]
    others = [name for name in seen if name.startswith("feedrate")]
    assert len(others) == count - schedule.TRIED
    assert ours() == []


def test_one_quick_piece_of_work_shows_that_the_others_need_not_wait(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(schedule.time, "perf_counter", lambda: clock[0])

    def work(item):
        clock[0] += item != 4

    _, seen = _threads_of(work, range(20), 3)
    assert set(seen) == {threading.current_thread().name}


def test_without_workers_waiting_work_stays_in_the_callers_thread(monkeypatch):
    monkeypatch.setattr(schedule, "WAITS_S", 0)
    _, seen = _threads_of(str, range(20), 0)
    assert set(seen) == {threading.current_thread().name}


def test_parts_that_are_still_being_made_are_given_up_before_threads_are_waited_for():
    released = threading.Event()

    def making():
        try:
            yield from range(100)
        finally:
            released.set()

    def work(part):
        if part == 0:
            raise ValueError(part)
        assert released.wait(PATIENCE_S)

    with pytest.raises(ValueError, match="0"):
        list(ordered_map(work, making(), 2, 2))
