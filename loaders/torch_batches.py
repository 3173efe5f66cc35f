"""Tensors in chunks to tensors in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch  # noqa: TID253 - batches are tensors; only what has imported torch imports this

Tensors = tuple[torch.Tensor, ...]
"""X of shape (rows, features), and y of shape (rows,) where there is a target; float32."""
Batch = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""X without a target, (X, y) with one."""


def as_tensors(arrays: Iterable[np.ndarray | torch.Tensor]) -> Tensors:
    """The same memory as tensors."""
    return tuple(torch.as_tensor(array) for array in arrays)


def as_batch(tensors: Tensors) -> Batch:
    """A batch as it is yielded."""
    return tensors[0] if len(tensors) == 1 else (tensors[0], tensors[1])


def rebatch(
    chunks: Iterable[Tensors], batch_size: int, drop_last: bool, pin: bool = False
) -> Iterator[Batch]:
    """Cut chunks of any lengths into batches that are full, except perhaps the last.

    Args:
        chunks: the rows, in order; never written to again by whoever made them, since batches
            are views of them.
        batch_size: rows of a batch.
        drop_last: leave out a last batch that is not full.
        pin: put the batches into page-locked memory, a chunk at a time.
    """
    held: list[Tensors] = []
    count = 0
    for fresh in chunks:
        chunk = pinned(fresh) if pin else fresh
        if held:
            missing = batch_size - count
            held.append(_cut(chunk, 0, missing))
            count += len(held[-1][0])
            chunk = _cut(chunk, missing, None)
            if count < batch_size:
                continue
            yield as_batch(_joined(held, pin))
            held, count = [], 0
        whole = len(chunk[0]) // batch_size * batch_size
        if whole:
            yield from _split(_cut(chunk, 0, whole), batch_size)
        if whole < len(chunk[0]):
            held = [_cut(chunk, whole, None)]
            count = len(held[0][0])
    if held and not drop_last:
        yield as_batch(_joined(held, pin))


def pinned(tensors: Tensors) -> Tensors:
    """Copies in page-locked memory, from which a GPU copies without staging."""
    return tuple(tensor.pin_memory() for tensor in tensors)


def _split(tensors: Tensors, batch_size: int) -> Iterator[Batch]:
    # One call makes all views; slicing in Python costs twice as much at small batch sizes.
    views = [tensor.view(-1, batch_size, *tensor.shape[1:]).unbind(0) for tensor in tensors]
    return iter(views[0]) if len(views) == 1 else zip(views[0], views[1], strict=True)


def _cut(tensors: Tensors, low: int, high: int | None) -> Tensors:
    return tuple(tensor[low:high] for tensor in tensors)


def _joined(parts: list[Tensors], pin: bool) -> Tensors:
    if len(parts) == 1:
        return parts[0]
    joined = tuple(map(torch.cat, zip(*parts, strict=True)))
    return pinned(joined) if pin else joined
