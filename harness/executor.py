"""Running trials: the interface, and the real thing in child processes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO, Protocol, Self

import msgspec

from ..loaders.profile import Job
from .memory import MemorySampler
from .protocol import (
    Done,
    Failed,
    FromChild,
    Go,
    OpenData,
    PassDone,
    Ready,
    Reference,
    RunTrial,
    ToChild,
)
from .results import Phase, Verdict
from .spec import Trial
from .workload import Data

START_TIMEOUT_S = 180.0  # importing TensorFlow on a busy two-core machine has taken 20 s
SHARED_CHILD = "screening children keep allocator memory and caches from trial to trial"
CHILD_MODULE = "feedrate.harness.child"
# A read from the pipe; messages are far smaller.
_CHUNK = 1 << 16


@dataclass(frozen=True)
class PassSample:
    """One timed pass as it came from a trial."""

    rows: int
    metrics: dict[str, float | None]
    reasons: dict[str, str]


@dataclass(frozen=True)
class TrialRun:
    """One run of a trial: its passes, and how it ended."""

    passes: list[PassSample]
    fingerprint: str | None = None
    verdict: Verdict | None = None
    """None when nothing went wrong; the rows are still to be compared."""
    message: str = ""
    launch: int = 0


class Executor(Protocol):
    """Runs trials somewhere."""

    def run(self, trial: Trial, phase: Phase, *, passes: int, verify: bool) -> TrialRun:
        """Run a trial once; what goes wrong with it is in the answer, not raised."""
        ...

    def reference(self, job: Job, files: int, *, ordered: bool) -> TrialRun:
        """The fingerprint of the original's rows, in an otherwise empty run."""
        ...

    def close(self) -> None:
        """End all processes."""
        ...


class ChildFailure(Exception):  # noqa: N818 - it is a verdict that travels, not only an error
    """A child that crashed, hung, or reported that its loader raised."""

    def __init__(self, verdict: Verdict, message: str, *, alive: bool = False) -> None:
        super().__init__(message)
        self.verdict: Verdict = verdict
        self.alive = alive


