"""Starting the processes that trials run in: forks of one that has imported, or new ones.

A fork is ready after 0.3 to 0.6 s, a new process after 0.6 s without a framework, after 1.7 s with
torch and after 4 s with TensorFlow. Forks need Linux, and imports that start no thread, open no
connection and do not initialise CUDA.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Protocol

import msgspec

from ..loaders.machine import effective_cpus
from .protocol import (
    LOOK_HERE,
    Fork,
    Forked,
    FromForkServer,
    Imported,
    Imports,
    Reap,
    Reaped,
    Refused,
    ToForkServer,
)
from .scratch import scratch_folder
from .threads import budget

CHILD_MODULE = "feedrate.harness.child"
SERVER_MODULE = "feedrate.harness.fork_server"
START_TIMEOUT_S = 180.0  # importing TensorFlow on a busy two-core machine has taken 20 s
FORK_TIMEOUT_S = 30.0
MAX_MESSAGE = 1 << 16
MAX_FAILURES = 2  # of forks of the same imports, before they are started as new processes
# Forks of one server share its luck, such as how memory is laid out: of 200 launches the standard
# deviation of log times was 0.05 between servers and 0.12 within one. Intervals of 95% that count
# rounds held the truth in 91 to 95% of cases with two rounds a server, and in 83 to 92% with four
# (benchmarks/LAUNCHES.md).
PER_SERVER = 2


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
        """Its id, and its group's, which is not reused before it is reaped."""
        ...

    @property
    def is_forked(self) -> bool:
        """Whether it shares memory with a process that it was forked from."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether the process that it was forked from has ended, which ends it, too."""
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
            streams: descriptors for its stdin, stdout and stderr.
            environment: variables that are set in it, beside the usual ones.

        Raises:
            CannotStartError: it cannot be started.
            OSError: the system cannot start any process.
        """
        ...


class CannotStartError(Exception):
    """A process could not be started; the message says why."""


class _NewProcess:
    """A process that was started anew."""

    is_forked = False
    is_lost = False

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
        python: the interpreter and packages.
    """

    python: Python = HERE

    def start(self, streams: Sequence[int], environment: Mapping[str, str]) -> Process:
        """As `Starter.start`."""
        stdin, stdout, stderr = streams
        process = subprocess.Popen(
            self.python.command(CHILD_MODULE, str(os.getpid())),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env={**_environment(self.python), **environment},
        )
        return _NewProcess(process)


class _Fork:
    """A process that a server has forked."""

    is_forked = True

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server
        self.pid = pid
        self.is_lost = False
        self._descriptor = os.pidfd_open(pid)
        self._code: int | None = None

    def has_ended(self) -> bool:
        return self._code is not None or self._ends(0)

    def reap(self) -> int:
        if self._code is None:
            self._ends(None)
            os.close(self._descriptor)
            try:
                self._code = self._server.reap(self.pid)
            except CannotStartError:
                self.is_lost = True
                self._code = -signal.SIGKILL  # by the kernel, when the server ended
        return self._code

    def _ends(self, within_ms: int | None) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(within_ms))


