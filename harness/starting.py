"""Starting the processes that trials run in: each by itself, or as forks of one that has imported.

A fork is ready after 0.3 to 0.6 s, a process of its own after 0.6 s without a framework and after
1.7 s with torch: Python and what loaders need is imported once. It is possible on Linux where
importing neither starts threads nor initialises CUDA. So far only benchmarks fork.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from ..loaders.machine import effective_cpus
from .protocol import LOOK_HERE, Fork, Forked, FromParent, Imported, Reap, Reaped, ToParent
from .threads import budget

CHILD_MODULE = "feedrate.harness.child"
PARENT_MODULE = "feedrate.harness.parent"
START_TIMEOUT_S = 180.0  # importing TensorFlow on a busy two-core machine has taken 20 s
FORK_TIMEOUT_S = 30.0
MAX_ANSWER = 1 << 20
PER_PARENT = 2

Answer = TypeVar("Answer", Imported, Forked, Reaped)


@dataclass(frozen=True)
class Python:
    """What a child process runs in.

    Attributes:
        executable: the interpreter.
        path: folders whose packages come before those that are installed there.
        apart: whether neither the current folder nor PYTHONPATH counts: the working tree lies
            there, which is none of the revisions.
    """

    executable: str = sys.executable
    path: tuple[str, ...] = ()
    apart: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of its processes."""
        inherited = None if self.apart else os.environ.get("PYTHONPATH")
        path = [*self.path, *filter(None, [inherited])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            **({"PYTHONSAFEPATH": "1"} if self.apart else {}),
        }

    def command(self, module: str, *arguments: str) -> list[str]:
        """What runs a module of ours, with no module of the current folder put before others.

        Loaders of one's own are looked for there, after all others, unless `apart`.
        """
        here = [] if self.apart else [LOOK_HERE]
        return [self.executable, "-P", "-m", module, *arguments, *here]


HERE = Python()


class Process(Protocol):
    """A process that was started, in a process group of its own."""

    @property
    def pid(self) -> int:
        """Its id, and its group's, which nobody else has until it is reaped."""
        ...

    def has_ended(self) -> bool:
        """Whether it has; it is not reaped."""
        ...

    def reap(self) -> int:
        """Wait for its end: its exit code; below 0, the signal that ended it."""
        ...


class Starter(Protocol):
    """Starts processes that run trials."""

    def start(self, streams: Sequence[int], environment: Mapping[str, str]) -> Process:
        """Start one.

        Args:
            streams: descriptors of what it reads, writes, and complains to.
            environment: variables that are set in it, beside the usual ones.

        Raises:
            CannotStartError: it cannot be started.
        """
        ...


class CannotStartError(Exception):
    """A process could not be started; the message says why."""


