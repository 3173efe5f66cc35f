"""Simulated landscapes: grids of settings with known times, and an executor that adds noise.

The noise is that of launches on a shared host: times vary by 12% from launch to launch. A pair in
the same round shares part of that: the log ratio of a pair has a standard deviation of 0.11. Forks
of a server share another 2% (LAUNCHES.md).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from feedrate.harness.choose.race import NEAR, PER_SERVER, SERVER_SD, contest
from feedrate.harness.plan.spec import Spec, Trial, make_trial
from feedrate.harness.record.summary import of_trials
from feedrate.harness.run.executor import PassSample, TrialRun
from feedrate.harness.run.scheduler import NullSink, Scheduler
from feedrate.harness.run.search import Search
from feedrate.harness.trial.fingerprint import Fingerprint
from feedrate.loaders.base.settings import LoaderSettings

Shape = Literal["monotone", "peaked", "flat", "cliff", "two peaks"]
SHAPES: tuple[Shape, ...] = ("monotone", "peaked", "flat", "cliff", "two peaks")

PAIR_SD = 0.11
LAUNCH_CV = 0.12
OWN_SD = PAIR_SD / math.sqrt(2)
SHARED_SD = math.sqrt(LAUNCH_CV**2 - OWN_SD**2)
DRIFT_S = 120.0  # correlation time of the machine's speed
HEAVY_DF = 4  # degrees of freedom of the heavy-tailed noise, at the same variance

WORKERS = (0, 1, 2, 4, 8, 16)
FILES = 100
START_S = 3.0
ORIGINAL_S = 6.0
WITHIN = 1.05

Cost = Callable[[Trial], float]


def trials() -> list[Trial]:
    """The original, and two backends with six worker counts, two prefetch depths and two caches."""
    settings = [LoaderSettings(backend="original", num_workers=0, prefetch=0, cache="none")]
    settings += [
        LoaderSettings(backend=backend, num_workers=workers, prefetch=prefetch, cache=cache)
        for backend in ("pytorch", "tensorflow")
        for workers in WORKERS
        for prefetch in ((0, 2) if workers else (0,))
        for cache in ("none", "memory")
    ]
    return [make_trial("frame", one, FILES) for one in settings]


def landscape(shape: Shape, random: np.random.Generator) -> Cost:
    """The true seconds of each trial in a random landscape of a shape."""
    over_workers = _over_workers(shape, random)
    slower = math.exp(random.uniform(0, 0.3))
    backends = dict(zip(random.permutation(["pytorch", "tensorflow"]), (1.0, slower), strict=True))
    unfetched, cached = math.exp(random.uniform(0, 0.15)), random.uniform(0.1, 0.9)

    def cost(trial: Trial) -> float:
        if trial.backend == "original":
            return ORIGINAL_S
        settings = trial.settings
        seconds = over_workers(settings.num_workers)
        if shape != "flat":
            seconds *= backends[trial.backend]
            seconds *= cached if settings.cache == "memory" else 1.0
            seconds *= unfetched if settings.num_workers and not settings.prefetch else 1.0
        return seconds

    return cost


def _over_workers(shape: Shape, random: np.random.Generator) -> Callable[[int], float]:
    serial, peak, curve = (
        random.uniform(0.05, 0.4),
        random.uniform(0.5, 3.5),
        random.uniform(0.03, 0.15),
    )
    edge, drop = random.choice([1, 2, 4, 8]), random.uniform(1.5, 4)
    second = math.exp(random.uniform(-0.2, 0.2))

    def position(workers: int) -> float:
        return math.log2(workers + 1)

    shapes: dict[Shape, Callable[[int], float]] = {
        "flat": lambda _: 1.0,
        "monotone": lambda workers: serial + (1 - serial) / max(0.8, workers),
        "peaked": lambda workers: 1 + curve * (position(workers) - peak) ** 2,
        "cliff": lambda workers: 1 / (1 + position(workers) / 4) if workers <= edge else drop,
        "two peaks": lambda workers: (
            1
            - 0.5 * math.exp(-((position(workers) - 1) ** 2))
            - 0.5 * second * math.exp(-((position(workers) - 3.5) ** 2))
        ),
    }
    return shapes[shape]


def memory(trial: Trial) -> float:
    """The peak memory of a trial, in bytes."""
    settings = trial.settings
    cached = 3.0 if settings.cache == "memory" else 0.0
    return 100e6 * (1 + 0.2 * settings.num_workers + 0.1 * settings.prefetch + cached)


@dataclass
class Servers:
    """The noise shared by the forks of a server, which serves `PER_SERVER` launches of a trial.

    Attributes:
        random: draws it.
    """

    random: np.random.Generator
    _luck: dict[tuple[str, int], float] = field(default_factory=dict)
    _forked: Counter[str] = field(default_factory=Counter)

    def luck(self, trial: Trial) -> float:
        """The shared noise of a trial's next fork, as log factor; a backend's trials share it."""
        server = trial.backend, self._forked[trial.id] // PER_SERVER
        self._forked[trial.id] += 1
        if server not in self._luck:
            self._luck[server] = SERVER_SD * float(self.random.standard_normal())
        return self._luck[server]


@dataclass
class NoisyExecutor:
    """Simulates launches in a landscape, with a simulated clock.

    Attributes:
        cost: the true seconds of trials.
        random: draws the noise.
        heavy: whether the noise has heavy tails.
    """

    cost: Cost
    random: np.random.Generator
    heavy: bool = False
    runs: int = 0
    now: float = 0.0
    _drift: float = 0.0
    _drifted_at: float = 0.0
    _servers: Servers = field(init=False)

    def __post_init__(self) -> None:
        self._servers = Servers(self.random)

    def clock(self) -> float:
        """The simulated time in seconds."""
        return self.now

    def run(self, trial: Trial, phase: str, *, passes: int, verify: bool, **_: Any) -> TrialRun:
        """Simulate one launch of a trial."""
        self.runs += 1
        noise = self._drifted() + self._servers.luck(trial) + OWN_SD * self._own()
        seconds = self.cost(trial) * math.exp(noise)
        self.now += seconds + START_S
        metrics: dict[str, float | None] = {
            "wall_s": seconds / passes,
            "peak_pss_bytes": memory(trial) if phase == "memory" else None,
        }
        samples = [PassSample(1000, dict(metrics), {}) for _ in range(passes)]
        found = Fingerprint("rows") if verify else None
        return TrialRun(samples, found, launch=self.runs)

    def _drifted(self) -> float:
        """The log factor of the machine's present speed, which varies about its mean."""
        keeps = math.exp((self._drifted_at - self.now) / DRIFT_S)
        fresh = SHARED_SD * math.sqrt(1 - keeps**2) * self.random.standard_normal()
        self._drift, self._drifted_at = keeps * self._drift + fresh, self.now
        return self._drift

    def _own(self) -> float:
        if not self.heavy:
            return float(self.random.standard_normal())
        return float(self.random.standard_t(HEAVY_DF)) / math.sqrt(HEAVY_DF / (HEAVY_DF - 2))

    def reference(self, *_: Any, **__: Any) -> TrialRun:
        """The original's rows."""
        return TrialRun([], Fingerprint("rows"))

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    choice: Trial
    ratio: float
    """The true time of the choice over that of the best allowed trial."""
    runs: int
    launches: int
    """Launches of the choice."""
    peak: float
    strong: bool
    """Whether the evidence is strong: no other trial is likely to be more than 5% faster."""
    tie: bool
    """Whether it is a tie: no other trial is likely to be more than 15% faster."""


