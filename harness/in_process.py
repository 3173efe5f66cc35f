"""Running trials in the harness's own process, for debuggers and quick tests.

Results are less precise than with child processes: trials share the allocator, the imports and the
thread pools of the process. A loader that hangs or crashes also stops the harness.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from ..loaders.base.errors import InputError
from ..loaders.choosing.profile import Job
from .plan.spec import Spec, Trial
from .record.results import Phase
from .run.executor import (
    Executor,
    PassSample,
    TrialRun,
    established_for,
    no_memory,
    request_for,
    with_trial_metrics,
)
from .system.pagecache import AS_IS, PageCache
from .trial.protocol import Done, Failed, PassDone, Reference, RunTrial
from .trial.session import Session, as_failed
from .trial.work import Data

SAME_PROCESS = "the trial ran in the process of the harness"


def in_process(data: Data, spec: Spec, launched: int) -> Executor:
    """Make the executor for this process, as in `sweep(..., make_executor=in_process)`."""
    if spec.local_ranks > 1:
        raise InputError("local_ranks needs child processes, and trials run in this process")
    page_cache = msgspec.convert(spec.page_cache, PageCache)
    return InProcessExecutor(data, page_cache, spec.consumer, launched)


@dataclass
class InProcessExecutor:
    """Runs trials one after the other in this process, without time and memory limits.

    Attributes:
        data: the files and columns.
        page_cache: state of the files in the page cache before each pass.
        consumer: stand-in for a training step in jobs with batches.
        first_launch: number of launches before this run; numbering continues from it.
    """

    data: Data
    page_cache: PageCache = "as-is"
    consumer: str | None = None
    first_launch: int = 0
    _session: Session = field(init=False)
    _launches: int = field(init=False)

    def __post_init__(self) -> None:
        self._session = Session(self.data)
        self._launches = self.first_launch

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
        """Run a trial once, as one launch; it cannot be stopped, so `within_s` is ignored."""
        del within_s
        return self._collect(
            request_for(
                trial, phase, passes, self.page_cache, self.consumer, verify=verify, every=every
            )
        )

    def reference(
        self,
        job: Job,
        files: int,
        *,
        ordered: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """Return the fingerprint of the original's rows; `within_s` is ignored."""
        del within_s
        return self._collect(Reference(job=job, files=files, ordered=ordered, every=every))

    def close(self) -> None:
        """Do nothing: no process is left running."""

    def _collect(self, request: RunTrial | Reference) -> TrialRun:
        self._launches += 1
        passes: list[PassSample] = []
        end: Done | Failed | None = None
        state = AS_IS
        for answer in self._session.answers(request):
            if isinstance(answer, Done | Failed):
                end = answer
                continue
            if isinstance(answer, PassDone):
                memory, memory_reasons = no_memory(SAME_PROCESS)
                metrics, reasons = answer.metrics | memory, answer.reasons | memory_reasons
                passes.append(PassSample(answer.rows, metrics, reasons, state))
            if isinstance(request, RunTrial) and len(passes) < request.passes:
                try:
                    state = established_for(request, self.data)
                except OSError as error:
                    end = as_failed(error)
                    break
        if isinstance(end, Done):
            return TrialRun(
                with_trial_metrics(passes, end),
                end.fingerprint,
                launch=self._launches,
                notes=end.notes,
                threads=end.threads,
            )
        assert end is not None  # noqa: S101 - the last answer is `Done` or `Failed`
        return TrialRun(
            passes,
            verdict=end.verdict,
            message=end.message,
            launch=self._launches,
            traceback=end.traceback,
        )
