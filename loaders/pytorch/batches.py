"""Cut chunks of tensors into batches."""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch  # noqa: TID253 - batches are tensors; only what has imported torch imports this

Tensors = tuple[torch.Tensor, ...]
"""X of shape (rows, features), and y of shape (rows,) or (rows, targets) with a target."""
Batch = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""X without a target, (X, y) with one."""
Run = tuple[Sequence[torch.Tensor], ...]
"""Consecutive batches: as many Xs as ys."""

# Batches whose views are made in one call. More at once trigger Python's garbage collector, which
# sometimes goes through all objects of the program: one in five epochs of 31,250 batches took
# 80 ms longer.
RUN_BATCHES = 128


class ChunkTransfer(Protocol):
    """Moves an epoch's chunks, such as to a device, before batches are cut."""

    chunk_bytes: int
    """Bytes of rows in memory to gather at a time, or fewer so that all workers gather."""

    def room(self, number: int, like: Tensors) -> Tensors:
        """Memory of the shapes and dtypes of `like`, into which a chunk may be gathered.

        Any thread may call it, once the previous chunk in the same room has been passed on.

        Args:
            number: the number of the room; its memory is reused for chunks that fit into it.
            like: tensors whose values do not matter.
        """

    def __call__(self, chunks: Iterable[Tensors]) -> Iterable[Tensors]:
        """The moved chunks, with the same rows in the same order."""


def as_tensors(arrays: Iterable[np.ndarray | torch.Tensor]) -> Tensors:
    """The same memory as tensors."""
    return tuple(torch.as_tensor(array) for array in arrays)


def as_batch(tensors: Tensors) -> Batch:
    """A batch in the form that is yielded."""
    return tensors[0] if len(tensors) == 1 else (tensors[0], tensors[1])


def mapped(batch: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A batch with `function` applied to each tensor in its tuples, lists and dictionaries."""
    if isinstance(batch, torch.Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: mapped(value, function) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(value, function) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(mapped(value, function) for value in batch)
    return batch


def runs(
    chunks: Iterable[Tensors],
    batch_size: int,
    drop_last: bool,
    pin: bool = False,
    transfer: ChunkTransfer | None = None,
) -> Iterator[Run]:
    """Cut chunks of any lengths into batches that are full, except perhaps the last.

    Batches are views: holding one keeps its whole chunk in memory.

    Args:
        chunks: the rows, in order; their memory must not be written to again.
        batch_size: rows of a batch.
        drop_last: leave out a last batch that is not full.
        pin: put the batches into page-locked memory, a chunk at a time; not with `transfer`.
        transfer: moves the chunks before they are cut, such as to a device.
    """
    held: list[Tensors] = []
    count = 0
    for fresh in chunks if transfer is None else transfer(chunks):
        chunk = pinned(fresh) if pin else fresh
        if held:
            missing = batch_size - count
            held.append(cut(chunk, 0, missing))
            count += len(held[-1][0])
            chunk = cut(chunk, missing, None)
            if count < batch_size:
                continue
            yield _alone(joined(held), pin)
            held, count = [], 0
        whole = len(chunk[0]) // batch_size * batch_size
        for low in range(0, whole, RUN_BATCHES * batch_size):
            high = min(whole, low + RUN_BATCHES * batch_size)
            yield _split(cut(chunk, low, high), batch_size)
        if whole < len(chunk[0]):
            held = [cut(chunk, whole, None)]
            count = len(held[0][0])
    if held and not drop_last:
        yield _alone(joined(held), pin)


def batches_of(run: Run) -> Iterator[Batch]:
    """The batches of a run, in the form that is yielded."""
    return iter(run[0]) if len(run) == 1 else zip(run[0], run[1], strict=True)


class Progress:
    """How many of an epoch's batches the consumer has received, counted at no cost per batch.

    Args:
        done: batches that count as received before the first.
        ended: called after the last batch of `count_runs` with the epoch's seconds, and the seconds
            of these that the consumer waited for batches.
    """

    def __init__(self, done: int = 0, ended: Callable[[float, float], None] | None = None) -> None:
        self._counted = done
        self._left: Iterator[Any] = iter(())
        self._ended = ended

    @property
    def batches(self) -> int:
        """Batches that the consumer has received."""
        return self._counted - operator.length_hint(self._left)

    def count_runs(self, source: Iterable[Run]) -> Generator[Batch, None, None]:
        """Yield and count the batches of runs."""
        start = asked = perf_counter()
        waited = 0.0
        for run in source:
            waited += perf_counter() - asked
            # The run's iterator knows how many batches are left: a counter in this loop would
            # slow every batch, and this loop is most of the time at small batches.
            first = iter(run[0])
            self._counted, self._left = self._counted + len(run[0]), first
            yield from first if len(run) == 1 else zip(first, run[1], strict=True)
            asked = perf_counter()
        if self._ended is not None:
            now = perf_counter()
            self._ended(now - start, waited + now - asked)

    def count_batches(self, source: Iterable[Any]) -> Generator[Any, None, None]:
        """Yield and count batches that come one by one."""
        for batch in source:
            self._counted += 1
            yield batch


def pinned(tensors: Tensors) -> Tensors:
    """Copies in page-locked memory, from which a GPU copies without staging."""
    return tuple(tensor.pin_memory() for tensor in tensors)


def cut(tensors: Tensors, low: int, high: int | None) -> Tensors:
    """Some of the rows, as views."""
    return tuple(tensor[low:high] for tensor in tensors)


def copied(tensors: Tensors) -> Tensors:
    """Copies of the rows."""
    return tuple(tensor.clone() for tensor in tensors)


def joined(parts: Sequence[Tensors]) -> Tensors:
    """The parts concatenated; the same memory if there is one part."""
    return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))


def _split(tensors: Tensors, batch_size: int) -> Run:
    # One call makes all views. They are "unsafe" in that autograd does not know them as views,
    # so an in-place change of one batch never reaches another's graph; for the same reason they
    # are made in 0.86 of the time.
    return tuple(tensor.unsafe_split(batch_size) for tensor in tensors)


def _alone(tensors: Tensors, pin: bool) -> Run:
    return tuple((tensor,) for tensor in (pinned(tensors) if pin else tensors))