def search(shape: Shape, seed: int, *, max_memory: int | None = None, heavy: bool = False) -> Found:
    """Search one landscape as `tune --budget none` does."""
    return _choose(shape, seed, "tune", max_memory=max_memory, heavy=heavy)


def exhaust(shape: Shape, seed: int, rounds: int, *, heavy: bool = False) -> Found:
    """Launch every trial of the same landscape in this many rounds."""
    return _choose(shape, seed, rounds, heavy=heavy)


def _choose(
    shape: Shape,
    seed: int,
    how: int | Literal["tune"],
    *,
    max_memory: int | None = None,
    heavy: bool = False,
) -> Found:
    random = np.random.default_rng([seed, SHAPES.index(shape)])
    cost, planned = landscape(shape, random), trials()
    executor = NoisyExecutor(cost, random, heavy)
    spec = Spec(passes=1, seed=seed, max_memory=max_memory, budget=None)
    scheduler = Scheduler(spec, planned, executor, NullSink(), clock=executor.clock)
    if how == "tune":
        Search(scheduler).run()
    else:
        for turn in range(how):
            for trial in scheduler.order(planned, turn):
                scheduler.measure_new(trial, "confirming", turn)
    measured = of_trials(scheduler.samples, (one.id for one in planned))
    race = contest(measured, max_memory=max_memory)
    choice = next(one for one in planned if one.id == race.choice.trial)
    allowed = [one for one in planned if max_memory is None or memory(one) <= max_memory]
    return Found(
        choice=choice,
        ratio=cost(choice) / min(map(cost, allowed)),
        runs=executor.runs,
        launches=race.rounds(choice.id),
        peak=memory(choice),
        strong=not race.open_rivals(running=False),
        tie=bool(race.open_rivals(running=False)) and race.worst_case_loss() <= NEAR,
    )
