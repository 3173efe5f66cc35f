"""How long runs take, from those that this sweep has made: what is started must end in time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..loaders.profile import Job
from .results import Phase, Sample
from .spec import Trial

# Of a backend that has not run yet: its imports and warm-up, in times of what a plain process
# takes to start. Here that is 0.45 s; torch took 1.7 s more, and TensorFlow 2.7 to 3.
STARTS = {("frame", "pytorch"): 1.5, ("frame", "original"): 1.0}
START_OF = {"pytorch": 4.0, "original": 5.0, "tensorflow": 6.5}
START = 3.0  # of any other backend: a loader of one's own
# Of the original's time, what a backend is taken to need before it has run: here all took less than
# a half. One that takes more leaves time for fewer settings and launches.
OTHERS = 0.5
# What explaining takes beside a launch: 2.2 to 3.5 s of ceilings here, and what-if questions, which
# load 2 MiB in up to five ways and 33 rounds, for 4 seconds at most (`what_if`).
CEILINGS, MOST_CEILINGS_S = 6.0, 10.0
WHAT_IF_BYTES, MOST_WHAT_IF_S = 330 << 20, 4.0
BATCHES_S = 1.0  # of rows in memory there is little to explain


@dataclass
class Costs:
    """Estimates of runs, in seconds: of a run's own kind where there was one, else the nearest.

    Attributes:
        passes: timed ones of each run; one more verifies the rows.
        process_s: what a process takes to start that imports no framework.
        pass_s: what the original takes for a file in one pass, by job.
        check_s: what the original's rows of a file take to load and digest, by job.
    """

    passes: int
    process_s: float = 0.0
    pass_s: dict[Job, float] = field(default_factory=dict)
    check_s: dict[Job, float] = field(default_factory=dict)
    _starts: dict[tuple[Job, str], float] = field(default_factory=dict)
    _ended: set[tuple[Job, str]] = field(default_factory=set)
    _screened: dict[str, float] = field(default_factory=dict)
    _per_file: dict[tuple[Job, str], float] = field(default_factory=dict)
    _launched: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _launch_starts: dict[tuple[Job, str], float] = field(default_factory=dict)
    _bytes_per_s: dict[str, float] = field(default_factory=dict)

    def note(self, trial: Trial, phase: Phase, took_s: float, samples: Sequence[Sample]) -> None:
        """Take note of a run; one that failed says nothing."""
        walls = [one.metrics.get("wall_s") for one in samples]
        if not walls or None in walls:
            return
        passing = sum(wall or 0.0 for wall in walls)
        kind = trial.job, trial.backend
        rates = [rate for one in samples if (rate := one.metrics.get("bytes_per_s")) is not None]
        if rates:
            self._bytes_per_s[trial.id] = min(rates)
        if phase == "screening":
            self.note_screened(trial, took_s, passing / len(walls))
        elif phase == "confirming":
            self._launched[trial.id].append(took_s)
            if trial.id in self._screened:
                self._launch_starts[kind] = max(0.0, took_s - self._screened[trial.id])

    def note_screened(self, trial: Trial, took_s: float, pass_s: float) -> None:
        """Take note of a run in the process that a backend's trials share.

        The first one of a backend started the process, imported and warmed up.
        """
        kind = trial.job, trial.backend
        own = took_s
        if kind not in self._starts or kind in self._ended:
            own = min(took_s, (self.passes + 1) * pass_s)
            self.note_start(*kind, took_s - own)
        self._screened[trial.id] = max(own, self._screened.get(trial.id, 0.0))
        self._per_file[kind] = max(own / trial.files, self._per_file.get(kind, 0.0))

    def note_start(self, job: Job, backend: str, took_s: float) -> None:
        """Take note of what a backend took to be imported and warmed up."""
        self._starts[job, backend] = max(0.0, took_s)
        self._ended.discard((job, backend))

    def note_ended(self, trial: Trial, took_s: float) -> None:
        """Take note of a run that was ended after so long, with the process that it was in."""
        if (trial.job, trial.backend) not in self._starts:
            self.note_start(trial.job, trial.backend, took_s)
        self._ended |= {kind for kind in self._starts if kind[1] == trial.backend}

    def start(self, job: Job, backend: str) -> float:
        """What a backend takes to be imported and warmed up."""
        usual = STARTS.get((job, backend), START_OF.get(backend, START))
        return self._starts.get((job, backend), usual * self.process_s)

    def work(self, trial: Trial) -> float:
        """All passes and the verification, by the same backend's, else by the original's speed."""
        known = self._per_file.get((trial.job, trial.backend))
        if known is not None:
            return trial.files * known
        each = self.pass_s.get(trial.job, 0.0)
        by_original = self.passes * each + max(each, self.check_s.get(trial.job, 0.0))
        return trial.files * by_original * (1.0 if trial.backend == "original" else OTHERS)

    def screening(self, trial: Trial) -> float:
        """A run in the process that the backend's trials share, which may have to be started."""
        kind = trial.job, trial.backend
        work = self._screened.get(trial.id, self.work(trial))
        if kind in self._starts and kind not in self._ended:
            return work
        return self.process_s + self.start(*kind) + work

    def launch(self, trial: Trial) -> float:
        """A run in a fresh process."""
        if trial.id in self._launched:
            return max(self._launched[trial.id][-2:])
        kind = trial.job, trial.backend
        start = self._launch_starts.get(kind, self.process_s + self.start(*kind))
        return start + self._screened.get(trial.id, self.work(trial))

    def explaining(self, trial: Trial) -> float:
        """A launch that measures stages alone, too."""
        if trial.job == "batches":
            return self.launch(trial) + BATCHES_S
        alone = min(CEILINGS * self.process_s, MOST_CEILINGS_S)
        rate = self._bytes_per_s.get(trial.id)
        asking = min(WHAT_IF_BYTES / rate, MOST_WHAT_IF_S) if rate else MOST_WHAT_IF_S
        return self.launch(trial) + alone + asking
