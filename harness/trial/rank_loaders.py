"""The loader of one rank: made by a factory, restarted for each epoch, resumed, wrapped."""

from __future__ import annotations

import inspect
import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...loaders.base.machine import is_installed
from ...loaders.base.settings import LoaderSettings
from ...loaders.choosing.custom import load_factory
from ...loaders.choosing.profile import Job
from .rank_rows import CannotVerifyError
from .work import Data

EXTRAS = ("rank", "world_size", "epoch")
"""Arguments that a factory gets if it names them."""
BUILT_IN = ("pytorch", "tensorflow")


@dataclass(frozen=True)
class RankOf:
    """A rank, and the number of ranks; both None if a wrapper divides the rows."""

    rank: int | None
    world_size: int | None


class Epochs(Protocol):
    """The epochs of a loader."""

    def prepare(self, epoch: int) -> None:
        """Make the loader for the first epoch, which may take long."""
        ...

    def begin(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch, or the rest of it after `load`."""
        ...

    def save(self, path: Path, steps: int) -> None:
        """Write the position after `steps` steps of the epoch; 0 at the start of the next one."""
        ...

    def load(self, path: Path) -> None:
        """Make the next `begin` continue from a position that `save` wrote."""
        ...


class LoaderEpochs:
    """The epochs of a loader as its factory returns it.

    Args:
        name: `pytorch`, `tensorflow`, or a function as `package.module:factory`.
        settings: of the loader.
        data: files and columns.
        job: `batches` or `stream`.
        rank: the share of the rows.
    """

    def __init__(
        self, name: str, settings: LoaderSettings, data: Data, job: Job, rank: RankOf
    ) -> None:
        self.name = name
        self._settings = settings
        self._data = data
        self._job: Job = job
        self._rank = rank
        self._loader: Any = None
        self._is_used_up = False
        self._state: Any = None

    def make(self, epoch: int) -> Any:
        """A new loader; random numbers of Python, numpy and torch start from the seed."""
        seed_all(self._settings.seed or 0)
        data = self._data
        arguments = (
            self._settings,
            data.first(len(data.paths)),
            list(data.features),
            data.target,
            self._job,
        )
        factory = _FACTORIES.get(self.name) or load_factory(self.name)
        values = {"rank": self._rank.rank, "world_size": self._rank.world_size, "epoch": epoch}
        batches = factory(*arguments, **{name: values[name] for name in _extras_of(factory)})
        if not hasattr(batches, "__iter__"):
            kind = "None" if batches is None else f"a {type(batches).__name__}"
            raise CannotVerifyError(
                f"{self.name} returned {kind}; it must return an iterable of batches"
            )
        return batches

    def prepare(self, epoch: int) -> None:
        """As `Epochs.prepare`."""
        self._loader, self._is_used_up = self.make(epoch), False

    def begin(self, epoch: int) -> Iterator[Any]:
        """As `Epochs.begin`. An iterator is used up after one epoch, and is then made anew."""
        if self._is_used_up:
            self.prepare(epoch)
        if self._state is not None:  # a training script loads it before its loop over epochs
            state, self._state = self._state, None
            self._stateful().load_state_dict(state)
        set_epoch(self._loader, epoch)
        batches: Iterator[Any] = iter(self._loader)
        self._is_used_up = batches is self._loader
        return batches

    def save(self, path: Path, steps: int) -> None:
        """As `Epochs.save`."""
        del steps  # the loader counts them itself
        path.write_bytes(pickle.dumps(self._stateful().state_dict()))

    def load(self, path: Path) -> None:
        """As `Epochs.load`. The file is one that another rank of this command has written."""
        self._state = pickle.loads(path.read_bytes())  # noqa: S301 - our own file

    def _stateful(self) -> Any:
        if not (hasattr(self._loader, "state_dict") and hasattr(self._loader, "load_state_dict")):
            raise CannotVerifyError(
                f"{self.name} returned a {type(self._loader).__name__} without state_dict() and "
                "load_state_dict(), so its position cannot be resumed; return an object that has "
                "them, such as torchdata's StatefulDataLoader, or verify without resume"
            )
        return self._loader


class AccelerateEpochs:
    """A loader that Accelerate divides among the ranks, and resumes by skipping batches.

    Args:
        epochs: of the loader, which does not divide its rows itself.
    """

    def __init__(self, epochs: LoaderEpochs) -> None:
        from accelerate import Accelerator

        self._accelerator = Accelerator(cpu=True)
        self._loader = self._accelerator.prepare(torch_loader(epochs, "accelerate"))
        self._skip = 0

    def prepare(self, epoch: int) -> None:
        """As `Epochs.prepare`; it is made."""

    def begin(self, epoch: int) -> Iterator[Any]:
        """As `Epochs.begin`."""
        set_epoch(self._loader, epoch)
        skip, self._skip = self._skip, 0
        if not skip:
            return iter(self._loader)
        rest = self._accelerator.skip_first_batches(self._loader, skip)
        set_epoch(rest, epoch)
        return iter(rest)

    def save(self, path: Path, steps: int) -> None:
        """As `Epochs.save`."""
        path.write_text(str(steps))

    def load(self, path: Path) -> None:
        """As `Epochs.load`."""
        self._skip = int(path.read_text())


def torch_loader(epochs: LoaderEpochs, wrapper: str) -> Any:
    """The torch DataLoader that a wrapper can take."""
    from torch.utils.data import DataLoader

    loader = epochs.make(0)
    if not isinstance(loader, DataLoader):
        raise CannotVerifyError(
            f"{epochs.name} returned a {type(loader).__name__}, and {wrapper} wraps torch's "
            "DataLoader; return one, or use the wrapper none"
        )
    return loader


def seed_all(seed: int) -> None:
    """Seed the random numbers of Python, of numpy, and of torch if it is installed."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002 - loaders may use it
    if is_installed("torch"):
        import torch

        torch.manual_seed(seed)


def set_epoch(loader: Any, epoch: int) -> None:
    """Call `set_epoch` as training loops do: of the loader, else of its samplers or dataset."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    holders = (
        loader,
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
        getattr(loader, "dataset", None),
    )
    for holder in holders:
        if callable(change := getattr(holder, "set_epoch", None)):
            change(epoch)
            return


def _extras_of(factory: Any) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return []
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return list(EXTRAS)
    return [name for name in EXTRAS if name in parameters]


def _of_pytorch(
    settings: LoaderSettings,
    files: list[str],
    columns: list[str],
    target: str | None,
    job: Job,
    rank: int | None,
    world_size: int | None,
) -> Any:
    from ...loaders.pytorch.datasets import ParquetDataset, StreamingParquetDataset
    from ...loaders.pytorch_loader import PyTorchDataLoader

    dataset = (
        ParquetDataset(files, columns, target, cache_in_memory=True)
        if job == "batches"
        else StreamingParquetDataset(files, columns, target, requests=settings.requests)
    )
    loader = PyTorchDataLoader.from_settings(settings)
    return loader.create_dataloader(
        dataset, settings.batch_size, settings.shuffle, settings.drop_last, seed=settings.seed,
        rank=rank, world_size=world_size,
    )  # fmt: skip


def _of_tensorflow(
    settings: LoaderSettings,
    files: list[str],
    columns: list[str],
    target: str | None,
    job: Job,
    rank: int | None,
    world_size: int | None,
    epoch: int,
) -> Any:
    from ...loaders.tensorflow_loader import TensorFlowDataLoader

    loader = TensorFlowDataLoader.from_settings(settings)
    options: dict[str, Any] = {
        "batch_size": settings.batch_size, "shuffle": settings.shuffle,
        "drop_last": settings.drop_last, "seed": settings.seed, "first_epoch": epoch,
        "rank": rank, "world_size": world_size,
    }  # fmt: skip
    if job == "stream":
        return loader.create_streaming_dataset(files, columns, target, **options)
    data = loader.load_parquet_to_dataframe_parallel(files)
    return loader.create_cached_dataset(data, columns, target, **options)


_FACTORIES: dict[str, Any] = {"pytorch": _of_pytorch, "tensorflow": _of_tensorflow}
