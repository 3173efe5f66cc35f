"""One rank of several: run a loader's epochs, and record which rows they deliver."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from ...loaders.base.machine import is_installed
from .fingerprint import UnverifiableError
from .protocol import END, HALF, RankDone, RankNews, RunRank
from .rank_loaders import AccelerateEpochs, Epochs, LoaderEpochs, RankOf, seed_all
from .rank_rows import CannotVerifyError, EpochRecord
from .row_index import RowIndex
from .work import Data

HOST = "127.0.0.1"
NEWS_EVERY_S = 0.5
ENDLESS = 3  # times as many rows as the files have; a rank without its share delivers all once


def run_rank(data: Data, request: RunRank, tell: Callable[[RankNews], None]) -> RankDone:
    """Run the epochs of one rank; all ranks of a group run at the same time.

    Args:
        data: files and columns.
        request: which rank, epochs and loader.
        tell: called about twice a second while rows arrive.

    Raises:
        CannotVerifyError: batches that are not rows of numbers, a loader without a state, or one
            that a wrapper cannot take.
    """
    os.environ.update(variables(request.rank, request.world_size, request.port))
    recorder = Recorder(data, request, tell)
    if request.wrapper == "lightning":
        from .rank_lightning import run_lightning

        seed_all(request.settings.seed or 0)
        run_lightning(data, request, recorder)
        return recorder.done()
    if request.wrapper == "none":
        _join(request)
    epochs = _epochs(data, request)
    epochs.prepare(request.first_epoch)
    tell(RankNews(rows=0))  # starts the time limit of rows
    if request.resume is not None:
        epochs.load(Path(request.resume))
    for number in range(request.first_epoch, request.first_epoch + request.epochs):
        recorder.begin(number)
        for batch in epochs.begin(number):
            if recorder.add(batch):
                epochs.save(recorder.keep(HALF), recorder.steps)
        if recorder.end():
            epochs.save(recorder.keep(END), 0)
    return recorder.done()


class EndlessError(Exception):
    """Epochs that never end."""


class Recorder:
    """Records the epochs of a rank, and says when its position should be kept.

    Args:
        data: files and columns.
        request: which rank and epochs.
        tell: receives progress.
    """

    def __init__(self, data: Data, request: RunRank, tell: Callable[[RankNews], None]) -> None:
        self._names = data.matrix_columns
        self._request = request
        self._folder = Path(request.folder)
        self._index = RowIndex.load(self._folder)
        self._tell = tell
        self._told = time.monotonic()
        self._epoch = 0
        self._record = EpochRecord(self._index, self._names)
        self._rows = self._epoch_rows = 0
        self._kept: dict[str, int] = {}
        self._unknown: dict[int, list[list[str]]] = {}
        self._changed: dict[int, int] = {}

    @property
    def steps(self) -> int:
        """Steps of the running epoch so far."""
        return len(self._record.steps)

    def begin(self, epoch: int) -> None:
        """Start to record an epoch."""
        self._epoch = epoch
        self._epoch_rows = 0
        self._record = EpochRecord(self._index, self._names)

    def add(self, batch: Any) -> bool:
        """Record a batch; return whether to keep the position now, as `HALF`.

        Raises:
            CannotVerifyError: the first batch is not rows of the columns.
            UnverifiableError: a later one is not.
        """
        try:
            rows = self._record.add(batch)
        except UnverifiableError as error:
            if self._rows:
                raise
            raise CannotVerifyError(str(error)) from error
        self._rows += rows
        self._epoch_rows += rows
        if self._epoch_rows > ENDLESS * self._index.rows:
            raise EndlessError(
                f"an epoch delivers more than {ENDLESS} times the rows of the files; it must end"
            )
        if (now := time.monotonic()) >= self._told + NEWS_EVERY_S:
            self._told = now
            self._tell(RankNews(rows=self._rows))
        if not self._keeps or HALF in self._kept:
            return False
        share = self._index.rows // self._request.world_size
        # After the last step of an epoch, the position is that of the next one's start.
        last = share - rows if self._request.settings.drop_last else share - 1
        return share / 2 <= self._epoch_rows <= last

    def end(self) -> bool:
        """Write the epoch that has ended; return whether to keep the position now, as `END`."""
        self._record.save(record_path(self._request, self._epoch))
        if changed := self._record.changed():
            self._changed[self._epoch] = changed
        if self._record.unknown:
            self._unknown[self._epoch] = [list(map(repr, row)) for row in self._record.unknown]
        return self._keeps

    def keep(self, position: str) -> Path:
        """Note that a position is kept after the present step; return the file for it."""
        self._kept[position] = self.steps
        return state_path(self._request, position)

    def done(self) -> RankDone:
        """The answer after the last epoch."""
        return RankDone(kept=self._kept, unknown=self._unknown, changed=self._changed)

    @property
    def _keeps(self) -> bool:
        return self._request.keep_state and self._epoch == self._request.first_epoch


def record_path(request: RunRank, epoch: int) -> Path:
    """The file with the rows of an epoch of a rank."""
    return Path(request.folder) / f"{request.name}-{request.rank}-epoch{epoch}.npz"


def state_path(request: RunRank, position: str) -> Path:
    """The file with a kept position of a rank."""
    return Path(request.folder) / f"{request.name}-{request.rank}-{position}.state"


def variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Environment variables by which torch, its wrappers and TensorFlow know their rank.

    The names are those that torchrun sets; TF_CONFIG is TensorFlow's.
    """
    workers = [f"{HOST}:{port + 1 + number}" for number in range(world_size)]
    task = {"type": "worker", "index": rank}
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "feedrate",
        "TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task}),
    }


def _join(request: RunRank) -> None:
    """Join the process group of all ranks, for loaders that ask torch.distributed."""
    if not is_installed("torch"):
        return
    import torch.distributed as group

    if group.is_available() and not group.is_initialized():
        group.init_process_group("gloo", timeout=timedelta(seconds=request.join_s))


def _epochs(data: Data, request: RunRank) -> Epochs:
    divides_itself = request.wrapper == "none"
    rank = RankOf(request.rank, request.world_size) if divides_itself else RankOf(None, None)
    epochs = LoaderEpochs(request.loader, request.settings, data, request.job, rank)
    return epochs if divides_itself else AccelerateEpochs(epochs)
