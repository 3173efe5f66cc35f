"""Run the ranks of a situation at the same time, each in its own process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
JOIN_S = START_TIMEOUT_S / 2  # in which all ranks must have started; then torch says which lack
GRACE_S = 0.5  # after a rank has failed, for others that fail at the same time
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
    """

    data: Data
    job: Job
    loader: str
    settings: LoaderSettings
    wrapper: Wrapper
    folder: Path
    timeout_s: float
    resumes: bool = False

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
        port = _free_ports(situation.ranks + 1)
        requests = [self._request(situation, rank, port, resume) for rank in range(situation.ranks)]
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
            join_s=JOIN_S,
        )

    def _run_all(self, requests: Sequence[RunRank]) -> list[RankDone]:
        ranks: list[ChildProcess] = []
        failures: list[tuple[int, Exception]] = []
        has_failed = threading.Event()

        def converse(number: int) -> RankDone | None:
            try:
                return self._converse(ranks[number], requests[number])
            except Exception as error:  # noqa: BLE001 - of a thread; raised below
                if has_failed.is_set():  # it was ended because another rank failed
                    return None
                failures.append((number, error))
                if len(failures) == 1:
                    time.sleep(GRACE_S)  # a rank that crashed makes others raise before it is seen
                    has_failed.set()
                    for rank in ranks:
                        rank.kill()
                return None

        with contextlib.ExitStack() as stack:
            for request in requests:
                ranks.append(ChildProcess(request.rank, self._starter()))
                stack.callback(ranks[-1].close)
            with ThreadPoolExecutor(len(ranks)) as pool:
                try:
                    answers = list(pool.map(converse, range(len(ranks))))
                except BaseException:
                    has_failed.set()
                    for rank in ranks:
                        rank.kill()  # so that the threads end
                    raise
        if failures:
            raise _cause(failures)
        return [answer for answer in answers if answer is not None]

    def _converse(self, child: ChildProcess, request: RunRank) -> RankDone:
        child.say(OpenData(self.data))
        child.say(request)
        timeout_s = START_TIMEOUT_S
        while True:
            news = child.hear(RankNews, timeout_s)
            if news.refused is not None:
                raise InputError(news.refused)
            if news.done is not None:
                return news.done
            timeout_s = self.timeout_s

    def _starter(self) -> Starter:
        imports = imports_of(self.loader, self.wrapper)
        return self._launcher.of(imports, self.loader, within_s=START_TIMEOUT_S)


def _cause(failures: Sequence[tuple[int, Exception]]) -> Exception:
    """The failure that is most likely the cause of the others: a crash, else the first."""

    def is_crash(failure: Exception) -> bool:
        return isinstance(failure, ChildFailure) and failure.verdict not in ("error", "hang")

    rank, first = min(failures, key=lambda one: not is_crash(one[1]))
    return GroupFailure(rank, first) if isinstance(first, ChildFailure) else first


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
