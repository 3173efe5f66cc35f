"""Work done ahead with the caller's help, and batches cut from what it gives."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from feedrate.loaders.pytorch.ahead import helped_map
from feedrate.loaders.pytorch.batches import RUN_BATCHES, batches_of, runs

from .torch_rows import feeding_threads


@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_results_come_in_order_whoever_makes_them(num_workers, prefetch):
    assert list(helped_map(lambda x: -x, range(100), num_workers, prefetch)) == [
        -number for number in range(100)
    ]
    assert list(helped_map(abs, [], num_workers, prefetch)) == []
    assert feeding_threads() == []


def test_a_caller_that_would_wait_works_itself():
    here = threading.get_ident()
    done_here = threading.Event()
    workers = set()

    def work(part):
        if threading.get_ident() == here:
            done_here.set()
        else:
            workers.add(threading.get_ident())
            assert done_here.wait(10)  # the thread goes on only after the caller has helped
        return part

    assert list(helped_map(work, range(5), 1, 2)) == list(range(5))
    assert len(workers) == 1


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_something_beside_is_done_once_by_a_thread_and_gives_no_result(num_workers):
    doing = []

    def beside():
        doing.append(threading.current_thread().name)
        raise OSError("of no interest to the results")

    results = helped_map(abs, range(20), num_workers, 1, (10, beside))
    assert [next(results) for _ in range(5)] == list(range(5))
    assert doing == []
    assert list(results) == list(range(5, 20))
    assert len(doing) == (num_workers > 0)
    assert all(name.startswith("feedrate_") for name in doing)


def test_no_more_is_under_way_than_was_asked_for():
    taken = []

    def parts():
        for number in range(50):
            taken.append(number)
            yield number

    for got, _ in enumerate(helped_map(abs, parts(), 2, 3)):
        assert len(taken) <= got + 2 + 3


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_an_error_is_raised_when_its_turn_comes_and_stops_the_rest(num_workers):
    done = []

    def work(part):
        if part == 7:
            raise ValueError("seven")
        done.append(part)
        return part

    results = helped_map(work, range(1000), num_workers, 2)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="seven"):
        next(results)
    assert len(done) < 20
    assert feeding_threads() == []


def test_what_is_done_to_one_batch_never_reaches_another():
    rows = torch.arange(12.0).reshape(6, 2)
    (run,) = runs([(rows,)], 2, drop_last=False)
    first, second, third = batches_of(run)
    weight = torch.ones(2, requires_grad=True)
    first.mul_(weight)
    assert first.requires_grad
    assert not second.requires_grad
    third.requires_grad_()
    (third * 2).sum().backward()
    assert torch.equal(third.grad, torch.full((2, 2), 2.0))
    first.sum().backward()
    assert torch.equal(weight.grad, torch.tensor([2.0, 4.0]))


def test_small_batches_do_not_set_the_garbage_collector_off():
    chunks = [(torch.zeros(20_000, 2), torch.zeros(20_000)) for _ in range(3)]
    gc.collect()
    before = gc.get_stats()[0]["collections"]
    count = 0
    for run in runs(iter(chunks), 8, drop_last=False):
        assert len(run[0]) <= RUN_BATCHES
        for _ in batches_of(run):
            count += 1
        del run
    assert count == 3 * 2500
    assert gc.get_stats()[0]["collections"] - before <= 3


def test_chunks_of_any_length_make_whole_batches():
    for lengths in ([5, 1, 1, 30], [3] * 7, [2000], [0, 4, 0, 4], []):
        total = sum(lengths)
        chunks = [(part,) for part in torch.arange(total).split(lengths)] if lengths else []
        for size in (1, 4, 7):
            for drop_last in (True, False):
                batches = [x for run in runs(chunks, size, drop_last) for x in batches_of(run)]
                kept = total // size * size if drop_last else total
                assert [len(x) for x in batches] == [size] * (kept // size) + [kept % size] * bool(
                    kept % size
                )
                assert torch.equal(torch.cat([*batches, torch.arange(0)]), torch.arange(kept))


@pytest.mark.parametrize(("num_workers", "threads"), [(1, 1), (2, 1), (4, 3)])
def test_there_are_as_many_threads_as_workers_besides_the_caller_but_at_least_one(
    num_workers, threads
):
    here = threading.get_ident()
    found = set()
    together = threading.Barrier(threads + 1)

    def work(part):
        found.add(threading.get_ident())
        if part <= threads:  # one part for each thread and one for the caller, all at once
            together.wait(10)
        return part

    assert list(helped_map(work, range(50), num_workers, 3)) == list(range(50))
    assert here in found
    assert len(found) == threads + 1


def test_an_interrupt_in_a_part_done_ahead_of_its_turn_comes_out_at_once():
    here = threading.get_ident()
    begun, interrupted = threading.Event(), threading.Event()

    def parts():
        yield 0
        assert begun.wait(10)  # so that the caller finds the first part in work elsewhere
        yield from (1, 2)

    def work(part):
        if threading.get_ident() == here:
            interrupted.set()
            raise KeyboardInterrupt
        begun.set()
        assert interrupted.wait(10)
        return part

    results = helped_map(work, parts(), 1, 2)
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert feeding_threads() == []
