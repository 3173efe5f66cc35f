"""Compare a trial's rows with the original's: on all files, or on a sample of very many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import TYPE_CHECKING

from ...loaders.base.errors import InputError
from ...loaders.choosing.profile import Job
from ..plan.spec import Spec, Trial
from ..record.results import Verdict
from ..record.sampling import described, picked
from ..system.formats import format_seconds
from ..system.units import counted
from ..trial.fingerprint import Fingerprint, difference

if TYPE_CHECKING:
    from .executor import Executor, TrialRun

PACE_FILES = 8  # on which the original's speed is measured
SLOW_S = 5.0  # to start a process and load a file: beyond it, the file takes most of the time
TIMEOUTS = 2.0  # limit of a reference, in timeouts: each pass of the original may take one
BUDGET_SHARE = 0.2  # limit of a reference, as a share of a job's budget


class OutOfTimeError(InputError):
    """Loading the original's rows took longer than the budget allows."""


@dataclass(frozen=True)
class Pace:
    """Seconds to load and digest the original's rows."""

    start_s: float
    """Of the first request: starting the process, and one file."""
    file_s: float
    """Of each further file."""


@dataclass(frozen=True)
class VerificationResult:
    """The result of comparing a trial's rows with the original's."""

    verdict: Verdict
    digest: str | None = None
    why: str = ""
    every: int = 1
    """Every n-th file and the last were compared, see `picked`; 1: all files."""


