"""Messages between the harness and its child processes, one JSON line each, and a channel."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import IO, Literal

import msgspec

from ...loaders.base.settings import LoaderSettings
from ...loaders.choosing.profile import Job
from ..system.pagecache import PageCache
from .fingerprint import Fingerprint
from .work import Data

LOOK_HERE = "--look-here"  # an argument of a child: loaders may be in the current folder
STACKS_SIGNAL = signal.SIGUSR1
"""The signal on which a child writes the stacks of its threads to stderr."""
_CHUNK = 1 << 16  # of a read from a pipe; answers are far smaller
_LONGEST_POLL_S = 1e6  # poll(2) counts milliseconds in an int


class OpenData(msgspec.Struct, frozen=True, tag="data"):
    """To the child, first: the files and columns of the sweep."""

    data: Data


class RunTrial(msgspec.Struct, frozen=True, kw_only=True, tag="trial"):
    """To the child: prepare a trial. It answers `Ready`, then each `Go` with a `PassDone`."""

    job: Job
    settings: LoaderSettings
    files: int
    passes: int
    verify: bool
    """Whether to finish with an untimed pass for the fingerprint."""
    every: int = 1
    """The sample of files for the fingerprint, as in `picked`; 1 means all."""
    transfer: bool
    """Whether to measure the transfer to a GPU after the passes."""
    explain: bool = False
    """Whether to time stages alone, and what fewer columns and rewritten files would save."""
    page_cache: PageCache = "as-is"
    """The state of the page cache before each pass; the harness establishes it."""
    consumer: str | None = None
    """The stand-in for a training step: see `make_step`."""


class Reference(msgspec.Struct, frozen=True, kw_only=True, tag="reference"):
    """To the child: the fingerprint of the original's rows. It answers `Done`."""

    job: Job
    files: int
    ordered: bool
    every: int = 1
    """The sample of files, as in `picked`; 1 means all."""


Wrapper = Literal["none", "accelerate", "lightning"]
"""What divides a loader's rows among the ranks; `none`: the loader itself."""


HALF, END = "half", "end"
"""The positions that are kept of the first epoch: after half of its rows, and after the last."""


class RunRank(msgspec.Struct, frozen=True, kw_only=True, tag="rank"):
    """To the child: be one rank of several.

    It answers with `RankNews`, of which the last has `done` or `refused`, or with `Failed`.
    """

    job: Job
    loader: str
    """`pytorch`, `tensorflow`, or a function as `package.module:factory`."""
    settings: LoaderSettings
    wrapper: Wrapper
    rank: int
    world_size: int
    port: int
    """The first of `world_size + 1` free ports: where ranks meet, and of TensorFlow's workers."""
    first_epoch: int
    epochs: int
    folder: str
    """Holds the index of the rows; the rank writes what it delivers there."""
    name: str
    """Begins the names of the rank's files."""
    resume: str | None
    """The file with the position to continue from."""
    keep_state: bool
    """Whether to write the positions after half of the first epoch, and at its end."""
    join_s: float
    """Seconds in which all ranks must come."""


class Go(msgspec.Struct, frozen=True, tag="go"):
    """To the child: start the next pass."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """From the child: everything is imported and prepared."""


class PassDone(msgspec.Struct, frozen=True, kw_only=True, tag="pass"):
    """From the child: one pass is done. The delivered data is kept until the next `Go`."""

    rows: int
    metrics: dict[str, float | None]
    reasons: dict[str, str]


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """From the child: the trial is over."""

    fingerprint: Fingerprint | None
    metrics: dict[str, float | None] = {}
    """Metrics that are measured once per trial."""
    reasons: dict[str, str] = {}
    notes: list[str] = []
    """The first few distinct warnings of the trial."""
    threads: dict[str, int] = {}
    """Threads of the process and sizes of its pools, from `observed` and `requested`."""
    reference_s: float | None = None
    """For a reference, the seconds to load and digest the rows."""


class RankDone(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank has done, beside the files that it wrote."""

    kept: dict[str, int]
    """The positions that were written, with the steps before each."""
    unknown: dict[int, list[list[str]]]
    """By epoch, the values of the first few rows that the files do not have, as `repr` of floats:
    JSON has neither NaN nor infinity."""
    changed: dict[int, int]
    """By epoch, how many batches changed after they were delivered."""


