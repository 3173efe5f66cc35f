"""Run the ranks of a situation at the same time, each in its own process."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ...loaders.base.errors import InputError
from ...loaders.base.machine import is_installed
from ...loaders.base.settings import LoaderSettings, with_changes
from ...loaders.choosing.profile import Job
from ..run.child_process import ChildFailure, ChildProcess
from ..run.forks import Launcher
from ..run.process_start import START_TIMEOUT_S, Starter
from ..trial.protocol import Imports, OpenData, RankDone, RankNews, RunRank, Wrapper
from ..trial.rank import HOST, record_path
from ..trial.rank_loaders import BUILT_IN
from ..trial.rank_rows import load_record
from ..trial.work import Data
from .deliveries import Delivered
from .situations import Situation

PACKAGES: Mapping[str, str] = {"accelerate": "accelerate", "lightning": "pytorch_lightning"}
"""The packages of the wrappers."""
MANY = 1_000_000  # forks of one server: nothing is timed


class GroupFailure(Exception):  # noqa: N818 - it carries what went wrong
    """A rank that raised, crashed or hung; the others were ended.

    Attributes:
        rank: which.
        failure: what happened.
    """

    def __init__(self, rank: int, failure: ChildFailure) -> None:
        super().__init__(str(failure))
        self.rank = rank
        self.failure = failure


@dataclass(frozen=True)
class GroupRun:
    """What all ranks of a situation delivered.

    Attributes:
        epochs: by epoch, what each rank delivered.
        done: the answer of each rank.
        requests: what each rank was asked.
    """

    epochs: list[list[Delivered]]
    done: list[RankDone]
    requests: list[RunRank]


@dataclass
class Groups:
    """Runs situations one after the other.

    Attributes:
        data: files and columns.
        job: `batches` or `stream`.
        loader: `pytorch`, `tensorflow`, or a function by its name.
        settings: of the loader.
        wrapper: what divides the rows among the ranks.
        folder: has the index of the rows, and gets what ranks write.
        timeout_s: seconds in which a rank must deliver rows.
        resumes: whether positions are kept, to be resumed from.
        tell: called with the rows that all ranks have delivered, while they run.
    """

    data: Data
    job: Job
    loader: str
    settings: LoaderSettings
    wrapper: Wrapper
    folder: Path
    timeout_s: float
    resumes: bool = False
    tell: Callable[[int], None] = field(default=lambda _: None)

    def __post_init__(self) -> None:
        self._launcher = Launcher(per_server=MANY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        self._launcher.close()

    def run(self, situation: Situation, resume: Sequence[Path] = ()) -> GroupRun:
        """Run a situation.

        Args:
            situation: which.
            resume: the positions to continue from, of the ranks before.

        Raises:
            GroupFailure: a rank failed; all others are ended.
        """
        requests = [
            self._request(situation, rank, port, resume)
            for port in [_free_ports(situation.ranks + 1)]
            for rank in range(situation.ranks)
        ]
        done = self._run_all(requests)
        epochs = [
            [Delivered(*load_record(record_path(request, number))) for request in requests]
            for number in range(situation.first_epoch, situation.first_epoch + situation.epochs)
        ]
        return GroupRun(epochs, done, requests)

    def _request(
        self, situation: Situation, rank: int, port: int, resume: Sequence[Path]
    ) -> RunRank:
        settings = self.settings
        if not situation.shuffle:
            settings = with_changes(settings, shuffle=False)
        return RunRank(
            job=self.job,
            loader=self.loader,
            settings=settings,
            wrapper=self.wrapper,
            rank=rank,
            world_size=situation.ranks,
            port=port,
            first_epoch=situation.first_epoch,
            epochs=situation.epochs,
            folder=str(self.folder),
            name=situation.name,
            resume=str(resume[rank % len(resume)]) if resume else None,
            keep_state=situation.purpose == "whole" and self.resumes,
            join_s=START_TIMEOUT_S,
        )

    def _run_all(self, requests: Sequence[RunRank]) -> list[RankDone]:
        ranks: list[ChildProcess] = []
        has_failed = threading.Event()
        rows = [0] * len(requests)

        def converse(number: int) -> RankDone:
            try:
                return self._converse(ranks[number], requests[number], rows)
            except ChildFailure as failure:
                if has_failed.is_set():  # it was ended because another rank failed
                    raise
                has_failed.set()
                for rank in ranks:
                    rank.kill()
                raise GroupFailure(number, failure) from failure

        with contextlib.ExitStack() as stack:
            for request in requests:
                ranks.append(ChildProcess(request.rank, self._starter()))
                stack.callback(ranks[-1].close)
            with ThreadPoolExecutor(len(ranks)) as pool:
                try:
                    futures = [pool.submit(converse, number) for number in range(len(ranks))]
                    wait(futures)
                except BaseException:
                    for rank in ranks:
                        rank.kill()  # so that the threads end
                    raise
        errors = [future.exception() for future in futures]
        for kind in (GroupFailure, InputError, Exception):
            if first := next((error for error in errors if isinstance(error, kind)), None):
                raise first
        return [future.result() for future in futures]

    def _converse(self, child: ChildProcess, request: RunRank, rows: list[int]) -> RankDone:
        child.say(OpenData(self.data))
        child.say(request)
        timeout_s = START_TIMEOUT_S
        while True:
            news = child.hear(RankNews, timeout_s)
            if news.refused is not None:
                raise InputError(news.refused)
            if news.done is not None:
                return news.done
            rows[request.rank] = news.rows
            self.tell(sum(rows))
            timeout_s = self.timeout_s

    def _starter(self) -> Starter:
        imports = imports_of(self.loader, self.wrapper)
        return self._launcher.of(imports, self.loader, within_s=START_TIMEOUT_S)


def imports_of(loader: str, wrapper: Wrapper) -> Imports:
    """The imports of a rank."""
    modules = ["torch"] if is_installed("torch") else []
    modules += ["tensorflow"] if loader == "tensorflow" else []
    modules += ["accelerate"] if wrapper == "accelerate" else []  # lightning starts a thread
    return Imports(modules=tuple(modules), loaders=() if loader in BUILT_IN else (loader,))


def _free_ports(count: int) -> int:
    """A port such that it and the next `count - 1` are free."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server((HOST, 0))).getsockname()[1]
            try:
                for port in range(first + 1, first + count):
                    stack.enter_context(socket.create_server((HOST, port)))
            except (OSError, OverflowError):
                continue
            return int(first)