@dataclass
class RowVerifier:
    """Compares the rows of trials with the original's rows, which it loads once.

    Attributes:
        executor: loads the original's rows.
        spec: has the time limit.
        clock: seconds, monotonic.
        seconds: time limit for loading the original's rows of one job and number of files. If
            all files would take longer at the measured speed, a sample is compared; `inf`: all
            files are always compared.
    """

    executor: Executor
    spec: Spec
    clock: Callable[[], float]
    rows: Callable[[int], int | None] = lambda _: None
    """Returns the number of rows in the first n files, from their footers; None if unknown."""
    seconds: float = field(init=False)
    stop_at: float | None = None
    """Clock time at which loading the original's rows is stopped."""
    _references: dict[tuple[Job, int, bool, int], TrialRun] = field(
        init=False, default_factory=dict
    )
    _paces: dict[Job, Pace] = field(init=False, default_factory=dict)
    _rows: dict[int, int | None] = field(init=False, default_factory=dict)
    _every: dict[tuple[Job, int], int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.seconds = TIMEOUTS * self.spec.timeout_s

    def limit_to_budget(self, budget_s: float) -> None:
        """Limit `seconds` to a share of a budget, too."""
        self.seconds = min(TIMEOUTS * self.spec.timeout_s, BUDGET_SHARE * budget_s)

    def pace(self, job: Job, files: int, *, enough_s: float | None = None) -> Pace:
        """Measure how fast the original's rows load: one file, then a few spread over all.

        Args:
            job: the job.
            files: number of all files.
            enough_s: load only as many of the few files as load in this time. Since the first load
                also starts the process, its file is loaded again to measure the speed, unless it
                was slow.

        Raises:
            OutOfTimeError: `stop_at` was reached first.
            InputError: the original cannot load the files, or not in time.
        """
        if job not in self._paces:
            start = self.clock()
            self._load(job, 1, 1, ordered=False)
            file_s = start_s = self.clock() - start
            count = PACE_FILES
            if enough_s is not None:
                if start_s <= SLOW_S:
                    file_s = self._timed_load(job, 1, 1, ordered=True)
                count = fitting(enough_s, file_s)
            if files > 1 and count > 1:
                every = ceil(files / count)
                seconds = self._timed_load(job, files, every, ordered=False)
                file_s = seconds / len(picked(files, every))
            self._paces[job] = Pace(start_s, file_s)
        return self._paces[job]

    def every(self, trial: Trial) -> int:
        """Return n if the rows of every n-th file and the last are compared; 1 is all files.

        Few files are always compared in full. Of more, as many are compared as fit into the time
        limit at the measured pace.
        """
        key = trial.job, trial.files
        if key not in self._every:
            step = 1
            if trial.files > 2 * PACE_FILES and self.seconds < inf:
                file_s = self.pace(trial.job, trial.files).file_s
                if file_s * trial.files > self.seconds:
                    step = ceil(trial.files / max(PACE_FILES, int(self.seconds / file_s)))
            self._every[key] = step
        return self._every[key]

    def needed(self, trial: Trial) -> float:
        """Estimate the seconds to load the original's rows; 0 if loaded or the pace is unknown."""
        ordered = _is_ordered(trial)
        pace = self._paces.get(trial.job)
        if pace is None or (trial.job, trial.files, ordered, self.every(trial)) in self._references:
            return 0.0
        return pace.file_s * len(picked(trial.files, self.every(trial)))

    def expected(self, trial: Trial) -> Fingerprint:
        """Return the fingerprint of the original's rows for the same job and files.

        Raises:
            OutOfTimeError: `stop_at` was reached first.
            InputError: the original cannot load them, so nothing can be compared.
        """
        return self._load(trial.job, trial.files, self.every(trial), ordered=_is_ordered(trial))

    def of_original(self, trial: Trial) -> VerificationResult:
        """Return the result for the original itself, whose rows are correct by definition."""
        return VerificationResult("ok", self.expected(trial).digest, every=self.every(trial))

    def compare(self, trial: Trial, run: TrialRun) -> VerificationResult:
        """Compare a run's rows with the original's; if they differ, say how."""
        actual, every = run.fingerprint, self.every(trial)
        if actual is None:
            return VerificationResult("unverified")
        if trial.job != "frame" and trial.settings.drop_last:
            # The shuffle decides which rows are dropped.
            return VerificationResult("unverified", actual.digest)
        expected = self.expected(trial)
        if actual.digest == expected.digest:
            return VerificationResult("ok", actual.digest, every=every)
        why = "the rows delivered are not the original's"
        if every > 1:
            why += f" on {described(trial.files, every)}"
        if details := difference(actual, expected):
            why += f": {details}"
        return VerificationResult("wrong-rows", actual.digest, why, every)

    def check_row_count(
        self, trial: Trial, verified: VerificationResult, rows: int
    ) -> VerificationResult:
        """Also check the number of rows of all files if only a sample was compared.

        The verdict becomes `wrong-rows` if a timed pass counted more or fewer rows than the files'
        footers state.
        """
        if verified.every == 1 or verified.verdict != "ok":
            return verified
        if trial.files not in self._rows:
            self._rows[trial.files] = self.rows(trial.files)
        expected = self._rows[trial.files]
        if expected is None or rows == expected:
            return verified
        why = f"all files gave {counted(rows, 'row')} instead of the {expected:,} of their footers"
        return replace(verified, verdict="wrong-rows", why=why)

    def _timed_load(self, job: Job, files: int, every: int, *, ordered: bool) -> float:
        """Load the original's rows; return the seconds, without the process start if known."""
        start = self.clock()
        self._load(job, files, every, ordered=ordered)
        took = self.clock() - start
        without_start = self._references[job, files, ordered, every].reference_s
        return took if without_start is None else without_start

    def _load(self, job: Job, files: int, every: int, *, ordered: bool) -> Fingerprint:
        """Load the original's rows, unless they are loaded; return their fingerprint."""
        key = job, files, ordered, every
        count = counted(len(picked(files, every)), "file")
        if key not in self._references:
            left = None if self.stop_at is None else max(0.0, self.stop_at - self.clock())
            run = self.executor.reference(job, files, ordered=ordered, every=every, within_s=left)
            if run.out_of_time:
                raise OutOfTimeError(f"the original took too long to load {count}")
            self._references[key] = run
        reference = self._references[key]
        if reference.fingerprint is not None:
            return reference.fingerprint
        if reference.verdict == "hang":
            raise InputError(
                f"the original loader did not deliver the rows of {count} in time, so there is "
                f"nothing to compare with: {reference.message}. The limit is three times --timeout "
                f"({format_seconds(self.spec.timeout_s)}) plus the start: raise --timeout, or "
                "load less with --files or --columns"
            )
        raise InputError(
            f"the original loader cannot load this data, so there is nothing to compare "
            f"with ({reference.verdict}): {reference.message}"
        )


def fitting(seconds: float, each_s: float) -> int:
    """Return how many files fit into `seconds`: at least one, at most `PACE_FILES`.

    >>> fitting(1.0, 0.3), fitting(1.0, 0.001), fitting(1.0, 60.0)
    (3, 8, 1)
    """
    return max(1, min(PACE_FILES, int(seconds / max(each_s, seconds / PACE_FILES))))


def _is_ordered(trial: Trial) -> bool:
    """Whether the order of a trial's rows is also compared."""
    return trial.job != "frame" and not trial.settings.shuffle
