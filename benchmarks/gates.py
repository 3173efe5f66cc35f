"""Simulated revisions for the gate: cells with known times and the noise of a shared host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from feedrate.harness.gate.gate import Gate
from feedrate.harness.gate.outcome import Judgement
from feedrate.harness.gate.rule import Rule
from feedrate.harness.gate.sides import ARMS, Arm, Measured, Side
from feedrate.harness.gate.spec import TIME, Cell
from feedrate.harness.plan.spec import Spec, Trial, make_trial
from feedrate.harness.run.executor import PassSample, TrialRun
from feedrate.harness.run.scheduler import NullSink, Scheduler
from feedrate.harness.trial.fingerprint import Fingerprint
from feedrate.loaders.base.settings import LoaderSettings

from .landscapes import Servers

Noise = Literal["normal", "heavy", "drifting"]
NOISES: tuple[Noise, ...] = ("normal", "heavy", "drifting")
CELLS = 8
CELL_S = 1.0
HEAVY_DF = 4  # degrees of freedom of heavy-tailed noise, at the same variance
DRIFT_PER_HOUR = 0.5  # share of the initial time by which a machine slows down
WANDER_SD, WANDER_S = 0.1, 60.0  # of the machine's random speed: log sd and correlation time


def cells(count: int = CELLS) -> list[Cell]:
    """Cells that are compared by their time alone."""
    return [
        Cell(
            f"cell {number}",
            make_trial("frame", LoaderSettings(backend="original", num_workers=0), number + 1),
            {TIME: Rule()},
        )
        for number in range(count)
    ]


@dataclass
class Machine:
    """The machine of both revisions, with a simulated clock.

    Attributes:
        random: draws the noise.
        pair_sd: standard deviation of the log ratio of a pair of launches.
        noise: normal, heavy-tailed, or normal on a machine that slows down and varies randomly.
        now: the clock, in seconds.
    """

    random: np.random.Generator
    pair_sd: float
    noise: Noise = "normal"
    now: float = 0.0
    _wander: float = 0.0
    _wandered_at: float = 0.0

    def seconds(self, true: float, luck: float) -> float:
        """Add noise and a server's `luck` (log factor) to the true seconds; advance the clock."""
        own = luck + self._drawn() * self.pair_sd / math.sqrt(2)
        took = true * math.exp(own + (self._drift() if self.noise == "drifting" else 0.0))
        self.now += took
        return took

    def _drawn(self) -> float:
        if self.noise != "heavy":
            return float(self.random.standard_normal())
        return float(self.random.standard_t(HEAVY_DF)) / math.sqrt(HEAVY_DF / (HEAVY_DF - 2))

    def _drift(self) -> float:
        keeps = math.exp((self._wandered_at - self.now) / WANDER_S)
        fresh = WANDER_SD * math.sqrt(1 - keeps**2) * float(self.random.standard_normal())
        self._wander, self._wandered_at = keeps * self._wander + fresh, self.now
        return self._wander + math.log1p(DRIFT_PER_HOUR * self.now / 3600)


@dataclass
class Revision:
    """One side: an executor of cells with known times."""

    machine: Machine
    slower: Mapping[str, float] = field(default_factory=dict)
    """By trial id, the factor of its time."""
    _servers: Servers = field(init=False)

    def __post_init__(self) -> None:
        self._servers = Servers(self.machine.random)

    def run(self, trial: Trial, _: str, *, passes: int, verify: bool, **__: Any) -> TrialRun:
        """Simulate one launch of a trial."""
        true = CELL_S * self.slower.get(trial.id, 1.0)
        took = self.machine.seconds(true, self._servers.luck(trial))
        done = [PassSample(1000, {TIME: took / passes}, {}) for _ in range(passes)]
        return TrialRun(done, Fingerprint("rows") if verify else None)

    def reference(self, *_: Any, **__: Any) -> TrialRun:
        """The original's rows."""
        return TrialRun([], Fingerprint("rows"))

    def close(self) -> None:
        """Nothing is open."""


def judged(
    seed: int, slower: Sequence[float] = (), *, pair_sd: float = 0.11, noise: Noise = "normal"
) -> Judgement:
    """Run the gate once on simulated revisions.

    Args:
        seed: of the noise.
        slower: factors of the times of head's first cells.
        pair_sd: standard deviation of the log ratio of a pair.
        noise: its kind.
    """
    machine = Machine(np.random.default_rng([seed, NOISES.index(noise)]), pair_sd, noise)
    planned = cells()
    planted = {cell.trial.id: times for cell, times in zip(planned, slower, strict=False)}
    sides: dict[Arm, Side] = {
        arm: Measured(
            Scheduler(
                Spec(passes=1, budget=None),
                [cell.trial for cell in planned],
                Revision(machine, planted if arm == "head" else {}),
                NullSink(),
                clock=lambda: machine.now,
                verify_launches=False,
            )
        )
        for arm in ARMS
    }
    return Gate(planned, sides, seed=seed).run()
