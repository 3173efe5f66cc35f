"""The batches job in PyTorch: epochs of shuffled batches of a matrix in memory."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from . import requirements as names
from .data import FEATURES, TARGET, Setup, expect_rows, matrix_arrays, matrix_frame
from .interleave import Comparison, Prepared, Side

SIZES = (32, 256, 1024)


def epoch(batches: Iterable[Any]) -> Iterable[Any]:
    """Iterate over an epoch as a training loop does; return the batches for the next epoch."""
    for _x, _y in batches:
        pass
    return batches


def plain_loader(size: int, *, pin_memory: bool = False) -> Any:
    """The plain idiom."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    x, y = map(torch.from_numpy, matrix_arrays())
    return DataLoader(TensorDataset(x, y), batch_size=size, shuffle=True, pin_memory=pin_memory)


def our_loader(size: int) -> Any:
    """Ours, with the default settings, whose number of workers follows the CPUs."""
    from feedrate.loaders import LoaderSettings, PyTorchDataLoader

    loader = PyTorchDataLoader.from_settings(LoaderSettings(backend="pytorch"))
    dataset = loader.create_dataset_from_dataframe(matrix_frame(), list(FEATURES), TARGET)
    return loader.create_dataloader(dataset, batch_size=size, shuffle=True)


def numpy_gather() -> Side:
    """Gather all rows once in random order, into a reused buffer."""
    x, y = matrix_arrays()
    order = np.random.default_rng(1).permutation(len(x))
    into_x, into_y = np.empty_like(x), np.empty_like(y)

    def gather() -> None:
        # With mode='raise', numpy would first gather into a copy of the buffer.
        np.take(x, order, axis=0, out=into_x, mode="clip")
        np.take(y, order, out=into_y, mode="clip")

    return Side(gather)


def torch_gather() -> Side:
    """Gather all rows by torch, in its own threads."""
    import torch

    x, y = map(torch.from_numpy, matrix_arrays())
    order = torch.randperm(len(x))
    into_x, into_y = torch.empty_like(x), torch.empty_like(y)

    def gather() -> None:
        torch.index_select(x, 0, order, out=into_x)
        torch.index_select(y, 0, order, out=into_y)

    return Side(gather)


def _prepare(size: int, setup: Setup) -> Prepared:
    del setup  # the matrix needs no files
    x, y = matrix_arrays()
    check = expect_rows([(x, y)], len(x))
    plain, ours = plain_loader(size), our_loader(size)
    sides = {
        names.TORCH_PLAIN: Side(lambda: epoch(plain), check),
        names.PYTORCH: Side(lambda: epoch(ours), check),
    }
    return Prepared(sides)


def _prepare_gather(size: int, setup: Setup) -> Prepared:
    del setup
    x, y = matrix_arrays()
    ours = our_loader(size)
    sides = {
        names.PYTORCH: Side(lambda: epoch(ours), expect_rows([(x, y)], len(x))),
        names.GATHERS[0]: numpy_gather(),
        names.GATHERS[1]: torch_gather(),
    }
    return Prepared(sides)


COMPARISONS = tuple(
    comparison
    for size in SIZES
    for comparison in (
        Comparison(
            f"torch-batches-{size}",
            f"batches of {size}, shuffled, PyTorch",
            (names.TORCH_PLAIN, names.PYTORCH),
            rounds=5,
            prepare=functools.partial(_prepare, size),
        ),
        Comparison(
            f"torch-gather-{size}",
            f"batches of {size}, shuffled, PyTorch, beside one gather",
            (names.PYTORCH, *names.GATHERS),
            rounds=15,
            prepare=functools.partial(_prepare_gather, size),
        ),
    )
)
