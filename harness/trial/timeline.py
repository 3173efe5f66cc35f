"""Turn the stages that threads recorded into shares of a pass's wall time."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...loaders.base.stages import Mark, Recorder, stage

Interval = tuple[float, float]
"""Start and end, by `perf_counter`."""

_COST_ROUNDS = 2000
_STEPPING = "step"


@dataclass(frozen=True)
class Timeline:
    """The stages within an interval."""

    shares: dict[str, float]
    """Seconds by stage; they add up to the length of the interval."""
    parts: int
    """The number of pieces of work that workers began."""


def attribute(marks: Sequence[Mark], window: Interval, steps: Iterable[Interval] = ()) -> Timeline:
    """Divide the time of a pass among the stages that were active.

    A moment belongs to the innermost stage of the thread that is in one; if several threads are in
    stages, these share it equally. During a step of the consumer, it belongs to the step: loading
    in the background then costs nothing. If no thread is in a stage other than `part`, the moment
    is `handover`: a thread or process waits for another, or Python runs between the stages.

    Args:
        marks: of all threads.
        window: start and end of the pass.
        steps: start and end of each step of the consumer.
    """
    start, end = window
    events: list[tuple[float, int, str | None]] = [(at, thread, name) for thread, at, name in marks]
    for low, high in steps:
        events += [(low, 0, _STEPPING), (high, 0, None)]
    events.sort(key=lambda event: event[0])
    stacks: dict[int, list[str]] = defaultdict(list)
    active: Counter[str] = Counter()
    shares: dict[str, float] = defaultdict(float)
    parts, previous = 0, start
    for at, thread, name in events:
        now = min(max(at, start), end)
        _share(shares, active, now - previous)
        previous = now
        parts += name == "part" and start <= at < end
        stack = stacks[thread]
        if stack:
            active[stack[-1]] -= 1
        if name is not None:
            stack.append(name)
        elif stack:
            stack.pop()
        if stack:
            active[stack[-1]] += 1
    _share(shares, active, end - previous)
    return Timeline(dict(shares), parts)


def _share(shares: dict[str, float], active: Counter[str], seconds: float) -> None:
    if seconds <= 0:
        return
    if active[_STEPPING]:
        shares[_STEPPING] += seconds
        return
    busy = {name: count for name, count in active.items() if count > 0 and name != "part"}
    total = sum(busy.values())
    for name, count in busy.items():
        shares[name] += seconds * count / total
    if not busy:
        shares["handover"] += seconds


def mark_seconds() -> float:
    """The time to record one mark: half the time to enter and leave a stage."""
    with Recorder():
        start = time.perf_counter()
        for _ in range(_COST_ROUNDS):
            with stage("part"):
                pass
        return (time.perf_counter() - start) / (2 * _COST_ROUNDS)