class RankNews(msgspec.Struct, frozen=True, kw_only=True, tag="rank-news"):
    """From the child: the progress of a rank."""

    rows: int
    """Rows delivered so far."""
    done: RankDone | None = None
    refused: str | None = None
    """Why the loader cannot be verified as asked, and what to change."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """From the child: the loader raised."""

    verdict: Literal["error", "out-of-memory", "shm-full"]
    message: str
    traceback: str


MAX_MESSAGE = 1 << 16  # bytes, from and to a fork server


class Imports(msgspec.Struct, frozen=True):
    """The imports of a fork server, in addition to those that all trials need."""

    modules: tuple[str, ...] = ()
    loaders: tuple[str, ...] = ()
    """User-defined loaders: `package.module:function`, or the name of an entry point."""


class Imported(msgspec.Struct, frozen=True, kw_only=True, tag="imported"):
    """From a fork server, first: its imports are done."""

    why_not: str | None
    """Why it cannot fork, such as threads that a fork would lose; None if it can."""


class Fork(msgspec.Struct, frozen=True, kw_only=True, tag="fork"):
    """To a fork server: fork a child. It answers `Forked` or `Refused`.

    Three descriptors come with it: the child's stdin, stdout and stderr.
    """

    environment: dict[str, str]
    """Variables that are set in the child."""


class Forked(msgspec.Struct, frozen=True, kw_only=True, tag="forked"):
    """From a fork server: a child was forked, in a new process group."""

    pid: int


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """From a fork server: no child was forked."""

    why: str


class Reap(msgspec.Struct, frozen=True, kw_only=True, tag="reap"):
    """To a fork server: wait for the end of a child. It answers `Reaped`."""

    pid: int


class Reaped(msgspec.Struct, frozen=True, kw_only=True, tag="reaped"):
    """From a fork server: how a child ended. Its process id may be reused from now on."""

    code: int
    """Its exit code; below 0, the signal that ended it."""


_SETTINGS_OF_EVERY_REVISION = frozenset(
    {
        "backend", "num_workers", "worker_kind", "prefetch", "cache", "batch_size", "shuffle",
        "shuffle_window", "drop_last", "seed", "pin_memory", "dtype_backend",
    }
)  # fmt: skip


def encode_request(request: ToChild) -> bytes:
    """Encode a request for a child; one of an earlier revision refuses settings that it lacks.

    Newer settings are therefore left out if they have their default.
    """
    message = msgspec.to_builtins(request)
    if isinstance(request, RunTrial):
        defaults = msgspec.to_builtins(LoaderSettings.DEFAULT)
        message["settings"] = {
            name: value
            for name, value in message["settings"].items()
            if name in _SETTINGS_OF_EVERY_REVISION or value != defaults[name]
        }
    return msgspec.json.encode(message)


ToChild = OpenData | RunTrial | Reference | RunRank | Go
FromChild = Ready | PassDone | Done | RankNews | Failed
ToForkServer = Fork | Reap
FromForkServer = Imported | Forked | Refused | Reaped


class LineChannel:
    """Lines to and from another process through two pipes, each line within a time limit.

    A pipe holds 64 KiB (pipe(7)): a longer line waits until the other side reads, which may be
    never. No call blocks past its limit: a pipe that is ready takes `PIPE_BUF` bytes at once.
    """

    def __init__(self, there: IO[bytes], back: IO[bytes]) -> None:
        self._writer, self._reader = there, back
        self._buffer = b""

    def send(self, line: bytes, timeout_s: float) -> None:
        """Send a line.

        Raises:
            TimeoutError: the other side did not read all of it in time.
            BrokenPipeError: the other side has closed its end.
        """
        deadline = time.monotonic() + timeout_s
        rest = memoryview(line + b"\n")
        while rest:
            _await(self._writer, select.POLLOUT, deadline)
            rest = rest[os.write(self._writer.fileno(), rest[: select.PIPE_BUF]) :]

    def receive(self, timeout_s: float) -> bytes:
        """Receive the next line, without its newline.

        Raises:
            TimeoutError: it did not come in time.
            EOFError: the other side has closed its end.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            _await(self._reader, select.POLLIN, deadline)
            chunk = os.read(self._reader.fileno(), _CHUNK)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def close(self) -> None:
        """Close both pipes."""
        self._writer.close()
        self._reader.close()


def _await(pipe: IO[bytes], event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(pipe, event)
    left_s = min(max(0.0, deadline - time.monotonic()), _LONGEST_POLL_S)
    if not poll.poll(left_s * 1000):
        raise TimeoutError
