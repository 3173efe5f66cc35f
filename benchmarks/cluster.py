"""A simulated cluster: the planner's own schedule, with fake nodes and a fake clock.

Trials, rounds, their order and the shares of nodes are those of a real sweep; times are made up.
Loads of the original's rows are left out.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from feedrate.harness.cluster.schedule import Launch, Schedule
from feedrate.harness.plan.spec import Spec, Trial, plan
from feedrate.harness.run.executor import Executor
from feedrate.harness.run.scheduler import NullSink, Scheduler

from .landscapes import LAUNCH_CV, SHAPES, START_S, landscape

NODE_SD = 0.03  # of the logs of the speeds of nodes of one kind; assumed
DETECTED_S = 20.0  # until Ray counts a node among the dead: about its health checks' 15 s


@dataclass(frozen=True)
class SimulatedSweep:
    """How a sweep went on a simulated cluster.

    Attributes:
        nodes: how many began.
        launches: that ended.
        repeated: launches whose node died.
        seconds: of the whole sweep.
        work_s: of all launches together.
        share_on_original_node: of the launches, those that ran on the same node as the original
            of their round, with which they are compared.
    """

    nodes: int
    launches: int
    repeated: int
    seconds: float
    work_s: float
    share_on_original_node: float

    @property
    def efficiency(self) -> float:
        """Work over the time of all nodes."""
        return self.work_s / (self.nodes * self.seconds)


def sweep_of(jobs: int, files: int, repeats: int, seed: int = 0) -> tuple[Spec, Scheduler]:
    """A real plan: the default grid of a machine with 8 CPUs."""
    spec = Spec(
        jobs=["frame", "batches", "stream"][:jobs],
        backends=["pytorch", "tensorflow"],
        workers=[0, 1, 2, 4, 8, 16],
        repeats=repeats,
        seed=seed,
    )
    trials = plan(spec, files)
    return spec, Scheduler(spec, trials, _UnusedExecutor(), NullSink())


class _UnusedExecutor(Executor):
    """An executor that is not asked."""


def simulate(
    scheduler: Scheduler, nodes: int, *, dying: Mapping[int, float] | None = None, seed: int = 0
) -> SimulatedSweep:
    """Run a sweep on fake nodes.

    Args:
        scheduler: of the sweep.
        nodes: how many there are.
        dying: by node, the second at which it dies.
        seed: of the times.
    """
    random = np.random.default_rng(seed)
    cost = _costs(random)
    speed = np.exp(random.normal(0, NODE_SD, nodes))
    schedule = Schedule.of(scheduler.rounds())
    deaths = dict(dying or {})
    order = itertools.count()  # of events at the same second
    free: list[tuple[float, int, int]] = [(0.0, next(order), node) for node in range(nodes)]
    heapq.heapify(free)
    idle: list[int] = []
    ran_on: dict[Launch, int] = {}
    work_s = ended = 0.0
    repeated = 0
    running: dict[int, Launch] = {}
    while free:
        now, _, node = heapq.heappop(free)
        if node in running:
            launch = running.pop(node)
            if node in deaths and now >= deaths[node] + DETECTED_S:
                schedule.lost(str(node))
                repeated += 1
                for other in idle:
                    heapq.heappush(free, (now, next(order), other))
                idle.clear()
                continue
            schedule.done(str(node))
            ran_on[launch] = node
            ended = max(ended, now)
        if node in deaths and now >= deaths[node]:
            continue
        launch_next = schedule.take(str(node))
        if launch_next is None:
            idle.append(node)
            continue
        noise = math.exp(random.normal(0, LAUNCH_CV))
        seconds = START_S + scheduler.spec.passes * cost(launch_next.trial) * noise * speed[node]
        end = now + seconds
        if node in deaths and end > deaths[node]:
            end = deaths[node] + DETECTED_S
        else:
            work_s += seconds
        running[node] = launch_next
        heapq.heappush(free, (end, next(order), node))
    if not schedule.is_done:
        raise RuntimeError("the simulated sweep did not end")
    return SimulatedSweep(nodes, len(ran_on), repeated, ended, work_s, _together(ran_on))


def _costs(random: np.random.Generator) -> Callable[[Trial], float]:
    """Seconds of a pass: a random landscape for each job, in proportion to the files."""
    by_job = {
        job: landscape(SHAPES[random.integers(len(SHAPES))], random)
        for job in ("frame", "batches", "stream")
    }
    return lambda trial: by_job[trial.job](trial) * trial.files / 100


def _together(ran_on: Mapping[Launch, int]) -> float:
    """The share of launches on the node of their round's original."""
    original = {
        (one.turn, one.trial.job, one.trial.files): node
        for one, node in ran_on.items()
        if one.trial.backend == "original"
    }
    others = [(one, node) for one, node in ran_on.items() if one.trial.backend != "original"]
    same = sum(original[one.turn, one.trial.job, one.trial.files] == node for one, node in others)
    return same / len(others)