class _Spawned:
    """A process that was started anew."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_ended(self) -> bool:
        if self._process.returncode is not None:
            return True
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, how) is not None

    def reap(self) -> int:
        return self._process.wait()


@dataclass(frozen=True)
class Fresh:
    """Starts each process anew.

    Attributes:
        python: what it runs in.
    """

    python: Python = HERE

    def start(self, streams: Sequence[int], environment: Mapping[str, str]) -> Process:
        """As `Starter.start`."""
        reads, writes, complains = streams
        process = subprocess.Popen(
            self.python.command(CHILD_MODULE, str(os.getpid())),
            stdin=reads,
            stdout=writes,
            stderr=complains,
            start_new_session=True,
            env={**_environment(self.python), **environment},
        )
        return _Spawned(process)


class _Forked:
    """A process that a parent has forked."""

    def __init__(self, parent: Parent, pid: int) -> None:
        self._parent = parent
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._code: int | None = None

    def has_ended(self) -> bool:
        return self._code is not None or self._ends(0)

    def reap(self) -> int:
        if self._code is None:
            self._ends(None)
            try:
                self._code = self._parent.reap(self.pid)
            except CannotStartError:  # the kernel ended it with its parent
                self._code = -signal.SIGKILL
            os.close(self._descriptor)
        return self._code

    def _ends(self, within_ms: int | None) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(within_ms))


class Parent:
    """Starts processes as forks of one that has imported what they need.

    Args:
        imports: modules.
        python: what it runs in.

    Raises:
        CannotStartError: forking is not safe or not possible: use `Fresh`.
    """

    def __init__(self, imports: Sequence[str] = (), python: Python = HERE) -> None:
        if not hasattr(os, "pidfd_open"):
            raise CannotStartError("this system cannot tell when a process that was forked ends")
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                python.command(PARENT_MODULE, str(os.getpid()), str(theirs.fileno()), *imports),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
                env=_environment(python),
            )
        self._decoder = msgspec.json.Decoder(FromParent)
        try:
            imported = self._hear(Imported, START_TIMEOUT_S)
            if imported.why_not is not None:
                raise CannotStartError(imported.why_not)
        except BaseException:
            self.close()
            raise
        self._files = imported.files

    def has_changed(self) -> bool:
        """Whether code that it has imported, and that is not installed, was changed since."""
        try:
            return any(Path(path).stat().st_mtime_ns != then for path, then in self._files.items())
        except OSError:  # it is gone
            return True

    def start(self, streams: Sequence[int], environment: Mapping[str, str]) -> Process:
        """As `Starter.start`."""
        self._say(Fork(environment=dict(environment)), streams)
        return _Forked(self, self._hear(Forked, FORK_TIMEOUT_S).pid)

    def reap(self, pid: int) -> int:
        """Wait for a process that has ended: its exit code.

        Raises:
            CannotStartError: the parent has ended too.
        """
        self._say(Reap(pid=pid))
        return self._hear(Reaped, FORK_TIMEOUT_S).code

    def close(self) -> None:
        """End the parent, and with it all that it has forked."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _say(self, request: ToParent, streams: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._channel, [msgspec.json.encode(request)], list(streams))
        except OSError as error:
            raise CannotStartError(f"the process to fork from is gone: {error}") from None

    def _hear(self, kind: type[Answer], timeout_s: float) -> Answer:
        self._channel.settimeout(timeout_s)
        try:
            line = self._channel.recv(MAX_ANSWER)
        except TimeoutError:
            raise CannotStartError(f"no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise CannotStartError(f"the process to fork from is gone: {error}") from None
        if not line:
            raise CannotStartError("the process to fork from has ended")
        answer = self._decoder.decode(line)
        if not isinstance(answer, kind):
            raise CannotStartError(f"it answered {type(answer).__name__}")
        return answer


class Starters:
    """Gives what starts processes: forks, where they can be forked.

    Args:
        python: what the processes run in.
        per_parent: how often one trial is forked from the same parent. Forks share its luck, such
            as how memory is laid out: of 200 launches the standard deviation was 0.05 between
            parents and 0.12 within one. Intervals of 95% that counted rounds held the truth in 91
            to 95% of cases with two rounds a parent, and in 83 to 92% with four
            (benchmarks/LAUNCHES.md).
    """

    def __init__(self, python: Python = HERE, per_parent: int = PER_PARENT) -> None:
        self.fresh = Fresh(python)
        self.why_not: dict[tuple[str, ...], str] = {}
        """Why what imports these modules cannot be forked."""
        self._python, self._per_parent = python, per_parent
        self._parents: dict[tuple[str, ...], Parent] = {}
        self._forked: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)

    def forked(self, imports: tuple[str, ...], trial: str) -> Starter:
        """What starts the next process of a trial, which needs these modules."""
        if imports in self.why_not:
            return self.fresh
        parent = self._parents.get(imports)
        often = self._forked[imports][trial] >= self._per_parent
        if parent is None or often or parent.has_changed():
            self.give_up(imports)
            try:
                parent = self._parents[imports] = Parent(imports, self._python)
            except CannotStartError as error:
                self.why_not[imports] = str(error)
                return self.fresh
        self._forked[imports][trial] += 1
        return parent

    def give_up(self, imports: tuple[str, ...]) -> None:
        """End the parent that has imported these modules: the next one is another."""
        parent = self._parents.pop(imports, None)
        self._forked[imports].clear()
        if parent is not None:
            parent.close()

    def close(self) -> None:
        """End all parents."""
        for imports in list(self._parents):
            self.give_up(imports)


def _environment(python: Python) -> dict[str, str]:
    return {
        **python.environment,
        **budget(effective_cpus(), os.environ),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONUNBUFFERED": "1",
    }
