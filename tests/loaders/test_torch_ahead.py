"""Work done ahead with the caller's help, and memory that is used again."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from feedrate.loaders.memory_rows import MatrixRows
from feedrate.loaders.torch_ahead import helped_map
from feedrate.loaders.torch_buffers import KEPT, Buffers

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


def test_memory_comes_back_when_nothing_of_it_is_held():
    buffers = Buffers([np.empty((0, 3), np.float32), np.empty(0, np.float32)])
    x, y = buffers.lend(10)
    address = x.ctypes.data
    assert (x.shape, y.shape, x.dtype) == ((10, 3), (10,), np.float32)
    del x, y
    for rows in (10, 4):  # less fits too
        x, y = buffers.lend(rows)
        assert x.ctypes.data == address
        del x, y
    x, _ = buffers.lend(11)
    assert x.shape == (11, 3)


@pytest.mark.parametrize(
    "view",
    [
        lambda x, _: x,
        lambda _, y: y,
        lambda x, _: x[2:4][0],
        lambda x, _: x.unsafe_split(2)[-1],
        lambda x, _: x.detach().numpy()[1:],
        lambda x, _: memoryview(x.numpy()),
        lambda x, _: x.view(torch.int32).T,
        lambda x, _: x.untyped_storage(),
        lambda x, _: torch.utils.dlpack.from_dlpack(x),
        lambda x, _: (x.requires_grad_() * 2).grad_fn,
        lambda x, _: torch.mul(x, torch.ones(3, requires_grad=True)),
    ],
)
def test_memory_of_which_any_view_is_held_is_left_alone(view):
    source = np.arange(30, dtype=np.float32).reshape(10, 3)
    rows = MatrixRows((source, source[:, 0].copy()))
    x, y = rows.gathered(np.arange(10))
    addresses = {x.data_ptr()}
    held = view(x, y)
    del x, y
    for _ in range(3 * KEPT):
        x, y = rows.gathered(np.arange(10))
        addresses.add(x.data_ptr())
        del x, y
    assert len(addresses) == 2  # one is held, the other used again and again
    del held
    assert rows.gathered(np.arange(10))[0].data_ptr() in addresses


def test_a_consumer_that_holds_everything_gets_fresh_memory():
    source = np.arange(30, dtype=np.float32).reshape(10, 3)
    rows = MatrixRows((source,))
    held = [rows.gathered(np.array([number % 10]))[0] for number in range(5 * KEPT)]
    assert len({tensor.data_ptr() for tensor in held}) == 5 * KEPT
    assert [int(tensor[0, 0]) // 3 for tensor in held] == [n % 10 for n in range(5 * KEPT)]


def test_what_is_done_to_one_batch_never_reaches_another():
    rows = torch.arange(12.0).reshape(6, 2)
    from feedrate.loaders.torch_batches import batches_of, runs

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
