"""Self-test of the gate on this host: equal work must pass, more work must fail."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ...loaders.base.settings import LoaderSettings
from ...loaders.choosing.profile import Job
from ..plan.spec import Spec, Trial, make_trial
from ..record.results import Phase
from ..run.executor import Executor, TrialRun
from ..run.process_start import HERE
from ..run.scheduler import NullSink, Scheduler
from ..show.progress import Progress, Silent
from ..system.scratch import scratch
from ..trial.known import MORE_WORK
from ..trial.work import Data
from .gate import Gate
from .outcome import Judgement
from .rule import CONFIRM_PAIRS, SCREEN_PAIRS, Rule, smallest_effect
from .sides import ARMS, Arm, Measured, Side
from .spec import TIME, Cell, GateSpec
from .verb import MakeExecutor, child_processes

PASSES = 2  # per launch


@dataclass(frozen=True)
class SelfTest:
    """The gate's judgements on known work on this host.

    Attributes:
        equal: of the same work on both sides.
        planted: of a fifth more work in head.
    """

    equal: Judgement
    planted: Judgement

    @property
    def passed(self) -> bool:
        """Whether both verdicts are correct."""
        return (self.equal.verdict, self.planted.verdict) == ("pass", "regression")

    @property
    def noise(self) -> float:
        """The standard deviation of the log ratio of a pair with equal work."""
        compared = [one.compared for one in self.equal.findings if one.compared is not None]
        return compared[0].sd if compared else inf

    def __str__(self) -> str:
        result = "passed" if self.passed else "FAILED"
        percent = f"{MORE_WORK - 1:.0%}"
        effects = [
            f"{pairs} pairs detect a slowdown of {smallest_effect(self.noise, pairs) - 1:.0%}"
            for pairs in (SCREEN_PAIRS, CONFIRM_PAIRS)
        ]
        return (
            f"self-test {result}: equal work: {self.equal.verdict} (it must pass); {percent} more "
            f"work: {self.planted.verdict} (it must be a regression).\nNoise here: the log ratio "
            f"of a pair of launches has a standard deviation of {self.noise:.3f}; "
            f"{', '.join(effects)} with 80% power."
        )


def self_test(
    progress: Progress | None = None, make_executor: MakeExecutor = child_processes
) -> SelfTest:
    """Compare work with the same work, and with a fifth more of it."""
    with scratch() as folder:
        path = Path(folder, "one.parquet")
        pq.write_table(pa.table({"x": [0.0]}), path)  # the loaders do not read it
        data = Data(paths=[str(path)], columns=None, features=["x"], target=None)
        progress = progress or Silent()
        return SelfTest(
            _judge("known-work", data, progress, make_executor),
            _judge("known-more-work", data, progress, make_executor),
        )


def _judge(head: str, data: Data, progress: Progress, make_executor: MakeExecutor) -> Judgement:
    # With drop_last, rows are not verified.
    settings = LoaderSettings(backend="known-work", num_workers=0, drop_last=True)
    cell = Cell("work", make_trial("stream", settings, 1), {TIME: Rule()})
    with ExitStack() as stack:
        sides: dict[Arm, Side] = {}
        for arm, backend in zip(ARMS, ("known-work", head), strict=True):
            executor = make_executor(data, GateSpec(passes=PASSES), HERE)
            stack.callback(executor.close)
            scheduler = Scheduler(
                Spec(passes=PASSES, budget=None),
                [cell.trial],
                _BackendOverride(executor, backend),
                NullSink(),
                progress=progress,
                verify_launches=False,
            )
            sides[arm] = Measured(scheduler)
        return Gate([cell], sides, progress=progress).run()


@dataclass(frozen=True)
class _BackendOverride:
    """Runs another backend than the trial names, so that the gate sees one trial on both sides."""

    executor: Executor
    backend: str

    def run(self, trial: Trial, phase: Phase, **options: Any) -> TrialRun:
        settings = msgspec.structs.replace(trial.settings, backend=self.backend)
        replaced = msgspec.structs.replace(trial, backend=self.backend, settings=settings)
        return self.executor.run(replaced, phase, **options)

    def reference(self, job: Job, files: int, **options: Any) -> TrialRun:
        return self.executor.reference(job, files, **options)

    def close(self) -> None:
        self.executor.close()
