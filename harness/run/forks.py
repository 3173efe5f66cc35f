"""Start processes as forks of a server that has already done the imports, where that is safe.

A fork is ready after 0.15 to 0.4 s, a new process after 0.6 s without a framework, after 1.7 s with
torch and after 4 s with TensorFlow. Forks need Linux, and imports that start no thread, leave no
file or connection open and do not initialise CUDA.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import msgspec

from ..choose.race import PER_SERVER
from ..system.scratch import scratch_folder
from ..trial.protocol import (
    MAX_MESSAGE,
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
from .process_start import (
    HERE,
    START_TIMEOUT_S,
    CannotStartError,
    Fresh,
    Process,
    Python,
    Starter,
    environment_of,
)

SERVER_MODULE = "feedrate.harness.fork_server"
FORK_TIMEOUT_S = 30.0
MAX_FAILURES = 2  # of forks with the same imports; then new processes are started
_LOST = 256  # an unknown exit code; real ones are lower


class _Fork:
    """A process that a server has forked."""

    is_forked = True

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._code: int | None = None

    @property
    def is_lost(self) -> bool:
        return (self._code is None and self._server.has_ended()) or self._code == _LOST

    def has_ended(self) -> bool:
        return self._code is not None or self._ends(0)

    def reap(self) -> int:
        if self._code is None:
            self._ends(None)
            os.close(self._descriptor)
            try:
                self._code = self._server.reap(self.pid)
            except CannotStartError:
                self._code = _LOST
        return -signal.SIGKILL if self._code == _LOST else self._code  # the kernel killed it

    def _ends(self, within_ms: int | None) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(within_ms))


class ForkServer:
    """Does the imports once, and then starts processes as its forks.

    Args:
        imports: modules and loaders to import.
        python: the interpreter and packages.
        within_s: seconds that importing may take.

    Raises:
        CannotStartError: forking is not safe or not possible: use `Fresh`.
    """

    def __init__(
        self,
        imports: Imports = Imports(),  # noqa: B008 - frozen
        python: Python = HERE,
        within_s: float = START_TIMEOUT_S,
    ) -> None:
        if not hasattr(os, "pidfd_open"):
            raise CannotStartError("processes are forked on Linux only")
        self._one_at_a_time = threading.Lock()  # a question and its answer
        self._folder = scratch_folder()
        self._errors: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed in close()
        self._channel, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argument = msgspec.json.encode(imports).decode()
        with remote:
            self._process = subprocess.Popen(
                python.command(SERVER_MODULE, str(os.getpid()), str(remote.fileno()), argument),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,
                pass_fds=[remote.fileno()],
                env=environment_of(python),
            )
        self._decoder = msgspec.json.Decoder(FromForkServer)
        try:
            os.close(os.pidfd_open(self._process.pid))
            answer = self._hear(within_s)
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
        with self._one_at_a_time:
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
        """Reap a process that has ended, and return its exit code.

        Raises:
            CannotStartError: the server has ended, too.
        """
        with self._one_at_a_time:
            self._say(Reap(pid=pid))
            answer = self._hear(FORK_TIMEOUT_S)
        if not isinstance(answer, Reaped):
            raise self._unexpected(answer)
        return answer.code

    def has_ended(self) -> bool:
        """Whether the server has ended, and all its forks with it."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End the server and all its forks; later calls do nothing."""
        if self._errors.closed:
            return
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _say(self, request: ToForkServer, streams: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._channel, [msgspec.json.encode(request)], list(streams))
        except OSError as error:
            raise self._failed(f"the fork server is gone ({error.strerror})") from None

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

    def _failed(self, reason: str) -> CannotStartError:
        """Close the server, so that no late answer is mistaken for the next; return the error."""
        self.close()
        return CannotStartError(reason)

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"importing ended the process{': ' + lines[-1] if lines else ''}"


@dataclass
class Launcher:
    """Starts the processes of trials: as forks, where that is safe.

    Attributes:
        python: the interpreter and packages.
        per_server: forks of one trial from the same server, before another server is started.
        why_not: by imports that are not forked, the reason.
    """

    python: Python = HERE
    per_server: int = PER_SERVER
    started_s: float = field(init=False, default=0.0)
    """Seconds that starting servers has taken so far."""
    why_not: dict[Imports, str] = field(init=False, default_factory=dict)
    fresh: Fresh = field(init=False)
    """Starts a new interpreter for each process."""
    _servers: dict[Imports, ForkServer] = field(init=False, default_factory=dict)
    _forked: dict[Imports, Counter[str]] = field(init=False, default_factory=dict)
    _failures: Counter[Imports] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        self.fresh = Fresh(self.python)

    def of(self, imports: Imports, trial: str, within_s: float = START_TIMEOUT_S) -> Starter:
        """Return the starter of a trial's next process.

        Args:
            imports: the imports of the trial.
            trial: its id.
            within_s: seconds that a server may take for the imports.
        """
        if imports in self.why_not:
            return self.fresh
        return _Forks(self, imports, trial, within_s)

    def fork(
        self,
        imports: Imports,
        trial: str,
        streams: Sequence[int],
        environment: Mapping[str, str],
        within_s: float = START_TIMEOUT_S,
    ) -> Process:
        """Fork a process of a trial; if that fails, start a new interpreter."""
        for is_retry in (False, True):
            if is_retry:
                self._drop(imports)
            try:
                server = self._server(imports, trial, within_s)
            except CannotStartError as error:
                self.give_up(imports, str(error))
                break
            try:
                process = server.start(streams, environment)
            except CannotStartError as error:  # server ended, or code that it imported has changed
                reason = str(error)
                continue
            self._forked[imports][trial] += 1
            return process
        else:
            self.failed(imports, reason)
        return self.fresh.start(streams, environment)

    def why_not_forked(self, imports: Imports) -> str | None:
        """Return why imports are not forked, or None; if unknown, start a server to find out."""
        if imports not in self.why_not:
            try:
                self._server(imports, "", START_TIMEOUT_S)
            except CannotStartError as error:
                self.give_up(imports, str(error))
        return self.why_not.get(imports)

    def failed(self, imports: Imports, why: str) -> None:
        """Count a fork that failed where a new process did not; after two, stop forking."""
        self._drop(imports)
        self._failures[imports] += 1
        if self._failures[imports] >= MAX_FAILURES:
            self.give_up(imports, why)

    def give_up(self, imports: Imports, why: str) -> None:
        """Fork no more processes with these imports."""
        self._drop(imports)
        self.why_not[imports] = why

    def close(self) -> None:
        """End all servers; the next fork starts a new one."""
        for imports in list(self._servers):
            self._drop(imports)

    def _server(self, imports: Imports, trial: str, within_s: float) -> ForkServer:
        if self._forked.get(imports, Counter())[trial] >= self.per_server:
            self._drop(imports)
        if imports not in self._servers:
            began = time.monotonic()
            self._servers[imports] = ForkServer(imports, self.python, within_s)
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
    """Starts the processes of a trial through the launcher."""

    launcher: Launcher
    imports: Imports
    trial: str
    within_s: float

    def start(self, streams: Sequence[int], environment: Mapping[str, str]) -> Process:
        return self.launcher.fork(self.imports, self.trial, streams, environment, self.within_s)
