"""The interface of executors, which run trials, and the parts that all of them share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from ...loaders.choosing.profile import Job
from ..plan.spec import Trial
from ..record.metrics import MEMORY_METRICS
from ..record.results import Phase, Verdict
from ..system.pagecache import AS_IS, Established, PageCache, establish
from ..trial.fingerprint import Fingerprint
from ..trial.protocol import Done, RunTrial
from ..trial.work import Data


@dataclass(frozen=True)
class PassSample:
    """One timed pass as reported by a trial."""

    rows: int
    metrics: dict[str, float | None]
    reasons: dict[str, str]
    page_cache: Established = AS_IS


@dataclass(frozen=True)
class TrialRun:
    """One run of a trial: its passes, and how it ended."""

    passes: list[PassSample]
    fingerprint: Fingerprint | None = None
    verdict: Verdict | None = None
    """None if nothing went wrong; the rows are compared later."""
    message: str = ""
    launch: int = 0
    notes: list[str] = field(default_factory=list)
    """The first few distinct warnings."""
    traceback: str = ""
    """Of the loader's exception, if it raised one."""
    threads: dict[str, int] = field(default_factory=dict)
    """Threads of the process and sizes of its pools at the end."""
    out_of_time: bool = False
    """Whether it was stopped because time ran out, which is no failure of the trial."""
    server_s: float = 0.0
    """Seconds for starting a fork server, which also serves other launches."""
    reference_s: float | None = None
    """Of a reference: seconds for its rows, without the launch; None if unknown."""


class Executor(Protocol):
    """Runs trials."""

    def run(
        self,
        trial: Trial,
        phase: Phase,
        *,
        passes: int,
        verify: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """Run a trial once; its failures are returned, not raised.

        Args:
            trial: what to run.
            phase: `memory` measures memory, all others time.
            passes: number of timed passes.
            verify: whether to finish with an untimed pass for the fingerprint.
            every: that pass loads every n-th file and the last, as in `picked`; 1 is all.
            within_s: seconds after which it is stopped, with `out_of_time` set.
        """
        ...

    def reference(
        self,
        job: Job,
        files: int,
        *,
        ordered: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """Return the fingerprint of the original's rows, in a run without passes.

        Args:
            job: the job.
            files: number of files.
            ordered: whether the order of the rows counts.
            every: load every n-th file and the last, as in `picked`; 1 is all.
            within_s: seconds after which it is stopped, with `out_of_time` set.
        """
        ...

    def close(self) -> None:
        """End all processes."""
        ...


def request_for(
    trial: Trial,
    phase: Phase,
    passes: int,
    page_cache: PageCache,
    consumer: str | None,
    *,
    verify: bool,
    every: int = 1,
) -> RunTrial:
    """Build the request to run a trial."""
    return RunTrial(
        job=trial.job,
        settings=trial.settings,
        files=trial.files,
        passes=passes,
        verify=verify,
        every=every,
        transfer=phase in ("confirming", "explaining"),
        explain=phase == "explaining",
        page_cache=page_cache,
        consumer=consumer,
    )


def established_for(request: RunTrial, data: Data) -> Established:
    """Bring the files of a trial into the requested page cache state before a pass.

    Raises:
        OSError: a file cannot be opened.
    """
    if request.job == "batches":
        return AS_IS
    return establish(request.page_cache, data.paths[: request.files])


def no_memory(why: str) -> tuple[dict[str, float | None], dict[str, str]]:
    """The memory metrics of a pass whose memory is not measured."""
    return dict.fromkeys(MEMORY_METRICS), dict.fromkeys(MEMORY_METRICS, why)


def with_trial_metrics(passes: list[PassSample], end: Done) -> list[PassSample]:
    """The passes, each with the metrics that were measured once for the trial."""
    return [
        replace(one, metrics=one.metrics | end.metrics, reasons=one.reasons | end.reasons)
        for one in passes
    ]
