"""One child process of the harness: its messages, its limits, and how it ended."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, TypeVar

import msgspec
import psutil

from ..record.results import Verdict
from ..system.formats import format_bytes
from ..system.procfs import MemoryNow, processes_below
from ..system.scratch import VARIABLE, scratch_folder
from ..system.stopping import finishing
from ..system.units import printable
from ..trial.protocol import (
    STACKS_SIGNAL,
    Done,
    Failed,
    FromChild,
    LineChannel,
    PassDone,
    RankNews,
    Ready,
    ToChild,
    encode_request,
)
from .process_start import START_TIMEOUT_S, Fresh, Starter

EXIT_TIMEOUT_S = 60.0  # between closing its pipes and its end: it may write a core dump
_EXIT_POLL_S = 0.01
_STDERR_END = 1 << 16  # bytes read from the end of stderr
_STACKS_WAIT_S = 2.0  # for a process to write its stacks, which it does at once or never
_INNERMOST = re.compile(r'Current thread .*\n  File "(.*)", line (\d+) in (\S+)')

Answer = TypeVar("Answer", Ready, PassDone, Done, RankNews)


class ChildFailure(Exception):  # noqa: N818 - it carries a verdict
    """A child that crashed, hung, or reported that its loader raised.

    Attributes:
        verdict: the verdict on the trial.
        traceback: of the loader's exception.
    """

    def __init__(self, verdict: Verdict, message: str, *, traceback: str = "") -> None:
        super().__init__(printable(message))
        self.verdict: Verdict = verdict
        self.traceback = traceback


class LostError(ChildFailure):
    """A child that ended because its fork server ended, which is no fault of its trial."""

    def __init__(self) -> None:
        super().__init__("crash", "the process that it was forked from has ended")


class ChildProcess:
    """One child process and the conversation with it.

    It has its own process group, so that the processes that it starts end with it.

    Args:
        launch: its launch number in the sweep.
        starter: starts it.
        environment: further environment variables.
    """

    def __init__(
        self,
        launch: int,
        starter: Starter | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.launch = launch
        # Removed when the child has ended, even if it was killed.
        self._scratch = scratch_folder()
        # In the scratch folder: some file systems have no unnamed files and show it for a moment.
        self._errors: IO[bytes] = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 - closed in close()
        stdin, to_child = os.pipe()
        from_child, stdout = os.pipe()
        self._channel = LineChannel(os.fdopen(to_child, "wb", 0), os.fdopen(from_child, "rb", 0))
        try:
            self._process = (starter or Fresh()).start(
                (stdin, stdout, self._errors.fileno()),
                {VARIABLE: str(self._scratch), **(environment or {})},
            )
        except BaseException:
            self._channel.close()
            self._errors.close()
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        finally:
            os.close(stdin)
            os.close(stdout)
        self._decoder = msgspec.json.Decoder(FromChild)
        self._is_closed = False
        self._ending = threading.RLock()  # the id of a process that was reaped may be another's
        self._memory_excess: str | None = None

    def limit(self, size: int) -> Callable[[MemoryNow], None]:
        """Make a function that kills the child's processes if their PSS exceeds `size` bytes."""

        def watch(now: MemoryNow) -> None:
            if now.pss > size and self._memory_excess is None:
                self._memory_excess = (
                    f"its memory reached {format_bytes(now.pss)}, beyond the limit of "
                    f"{format_bytes(size)}"
                )
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

        return watch

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_forked(self) -> bool:
        """Whether it shares memory with a process that it was forked from."""
        return self._process.is_forked

    def say(self, request: ToChild) -> None:
        """Send a request.

        Raises:
            ChildFailure: it was not read within `START_TIMEOUT_S`, or the process ended.
        """
        try:
            self._channel.send(encode_request(request), START_TIMEOUT_S)
        except TimeoutError:
            raise self._silent(START_TIMEOUT_S) from None
        except BrokenPipeError:
            raise self._ended() from None

    def hear(self, kind: type[Answer], timeout_s: float) -> Answer:
        """Return the next answer, which must be a `kind`.

        Raises:
            ChildFailure: it took longer, the process ended, its loader raised, or it gave another
                answer.
        """
        try:
            answer = self._decoder.decode(self._channel.receive(timeout_s))
        except TimeoutError:
            raise self._silent(timeout_s) from None
        except EOFError:
            raise self._ended() from None
        except msgspec.DecodeError as error:
            raise ChildFailure("error", f"its answer cannot be read: {error}") from None
        if isinstance(answer, Failed):
            raise ChildFailure(answer.verdict, answer.message, traceback=answer.traceback)
        if not isinstance(answer, kind):
            name = type(answer).__name__
            raise ChildFailure("error", f"it answered {name} instead of {kind.__name__}")
        return answer

    def kill(self) -> None:
        """End its processes, from any thread; `hear` then raises, and `close` is still due."""
        with self._ending:
            if not self._is_closed:
                self._kill()

    def _kill(self) -> None:
        # Those in other groups, such as the servers of a cluster, are found while it lives.
        started = processes_below(self._process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in started:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def close(self) -> None:
        """End the process and everything it started; later calls do nothing.

        Raises:
            PermissionError: it now runs as another user and cannot be killed.
        """
        with self._ending:
            if self._is_closed:
                return
            self._is_closed = True
            with finishing():
                self._end()

    def _end(self) -> None:
        self._channel.close()
        self._errors.close()
        # The group id of a process that is not reaped cannot be reused; that of a lost one can.
        try:
            if not self._process.is_lost:
                self._kill()
        except PermissionError:  # macOS also raises this for a group that has ended
            if not self._process.has_ended():
                raise
        self._process.reap()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _silent(self, timeout_s: float) -> ChildFailure:
        """The failure of a process that does not answer."""
        if self._has_ended(within_s=0):  # processes that it started kept the pipes open
            return self._ended()
        stacks = self._stacks()
        self.close()
        frame = _INNERMOST.search(stacks)
        place = f", in {frame[3]} ({frame[1]}, line {frame[2]})" if frame else ""
        message = f"no answer within {timeout_s:g} s{place}; it was ended"
        return ChildFailure("hang", message, traceback=stacks)

    def _ended(self) -> ChildFailure:
        """The failure of a process that closed its pipes."""
        has_ended = self._has_ended(within_s=EXIT_TIMEOUT_S)
        if self._memory_excess is not None:
            self.close()
            return ChildFailure("out-of-memory", f"{self._memory_excess}; it was ended")
        last_words = self._last_words()
        self.close()
        if not has_ended:
            return ChildFailure("crash", "it closed its pipes and went on; it was ended")
        if self._process.is_lost:
            return LostError()
        return ChildFailure(*classify_exit(self._process.reap(), last_words))

    def _has_ended(self, within_s: float) -> bool:
        """Whether it ends by itself in time; it is not reaped, which keeps its id from reuse."""
        deadline = time.monotonic() + within_s
        while not self._process.has_ended():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_EXIT_POLL_S)
        return True

    def _stacks(self) -> str:
        """The stacks of its threads, which it writes itself; empty if it is suspended."""
        start = self._errors.seek(0, os.SEEK_END)
        os.kill(self._process.pid, STACKS_SIGNAL)
        deadline = time.monotonic() + _STACKS_WAIT_S
        last, end = -1, start
        while time.monotonic() < deadline and (end == start or end != last):
            time.sleep(_EXIT_POLL_S)
            last, end = end, self._errors.seek(0, os.SEEK_END)
        self._errors.seek(start)
        return self._errors.read(_STDERR_END).decode(errors="replace")

    def _last_words(self) -> str:
        """The last line that it wrote to stderr."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _STDERR_END))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def classify_exit(code: int, last_words: str) -> tuple[Verdict, str]:
    """The verdict on a process that ended, and why.

    Args:
        code: its exit code; below 0, the signal that ended it.
        last_words: its last line on stderr; may be empty.

    >>> classify_exit(-9, "")
    ('out-of-memory', 'killed by the system, most likely for memory')
    >>> classify_exit(-7, "")
    ('shm-full', 'bus error, most likely a full /dev/shm')
    >>> classify_exit(-11, ""), classify_exit(1, "KeyError: 'x'")
    (('crash', 'SIGSEGV'), ('crash', "exit code 1: KeyError: 'x'"))
    """
    if code == -signal.SIGKILL:
        return "out-of-memory", "killed by the system, most likely for memory"
    if code == -signal.SIGBUS:
        return "shm-full", "bus error, most likely a full /dev/shm"
    names = {-number: number.name for number in signal.Signals}
    reason = names.get(code, f"exit code {code}" if code else "it ended by itself, exit code 0")
    return "crash", f"{reason}: {last_words}" if last_words else reason