class ForkServer:
    """Starts processes as forks of one that has imported what they need.

    Args:
        imports: what it imports.
        python: the interpreter and packages.

    Raises:
        CannotStartError: forking is not safe or not possible: use `Fresh`.
    """

    def __init__(self, imports: Imports = Imports(), python: Python = HERE) -> None:  # noqa: B008 - frozen
        if not hasattr(os, "pidfd_open"):
            raise CannotStartError("processes are forked on Linux only")
        self._errors: IO[bytes] = tempfile.TemporaryFile(dir=scratch_folder())  # noqa: SIM115 - closed in close()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argument = msgspec.json.encode(imports).decode()
        with theirs:
            self._process = subprocess.Popen(
                python.command(SERVER_MODULE, str(os.getpid()), str(theirs.fileno()), argument),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
                env=_environment(python),
            )
        self._decoder = msgspec.json.Decoder(FromForkServer)
        try:
            os.close(os.pidfd_open(self._process.pid))
            answer = self._hear(START_TIMEOUT_S)
        except OSError as error:  # the kernel has no such call, or a sandbox forbids it
            self.close()
            raise CannotStartError(f"pidfd_open: {error.strerror}") from None
        except BaseException:
            self.close()
            raise
        if not isinstance(answer, Imported):
            raise self._unexpected(answer)
        if answer.why_not is not None:
            self.close()
            raise CannotStartError(answer.why_not)

    def start(self, streams: Sequence[int], environment: Mapping[str, str]) -> Process:
        """As `Starter.start`."""
        self._say(Fork(environment=dict(environment)), streams)
        answer = self._hear(FORK_TIMEOUT_S)
        if isinstance(answer, Refused):
            raise CannotStartError(answer.why)
        if not isinstance(answer, Forked):
            raise self._unexpected(answer)
        try:
            return _Fork(self, answer.pid)
        except OSError as error:
            self.close()  # which ends the fork
            raise CannotStartError(f"pidfd_open: {error.strerror}") from None

    def reap(self, pid: int) -> int:
        """Wait for a process that has ended: its exit code.

        Raises:
            CannotStartError: the server has ended too.
        """
        self._say(Reap(pid=pid))
        answer = self._hear(FORK_TIMEOUT_S)
        if not isinstance(answer, Reaped):
            raise self._unexpected(answer)
        return answer.code

    def close(self) -> None:
        """End the server, and with it all that it has forked."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()

    def _say(self, request: ToForkServer, streams: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._channel, [msgspec.json.encode(request)], list(streams))
        except OSError as error:
            raise self._failed(f"the process to fork from is gone ({error.strerror})") from None

    def _hear(self, timeout_s: float) -> FromForkServer:
        try:
            self._channel.settimeout(timeout_s)
            line = self._channel.recv(MAX_MESSAGE)
            answer: FromForkServer | None = self._decoder.decode(line) if line else None
        except TimeoutError:
            raise self._failed(f"no answer within {timeout_s:g} s") from None
        except (OSError, msgspec.DecodeError) as error:
            raise self._failed(f"its answer cannot be read: {error}") from None
        if answer is None:
            raise self._failed(self._last_words())
        return answer

    def _unexpected(self, answer: FromForkServer) -> CannotStartError:
        return self._failed(f"it answered {type(answer).__name__}")

    def _failed(self, why: str) -> CannotStartError:
        """The error, after which no late answer can be taken for that to another request."""
        if not self._errors.closed:
            self.close()
        return CannotStartError(why)

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"importing ended the process{': ' + lines[-1] if lines else ''}"


@dataclass
class Launcher:
    """Starts the processes of trials: as forks, where that is safe.

    Attributes:
        python: the interpreter and packages.
        forks: whether to fork at all.
        per_server: forks of one trial from the same server, before another server is started.
        why_not: why imports are not forked, where they are not.
    """

    python: Python = HERE
    forks: bool = True
    per_server: int = PER_SERVER
    started_s: float = field(init=False, default=0.0)
    """Seconds that starting servers has taken so far."""
    why_not: dict[Imports, str] = field(init=False, default_factory=dict)
    fresh: Fresh = field(init=False)
    """Starts each process anew."""
    _servers: dict[Imports, ForkServer] = field(init=False, default_factory=dict)
    _forked: dict[Imports, Counter[str]] = field(init=False, default_factory=dict)
    _failures: Counter[Imports] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        self.fresh = Fresh(self.python)

    def of(self, imports: Imports, trial: str) -> Starter:
        """What starts the next process of a trial, which needs these imports."""
        if not self.forks or imports in self.why_not:
            return self.fresh
        return _Forks(self, imports, trial)

    def fork(
        self,
        imports: Imports,
        trial: str,
        streams: Sequence[int],
        environment: Mapping[str, str],
    ) -> Process:
        """Fork a process of a trial; where that fails, start it anew."""
        for server_is_new in (False, True):
            if server_is_new:
                self._drop(imports)
            try:
                server = self._server(imports, trial)
            except CannotStartError as error:
                self.give_up(imports, str(error))
                break
            try:
                process = server.start(streams, environment)
            except CannotStartError as error:  # it ended, or code that it imported has changed
                why = str(error)
                continue
            self._forked[imports][trial] += 1
            return process
        else:
            self.failed(imports, why)
        return self.fresh.start(streams, environment)

    def failed(self, imports: Imports, why: str) -> None:
        """Note that a fork failed where a new process may not; after two, no more are forked."""
        self._drop(imports)
        self._failures[imports] += 1
        if self._failures[imports] >= MAX_FAILURES:
            self.why_not[imports] = why

    def give_up(self, imports: Imports, why: str) -> None:
        """Fork no more processes with these imports."""
        self._drop(imports)
        self.why_not[imports] = why

    def close(self) -> None:
        """End all servers; the next fork starts another one."""
        for imports in list(self._servers):
            self._drop(imports)

    def _server(self, imports: Imports, trial: str) -> ForkServer:
        if self._forked.get(imports, Counter())[trial] >= self.per_server:
            self._drop(imports)
        if imports not in self._servers:
            began = time.monotonic()
            self._servers[imports] = ForkServer(imports, self.python)
            self._forked[imports] = Counter()
            self.started_s += time.monotonic() - began
        return self._servers[imports]

    def _drop(self, imports: Imports) -> None:
        server = self._servers.pop(imports, None)
        self._forked.pop(imports, None)
        if server is not None:
            server.close()


@dataclass(frozen=True)
class _Forks:
    """Starts the processes of a trial, by its launcher."""

    launcher: Launcher
    imports: Imports
    trial: str

    def start(self, streams: Sequence[int], environment: Mapping[str, str]) -> Process:
        return self.launcher.fork(self.imports, self.trial, streams, environment)


def _environment(python: Python) -> dict[str, str]:
    return {
        **python.environment,
        **budget(effective_cpus(), os.environ),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONUNBUFFERED": "1",
    }
