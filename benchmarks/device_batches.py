"""The batches job on a GPU: epochs of shuffled batches, copied to the GPU and trained on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from feedrate.harness.trial.consumer import HIDDEN

from . import requirements as names
from .data import FEATURES, Setup, expect_rows, matrix_arrays
from .interleave import Comparison, Prepared, Side, UnavailableError
from .torch_batches import our_loader, plain_loader

TRAINED_SIZE = 1024

Step = Callable[[Any, Any], None]


class _Copied:
    """Batches on the GPU, each copied when it is needed, as in the plain idiom."""

    def __init__(self, batches: Iterable[Any], *, non_blocking: bool) -> None:
        self._batches, self._non_blocking = batches, non_blocking

    def __iter__(self) -> Iterator[Any]:
        for x, y in self._batches:
            yield tuple(part.to("cuda", non_blocking=self._non_blocking) for part in (x, y))


class _Back:
    """Batches copied back to the host's memory, so that their rows can be compared."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        for x, y in self._batches:
            yield x.cpu(), y.cpu()


def _ways(size: int) -> dict[str, Iterable[Any]]:
    """Batches on the GPU by the plain idioms and by ours, all of the same rows."""
    from feedrate.loaders import PyTorchDataLoader

    return {
        names.TORCH_PLAIN: _Copied(plain_loader(size), non_blocking=False),
        names.TORCH_PINNED: _Copied(plain_loader(size, pin_memory=True), non_blocking=True),
        names.COPIED: _Copied(our_loader(size), non_blocking=False),
        names.TO_DEVICE: PyTorchDataLoader.to_device(our_loader(size), "cuda"),
    }


SIDES = (names.TORCH_PLAIN, names.TORCH_PINNED, names.COPIED, names.TO_DEVICE)


def _epoch(batches: Iterable[Any], step: Step | None) -> Iterable[Any]:
    """Run an epoch until the GPU has finished it; return the batches for the next epoch."""
    import torch

    for x, y in batches:
        if step is not None:
            step(x, y)
    torch.cuda.synchronize()
    return batches


def _training_step() -> Step:
    """A step of SGD on a perceptron with two hidden layers, on the GPU."""
    import torch
    from torch import nn

    model: Any = nn.Sequential(
        nn.Linear(len(FEATURES), HIDDEN), nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1),
    ).cuda()  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step(x: Any, y: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.mse_loss(model(x).squeeze(-1), y).backward()
        optimizer.step()

    return step


def _one_copy() -> Side:
    """Copy all rows at once from pinned memory, without order and batches."""
    import torch

    sources = [torch.from_numpy(part).pin_memory() for part in matrix_arrays()]
    targets = [torch.empty_like(part, device="cuda") for part in sources]

    def copy() -> None:
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()

    return Side(copy)


def _copy_loop(size: int) -> Side:
    """Copy batches one by one from pinned memory, without gathering rows."""
    import torch

    sources = [torch.from_numpy(part).pin_memory() for part in matrix_arrays()]
    targets = [torch.empty_like(part, device="cuda") for part in sources]
    batches = [
        tuple(zip(source.split(size), target.split(size), strict=True))
        for source, target in zip(sources, targets, strict=True)
    ]

    def copy() -> None:
        for parts in zip(*batches, strict=True):
            for source, target in parts:
                target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()

    return Side(copy)


def _steps_alone(size: int, step: Step) -> Side:
    """Repeat the step on one batch that is already on the GPU."""
    import torch

    x, y = (torch.from_numpy(part[:size]).cuda() for part in matrix_arrays())
    count = -(-len(matrix_arrays()[1]) // size)

    def steps() -> None:
        for _ in range(count):
            step(x, y)
        torch.cuda.synchronize()

    return Side(steps)


def _prepare(size: int, trained: bool, setup: Setup) -> Prepared:
    del setup  # the matrix needs no files
    import torch

    if not torch.cuda.is_available():
        raise UnavailableError("needs a CUDA device")
    x, y = matrix_arrays()
    check = expect_rows([(x, y)], len(x))
    step = _training_step() if trained else None
    sides = {
        name: Side(functools.partial(_epoch, batches, step), lambda got: check(_Back(got)))
        for name, batches in _ways(size).items()
    }
    if step is not None:
        return Prepared(sides | {names.STEPS_ALONE: _steps_alone(size, step)})
    return Prepared(sides | {names.COPY_LOOP: _copy_loop(size), names.ONE_COPY: _one_copy()})


COMPARISONS = (
    *(
        Comparison(
            f"device-batches-{size}",
            f"batches of {size}, shuffled, to a GPU",
            (*SIDES, names.COPY_LOOP, names.ONE_COPY),
            rounds=5,
            prepare=functools.partial(_prepare, size, False),
        )
        for size in names.DEVICE_SIZES
    ),
    Comparison(
        "device-training",
        f"batches of {TRAINED_SIZE}, shuffled, to a GPU that trains on them",
        (*SIDES, names.STEPS_ALONE),
        rounds=5,
        prepare=functools.partial(_prepare, TRAINED_SIZE, True),
    ),
)