class ChildProcess:
    """One child process and the conversation with it.

    It is started anew (never forked) in a process group of its own, so that whatever it starts
    ends with it.

    Args:
        data: the files and columns, told to it first.
    """

    def __init__(self, data: Data) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", CHILD_MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            bufsize=0,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"},
        )
        self._buffer = b""
        self._decoder = msgspec.json.Decoder(FromChild)
        self.say(OpenData(data))

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def say(self, request: ToChild) -> None:
        """Send a request."""
        assert self._process.stdin is not None  # noqa: S101 - it was opened as a pipe
        try:
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
        except BrokenPipeError:
            raise self._ended() from None

    def hear(self, timeout_s: float) -> FromChild:
        """The next answer.

        Raises:
            ChildFailure: it took longer, the process ended, or its loader raised.
        """
        assert self._process.stdout is not None  # noqa: S101 - it was opened as a pipe
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, left))
            if not ready:
                self.close()
                raise ChildFailure("hang", f"no answer within {timeout_s:g} s; it was ended")
            chunk = os.read(self._process.stdout.fileno(), _CHUNK)
            if not chunk:
                raise self._ended()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: FromChild = self._decoder.decode(line)
        if isinstance(answer, Failed):
            raise ChildFailure(answer.verdict, answer.message, alive=True)
        return answer

    def close(self) -> None:
        """End the process and everything it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()
        self._errors.close()

    def _ended(self) -> ChildFailure:
        """What became of a process that ended by itself."""
        code = self._process.wait()
        if self._errors.closed:
            return ChildFailure("crash", "the process was ended")
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        last = f": {said[-1]}" if said else ""
        self.close()
        if code == -signal.SIGKILL:
            return ChildFailure("out-of-memory", "killed by the system, most likely for memory")
        if code == -signal.SIGBUS:
            return ChildFailure("shm-full", "bus error, most likely a full /dev/shm")
        if code < 0:
            return ChildFailure("crash", f"{signal.Signals(-code).name}{last}")
        return ChildFailure("crash", f"exit code {code}{last}")


@dataclass
class ChildExecutor:
    """Runs trials in child processes: one per backend while screening, a fresh one to confirm.

    Attributes:
        data: the files and columns.
        timeout_s: limit of one pass.
    """

    data: Data
    timeout_s: float
    _shared: dict[str, tuple[ChildProcess, int]] = field(default_factory=dict)
    _launches: int = 0

    def run(self, trial: Trial, phase: Phase, *, passes: int, verify: bool) -> TrialRun:
        """Run a trial once, in a shared or in a fresh process."""
        fresh = phase == "confirming"
        child, launch = self._launch() if fresh else self._shared_child(trial.backend)
        done: list[PassSample] = []
        request = RunTrial(
            job=trial.job,
            settings=trial.settings,
            files=trial.files,
            passes=passes,
            verify=verify,
            transfer=fresh,
        )
        try:
            child.say(request)
            end = self._passes(child, passes, done, sample_memory=fresh)
            run = TrialRun(_with_all(done, end), end.fingerprint, launch=launch)
        except ChildFailure as failure:
            if not failure.alive:
                self._forget(child)
            run = TrialRun(done, None, failure.verdict, str(failure), launch)
        finally:
            if fresh:
                child.close()
        return run

    def reference(self, job: Job, files: int, *, ordered: bool) -> TrialRun:
        """The original's fingerprint, from the child that screens the original."""
        child, launch = self._shared_child("original")
        try:
            child.say(Reference(job=job, files=files, ordered=ordered))
            answer = child.hear(START_TIMEOUT_S + 3 * self.timeout_s)
            found = answer.fingerprint if isinstance(answer, Done) else None
            return TrialRun([], found, launch=launch)
        except ChildFailure as failure:
            if not failure.alive:
                self._forget(child)
            return TrialRun([], None, failure.verdict, str(failure), launch)

    def close(self) -> None:
        """End all shared children."""
        for child, _ in self._shared.values():
            child.close()
        self._shared.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _passes(
        self, child: ChildProcess, passes: int, done: list[PassSample], *, sample_memory: bool
    ) -> Done:
        """Lead the child through its passes; `done` keeps those that came, whatever happens."""
        answer = child.hear(START_TIMEOUT_S)
        if not isinstance(answer, Ready):
            raise ChildFailure("error", f"unexpected answer {type(answer).__name__}", alive=False)
        with contextlib.ExitStack() as stack:
            sampler = stack.enter_context(MemorySampler(child.pid)) if sample_memory else None
            baseline = sampler.reset_peak() if sampler is not None else None
            for _ in range(passes):
                if sampler is not None:
                    sampler.reset_peak()
                child.say(Go())
                answer = child.hear(self.timeout_s)
                assert isinstance(answer, PassDone)  # noqa: S101 - the protocol's order
                memory, why = _memory(sampler, baseline)
                done.append(PassSample(answer.rows, answer.metrics | memory, answer.reasons | why))
        child.say(Go())
        end = child.hear(START_TIMEOUT_S + 2 * self.timeout_s)
        assert isinstance(end, Done)  # noqa: S101 - the protocol's order
        return end

    def _launch(self) -> tuple[ChildProcess, int]:
        self._launches += 1
        return ChildProcess(self.data), self._launches

    def _shared_child(self, backend: str) -> tuple[ChildProcess, int]:
        if backend not in self._shared:
            self._shared[backend] = self._launch()
        return self._shared[backend]

    def _forget(self, child: ChildProcess) -> None:
        child.close()
        self._shared = {
            name: shared for name, shared in self._shared.items() if shared[0] is not child
        }


_MEMORY = ("baseline_pss_bytes", "peak_pss_bytes", "peak_rss_bytes", "peak_uss_bytes", "shm_bytes")


def _memory(
    sampler: MemorySampler | None, baseline: object
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The memory metrics of a pass, or why there are none."""
    if sampler is None:
        return dict.fromkeys(_MEMORY), dict.fromkeys(_MEMORY, SHARED_CHILD)
    peak = sampler.peak()
    if peak is None or baseline is None:
        why = "smaps_rollup cannot be read here"
        return dict.fromkeys(_MEMORY), dict.fromkeys(_MEMORY, why)
    return {
        "baseline_pss_bytes": float(getattr(baseline, "pss", 0)),
        "peak_pss_bytes": float(peak.pss),
        "peak_rss_bytes": float(peak.rss),
        "peak_uss_bytes": float(peak.uss),
        "shm_bytes": float(peak.shm),
    }, {}


def _with_all(passes: list[PassSample], end: Done) -> list[PassSample]:
    """The passes, with what was measured once for the trial."""
    return [
        PassSample(done.rows, done.metrics | end.metrics, done.reasons | end.reasons)
        for done in passes
    ]
