"""Cut chunks of tensors into batches."""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch  # noqa: TID253 - imported only by modules that use torch

Tensors = tuple[torch.Tensor, ...]
"""X of shape (rows, features), and y of shape (rows,) or (rows, targets) with a target."""
Batch = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""X without a target, (X, y) with one."""
Run = tuple[Sequence[torch.Tensor], ...]
"""Consecutive batches: as many Xs as ys."""

# Batches whose views are made in one call. With more, Python's garbage collector runs and sometimes
# scans all objects of the program: one in five epochs of 31,250 batches took 80 ms longer.
RUN_BATCHES = 128


class ChunkTransfer(Protocol):
    """Moves an epoch's chunks, such as to a device, before batches are cut."""

    chunk_bytes: int
    """Bytes of rows in memory to gather at a time; fewer if a worker would have no rows."""

    def room(self, number: int, like: Tensors) -> Tensors:
        """A buffer to gather a chunk into, of the shapes and dtypes of `like`.

        Any thread may call it, once the previous chunk in the same buffer has been passed on.

        Args:
            number: the buffer's number; its memory is reused for chunks that fit into it.
            like: tensors whose values are not used.
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
    leftover: list[Tensors] = []
    count = 0
    for source in chunks if transfer is None else transfer(chunks):
        chunk = pinned(source) if pin else source
        if leftover:
            missing = batch_size - count
            leftover.append(cut(chunk, 0, missing))
            count += len(leftover[-1][0])
            chunk = cut(chunk, missing, None)
            if count < batch_size:
                continue
            yield _run_of_one(joined(leftover), pin)
            leftover, count = [], 0
        full_rows = len(chunk[0]) // batch_size * batch_size
        for low in range(0, full_rows, RUN_BATCHES * batch_size):
            high = min(full_rows, low + RUN_BATCHES * batch_size)
            yield _split(cut(chunk, low, high), batch_size)
        if full_rows < len(chunk[0]):
            leftover = [cut(chunk, full_rows, None)]
            count = len(leftover[0][0])
    if leftover and not drop_last:
        yield _run_of_one(joined(leftover), pin)


def batches_of(run: Run) -> Iterator[Batch]:
    """The batches of a run, in the form that is yielded."""
    return iter(run[0]) if len(run) == 1 else zip(run[0], run[1], strict=True)


class Progress:
    """Count the batches of an epoch that the consumer has received, at no cost per batch."""

    def __init__(self) -> None:
        self._handed_out = 0
        self._run: Iterator[Any] = iter(())
        self._ended: Callable[[float, float], None] | None = None

    def begin(self, done: int, ended: Callable[[float, float], None] | None) -> None:
        """Start, before the first batch.

        Args:
            done: batches received before the first one here.
            ended: called after the last batch of `count_runs` with the epoch's seconds, and those
                of them that the consumer waited for batches.
        """
        self._handed_out, self._ended = done, ended

    @property
    def batches(self) -> int:
        """Batches that the consumer has received."""
        return self._handed_out - operator.length_hint(self._run)

    def count_runs(self, source: Iterable[Run]) -> Generator[Batch, None, None]:
        """Yield and count the batches of runs."""
        start = wait_start = perf_counter()
        waited = 0.0
        for run in source:
            waited += perf_counter() - wait_start
            # The run's iterator knows how many batches are left. A counter in this loop would slow
            # every batch, and with small batches most of the time is spent here.
            features = iter(run[0])
            self._handed_out, self._run = self._handed_out + len(run[0]), features
            yield from features if len(run) == 1 else zip(features, run[1], strict=True)
            wait_start = perf_counter()
        if self._ended is not None:
            now = perf_counter()
            self._ended(now - start, waited + now - wait_start)

    def count_batches(self, source: Iterable[Any]) -> Generator[Any, None, None]:
        """Yield and count batches that come one by one."""
        for batch in source:
            self._handed_out += 1
            yield batch


def pinned(tensors: Tensors) -> Tensors:
    """Copies in page-locked memory, from which a GPU copies without staging."""
    return tuple(tensor.pin_memory() for tensor in tensors)


def cut(tensors: Tensors, low: int, high: int | None) -> Tensors:
    """Views of the rows from `low` up to `high`."""
    return tuple(tensor[low:high] for tensor in tensors)


def copied(tensors: Tensors) -> Tensors:
    """Copies of the rows."""
    return tuple(tensor.clone() for tensor in tensors)


def joined(parts: Sequence[Tensors]) -> Tensors:
    """The parts concatenated; the same memory if there is one part."""
    return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))


def _split(tensors: Tensors, batch_size: int) -> Run:
    # One call makes all views. "Unsafe": autograd does not know that they are views, so an in-place
    # change of one batch never reaches another's graph, and making them takes 0.86 of the time.
    return tuple(tensor.unsafe_split(batch_size) for tensor in tensors)


def _run_of_one(tensors: Tensors, pin: bool) -> Run:
    return tuple((tensor,) for tensor in (pinned(tensors) if pin else tensors))
