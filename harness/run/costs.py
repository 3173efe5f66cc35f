"""Estimate how long runs take, from earlier runs of the sweep, so that runs end in time."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...loaders.choosing.profile import Job
from ..choose.race import PER_SERVER
from ..plan.spec import Trial
from ..record.results import Phase, Sample
from ..record.summary import LONG_S

# Time of a backend's first launch without its passes, as a multiple of the first process without a
# framework, which took 0.8 s here. Forked launches of the frame job took half as long, torch 3.4 to
# 5.2 times and TensorFlow 6.2 to 7 times as long, mostly for the fork server. A server serves four
# rounds, so later launches take less. New processes, in which memory is measured, take as long as
# first launches.
STARTS = {("frame", "pytorch"): 1.0, ("frame", "original"): 0.7}
START_OF = {"pytorch": 4.5, "original": 4.5, "tensorflow": 7.0}
START = 3.0  # of any other backend: a custom loader
AGAIN = 0.6  # later launches, as a share of the first
NEW_PROCESS = 1.2  # lower limit for a new process
# Assumed time of a backend that has not run yet, as a share of the original's: here all took less
# than half. If one takes longer, there is time for fewer settings and launches.
OTHERS = 0.5
# Time of explaining in addition to a launch: 2.2 to 3.5 s for ceilings here, and at most 4 s for
# what-ifs, which load 2 MiB in up to five ways and 33 rounds (`what_if`).
CEILINGS, MOST_CEILINGS_S = 6.0, 10.0
WHAT_IF_BYTES, MOST_WHAT_IF_S = 330 << 20, 4.0
BATCHES_S = 1.0  # of the batches job: rows in memory leave little to explain
LATEST = 4  # launches of a backend whose mean is its estimate


@dataclass
class Costs:
    """Estimates of launches, in seconds: from the trial's own launches, else from similar ones.

    Attributes:
        passes: timed passes per launch.
        process_s: start of a process that imports no framework.
        pass_s: time of the original per file in one pass, by job.
        check_s: time to load and digest the original's rows per file, by job.
    """

    passes: int
    process_s: float = 0.0
    pass_s: dict[Job, float] = field(default_factory=dict)
    check_s: dict[Job, float] = field(default_factory=dict)
    _starts: dict[tuple[Job, str], deque[float]] = field(default_factory=dict)
    _servers: dict[tuple[Job, str], float] = field(default_factory=dict)
    _work: dict[str, float] = field(default_factory=dict)
    _per_file: dict[tuple[Job, str], float] = field(default_factory=dict)
    _memory: dict[str, float] = field(default_factory=dict)
    _bytes_per_s: dict[str, float] = field(default_factory=dict)
    _launched: dict[str, deque[float]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=2))
    )

    def note(
        self,
        trial: Trial,
        phase: Phase,
        took_s: float,
        samples: Sequence[Sample],
        server_s: float = 0.0,
        next_passes: int | None = None,
    ) -> None:
        """Record a launch; failed launches are ignored.

        Args:
            trial: the trial that was launched.
            phase: the purpose of the launch.
            took_s: its total time.
            samples: its passes.
            server_s: the part of `took_s` that starting a fork server took.
            next_passes: passes of the trial's next launch, if fewer.
        """
        took_s -= server_s
        walls = [sample.metrics.get("wall_s") for sample in samples]
        if not walls or None in walls:
            return
        passes_s = sum(wall or 0.0 for wall in walls)
        kind = trial.job, trial.backend
        if server_s:
            self._servers[kind] = server_s
        rates = [rate for s in samples if (rate := s.metrics.get("bytes_per_s")) is not None]
        if rates:
            self._bytes_per_s[trial.id] = min(rates)
        if phase == "memory":
            self._memory[trial.id] = took_s
        if phase != "confirming":
            return
        share = 1.0 if next_passes is None else min(1.0, next_passes / len(walls))
        self._launched[trial.id].append(took_s - passes_s + passes_s * share)
        self._work[trial.id] = max(passes_s, self._work.get(trial.id, 0.0))
        self._per_file[kind] = max(passes_s / trial.files, self._per_file.get(kind, 0.0))
        self.note_start(*kind, took_s - passes_s)

    def note_start(self, job: Job, backend: str, took_s: float, server_s: float = 0.0) -> None:
        """Record how long a launch of a backend took, without its passes and its fork server."""
        if server_s:
            self._servers[job, backend] = server_s
        latest = self._starts.setdefault((job, backend), deque(maxlen=LATEST))
        latest.append(max(0.0, took_s))

    def start(self, job: Job, backend: str, *, again: bool = False) -> float:
        """Estimate a launch without its passes: starting, warming up and verifying.

        Args:
            job: the job.
            backend: the backend's name.
            again: whether it is a later launch of the backend.
        """
        latest = self._starts.get((job, backend))
        if latest:
            return sum(latest) / len(latest) + self._servers.get((job, backend), 0.0) / PER_SERVER
        first = self.process_s * _usual_start(job, backend)
        return AGAIN * first if again and (job, backend) not in STARTS else first

    def work(self, trial: Trial, *, again: bool = False) -> float:
        """Estimate all passes: by the speed of the trial, else of its backend, else the original.

        The original's rows are not verified, and its later launches have one pass if passes are
        long (`has_alike_passes`).
        """
        if trial.id in self._work:
            return self._work[trial.id]
        per_file = self._per_file.get((trial.job, trial.backend))
        if per_file is not None:
            return trial.files * per_file
        pass_s = self.pass_s.get(trial.job, 0.0)
        if trial.backend == "original":
            has_one_pass = again and trial.files * pass_s >= LONG_S
            return trial.files * pass_s * (1 if has_one_pass else self.passes)
        by_original = self.passes * pass_s + max(pass_s, self.check_s.get(trial.job, 0.0))
        return trial.files * by_original * OTHERS

    def launch(self, trial: Trial, *, again: bool = False) -> float:
        """Estimate a timed launch; `again` as in `start`."""
        if trial.id in self._launched:
            server_s = self._servers.get((trial.job, trial.backend), 0.0)
            return max(self._launched[trial.id]) + server_s / PER_SERVER
        return self.start(trial.job, trial.backend, again=again) + self.work(trial, again=again)

    def memory(self, trial: Trial) -> float:
        """Estimate a launch that measures memory, in a new process."""
        if trial.id in self._memory:
            return self._memory[trial.id]
        start = max(NEW_PROCESS, _usual_start(trial.job, trial.backend))
        return start * self.process_s + self.work(trial)

    def explaining(self, trial: Trial) -> float:
        """Estimate a launch that also measures stages alone."""
        if trial.job == "batches":
            return self.launch(trial) + BATCHES_S
        ceilings = min(CEILINGS * self.process_s, MOST_CEILINGS_S)
        rate = self._bytes_per_s.get(trial.id)
        what_ifs = min(WHAT_IF_BYTES / rate, MOST_WHAT_IF_S) if rate else MOST_WHAT_IF_S
        return self.launch(trial) + ceilings + what_ifs


def _usual_start(job: Job, backend: str) -> float:
    """Estimate the first launch of a backend without its passes, as a multiple of `process_s`."""
    return STARTS.get((job, backend), START_OF.get(backend, START))
