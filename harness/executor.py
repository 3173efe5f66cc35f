"""Running trials: the interface, and the real thing in child processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import IO, Protocol, Self, TypeVar

import msgspec

from ..loaders.machine import effective_cpus
from ..loaders.profile import Job
from .memory import INTERVAL_S, MemorySampler
from .metrics import format_bytes
from .pagecache import AS_IS, Established, PageCache, establish
from .procfs import MemoryNow
from .protocol import (
    STACKS_SIGNAL,
    Done,
    Failed,
    FromChild,
    Go,
    LineChannel,
    OpenData,
    PassDone,
    Ready,
    Reference,
    RunTrial,
    ToChild,
)
from .results import Phase, Verdict
from .spec import Trial
from .threads import budget
from .workload import Data

START_TIMEOUT_S = 180.0  # importing TensorFlow on a busy two-core machine has taken 20 s
SHARED_CHILD = "screening children keep allocator memory and caches from trial to trial"
CHILD_MODULE = "feedrate.harness.child"
EXIT_TIMEOUT_S = 60.0  # from closing its pipes to its end: a core dump may lie between
WATCH_INTERVAL_S = 0.05  # between looks at memory where it is only limited
_EXIT_POLL_S = 0.01
_STDERR_END = 1 << 16  # bytes, in which its last words are looked for
_STACKS_WAIT_S = 2.0  # for a process to write its stacks, which it does at once or never
_INNERMOST = re.compile(r'Current thread .*\n  File "(.*)", line (\d+) in (\S+)')

Answer = TypeVar("Answer", Ready, PassDone, Done)


@dataclass(frozen=True)
class PassSample:
    """One timed pass as it came from a trial."""

    rows: int
    metrics: dict[str, float | None]
    reasons: dict[str, str]
    page_cache: Established = AS_IS


@dataclass(frozen=True)
class TrialRun:
    """One run of a trial: its passes, and how it ended."""

    passes: list[PassSample]
    fingerprint: str | None = None
    verdict: Verdict | None = None
    """None when nothing went wrong; the rows are still to be compared."""
    message: str = ""
    launch: int = 0
    notes: list[str] = field(default_factory=list)
    """The first few distinct warnings."""
    traceback: str = ""
    """Of what the loader raised, if it did."""
    threads: dict[str, int] = field(default_factory=dict)
    """Threads of the process and sizes of its pools at the end."""


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
    """A child that crashed, hung, or reported that its loader raised.

    Attributes:
        verdict: what the trial ended with.
        alive: whether the child is ready for the next trial.
        traceback: of what the loader raised.
    """

    def __init__(
        self, verdict: Verdict, message: str, *, alive: bool = False, traceback: str = ""
    ) -> None:
        super().__init__(message)
        self.verdict: Verdict = verdict
        self.alive = alive
        self.traceback = traceback


class ChildProcess:
    """One child process and the conversation with it.

    It is started anew (never forked) in a process group of its own, so that whatever it starts
    ends with it.

    Args:
        launch: its number among those of a sweep.
    """

    def __init__(self, launch: int) -> None:
        self.launch = launch
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", CHILD_MODULE, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            bufsize=0,
            env={
                **os.environ,
                **budget(effective_cpus(), os.environ),
                "TF_CPP_MIN_LOG_LEVEL": "2",
                "PYTHONUNBUFFERED": "1",
            },
        )
        assert self._process.stdin is not None  # noqa: S101 - both were opened as pipes
        assert self._process.stdout is not None  # noqa: S101
        self._channel = LineChannel(self._process.stdin, self._process.stdout)
        self._decoder = msgspec.json.Decoder(FromChild)
        self._closed = False
        self._beyond: str | None = None

    def limit(self, size: int) -> Callable[[MemoryNow], None]:
        """What watches that its processes' PSS stays below a limit, and ends them if not."""

        def watch(now: MemoryNow) -> None:
            if now.pss > size and self._beyond is None:
                self._beyond = (
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

    def say(self, request: ToChild) -> None:
        """Send a request.

        Raises:
            ChildFailure: it was not taken in the time that starting may last, or the process ended.
        """
        try:
            self._channel.send(msgspec.json.encode(request), START_TIMEOUT_S)
        except TimeoutError:
            raise self._silent(START_TIMEOUT_S) from None
        except BrokenPipeError:
            raise self._ended() from None

    def hear(self, kind: type[Answer], timeout_s: float) -> Answer:
        """The next answer, which is to be a `kind`.

        Raises:
            ChildFailure: it took longer, the process ended, its loader raised, or it said
                something else.
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
            raise ChildFailure(
                answer.verdict, answer.message, alive=True, traceback=answer.traceback
            )
        if not isinstance(answer, kind):
            name = type(answer).__name__
            raise ChildFailure("error", f"it answered {name} instead of {kind.__name__}")
        return answer

    def close(self) -> None:
        """End the process and everything it started; once is enough.

        Raises:
            PermissionError: it runs as another user by now and cannot be ended.
        """
        if self._closed:
            return
        self._closed = True
        self._channel.close()
        self._errors.close()
        # It has not been waited for, so the group's id cannot belong to anybody else yet.
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # somebody else has waited for it
        except PermissionError:  # also what macOS says of a group that has ended
            if self._process.poll() is None:
                raise
        self._process.wait()

    def _silent(self, timeout_s: float) -> ChildFailure:
        """What became of a process that does not answer."""
        if self._has_ended(within_s=0):  # what it left behind kept the pipes open
            return self._ended()
        stacks = self._stacks()
        self.close()
        found = _INNERMOST.search(stacks)
        where = f", in {found[3]} ({found[1]}, line {found[2]})" if found else ""
        why = f"no answer within {timeout_s:g} s{where}; it was ended"
        return ChildFailure("hang", why, traceback=stacks)

    def _ended(self) -> ChildFailure:
        """What became of a process whose pipes are closed."""
        by_itself = self._has_ended(within_s=EXIT_TIMEOUT_S)
        if self._beyond is not None:
            self.close()
            return ChildFailure("out-of-memory", f"{self._beyond}; it was ended")
        last_words = self._last_words()
        self.close()
        if not by_itself:
            return ChildFailure("crash", "it closed its pipes and went on; it was ended")
        return ChildFailure(*classify_exit(self._process.returncode, last_words))

    def _has_ended(self, within_s: float) -> bool:
        """Whether it ends by itself in time; it is not reaped, so that its id stays its own."""
        deadline = time.monotonic() + within_s
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while os.waitid(os.P_PID, self._process.pid, how) is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_EXIT_POLL_S)
        return True

    def _stacks(self) -> str:
        """The stacks of its threads, as it writes them; nothing from one that is stopped."""
        before = self._errors.seek(0, os.SEEK_END)
        os.kill(self._process.pid, STACKS_SIGNAL)
        deadline = time.monotonic() + _STACKS_WAIT_S
        seen, size = -1, before
        while time.monotonic() < deadline and (size == before or size != seen):
            time.sleep(_EXIT_POLL_S)
            seen, size = size, self._errors.seek(0, os.SEEK_END)
        self._errors.seek(before)
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
        last_words: its last line on stderr, or nothing.

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
    how = names.get(code, f"exit code {code}")
    return "crash", f"{how}: {last_words}" if last_words else how


@dataclass
class ChildExecutor:
    """Runs trials in child processes: one per backend while screening, a fresh one to confirm.

    Attributes:
        data: the files and columns.
        timeout_s: limit of one pass.
        first_launch: launches that an earlier run of the same sweep has made; ours count on.
        page_cache: where the files are to be before each pass; rows that are in memory before
            the job starts come from no file.
        consumer: what stands for a training step in jobs with batches.
        max_memory: PSS of a trial's processes, in bytes, beyond which they are ended.
    """

    data: Data
    timeout_s: float
    first_launch: int = 0
    page_cache: PageCache = "as-is"
    consumer: str | None = None
    max_memory: int | None = None
    _shared: dict[str, ChildProcess] = field(init=False, default_factory=dict)
    _launches: int = field(init=False)

    def __post_init__(self) -> None:
        self._launches = self.first_launch

    def run(self, trial: Trial, phase: Phase, *, passes: int, verify: bool) -> TrialRun:
        """Run a trial once, in a shared or in a fresh process."""
        fresh = phase == "confirming"
        request = RunTrial(
            job=trial.job,
            settings=trial.settings,
            files=trial.files,
            passes=passes,
            verify=verify,
            transfer=fresh,
            consumer=self.consumer,
        )

        def lead(child: ChildProcess, done: list[PassSample]) -> Done:
            return self._passes(child, request, done, sample_memory=fresh)

        return self._converse(None if fresh else trial.backend, lead)

    def reference(self, job: Job, files: int, *, ordered: bool) -> TrialRun:
        """The original's fingerprint, from the child that screens the original."""
        request = Reference(job=job, files=files, ordered=ordered)

        def ask(child: ChildProcess, _: list[PassSample]) -> Done:
            child.say(request)
            return child.hear(Done, START_TIMEOUT_S + 3 * self.timeout_s)

        return self._converse("original", ask)

    def close(self) -> None:
        """End all shared children."""
        while self._shared:
            self._shared.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _converse(
        self, backend: str | None, talk: Callable[[ChildProcess, list[PassSample]], Done]
    ) -> TrialRun:
        """Talk with the child that screens a backend, or with a fresh one that ends with it.

        `talk` adds each pass to the list as it comes: those that came count, whatever happens.
        """
        done: list[PassSample] = []
        known = self._shared.get(backend) if backend is not None else None
        child = known or self._launch(backend)
        keep = False  # a conversation that was cut short cannot be taken up again
        try:
            if known is None:
                child.say(OpenData(self.data))
            end = talk(child, done)
            keep = backend is not None
            return TrialRun(
                _with_all(done, end),
                end.fingerprint,
                launch=child.launch,
                notes=end.notes,
                threads=end.threads,
            )
        except ChildFailure as failure:
            keep = backend is not None and failure.alive
            return TrialRun(
                done,
                verdict=failure.verdict,
                message=str(failure),
                launch=child.launch,
                traceback=failure.traceback,
            )
        finally:
            if not keep:
                self._forget(child)

    def _passes(
        self, child: ChildProcess, request: RunTrial, done: list[PassSample], *, sample_memory: bool
    ) -> Done:
        """Lead the child through the passes of a trial."""
        child.say(request)
        child.hear(Ready, START_TIMEOUT_S)
        with contextlib.ExitStack() as stack:
            watch = None if self.max_memory is None else child.limit(self.max_memory)
            sampled = sample_memory or watch is not None
            interval = INTERVAL_S if sample_memory else WATCH_INTERVAL_S
            sampler = (
                stack.enter_context(MemorySampler(child.pid, interval, watch)) if sampled else None
            )
            baseline = sampler.reset_peak() if sampler is not None else None
            for _ in range(request.passes):
                state = self._page_cache_for(request)
                if sampler is not None:
                    sampler.reset_peak()
                child.say(Go())
                answer = child.hear(PassDone, self.timeout_s)
                memory, why = _memory(sampler if sample_memory else None, baseline)
                metrics, reasons = answer.metrics | memory, answer.reasons | why
                done.append(PassSample(answer.rows, metrics, reasons, state))
        child.say(Go())
        return child.hear(Done, START_TIMEOUT_S + 2 * self.timeout_s)

    def _page_cache_for(self, request: RunTrial) -> Established:
        """Bring the files of a trial to where they are to be."""
        if request.job == "batches":
            return AS_IS
        try:
            return establish(self.page_cache, self.data.paths[: request.files])
        except OSError as error:
            why = f"{error.filename}: {error.strerror}"
            raise ChildFailure("error", why) from error

    def _launch(self, backend: str | None) -> ChildProcess:
        self._launches += 1
        child = ChildProcess(self._launches)
        if backend is not None:
            self._shared[backend] = child
        return child

    def _forget(self, child: ChildProcess) -> None:
        self._shared = {name: other for name, other in self._shared.items() if other is not child}
        child.close()


_MEMORY = ("baseline_pss_bytes", "peak_pss_bytes", "peak_rss_bytes", "peak_uss_bytes", "shm_bytes")


def _memory(
    sampler: MemorySampler | None, baseline: MemoryNow | None
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The memory metrics of a pass, or why there are none."""
    if sampler is None:
        return dict.fromkeys(_MEMORY), dict.fromkeys(_MEMORY, SHARED_CHILD)
    peak = sampler.peak()
    if peak is None or baseline is None:
        why = "smaps_rollup cannot be read here"
        return dict.fromkeys(_MEMORY), dict.fromkeys(_MEMORY, why)
    return {
        "baseline_pss_bytes": float(baseline.pss),
        "peak_pss_bytes": float(peak.pss),
        "peak_rss_bytes": float(peak.rss),
        "peak_uss_bytes": float(peak.uss),
        "shm_bytes": float(peak.shm),
    }, {}


def _with_all(passes: list[PassSample], end: Done) -> list[PassSample]:
    """The passes, with what was measured once for the trial."""
    return [
        replace(done, metrics=done.metrics | end.metrics, reasons=done.reasons | end.reasons)
        for done in passes
    ]
