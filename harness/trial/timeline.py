"""From the stages that threads noted to shares of a pass's wall time."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...loaders.base.stages import Mark, Recorder, stage

Interval = tuple[float, float]
"""From and to, by `perf_counter`."""

_COST_ROUNDS = 2000
_STEPPING = "step"


@dataclass(frozen=True)
class Timeline:
    """What went on between two moments."""

    shares: dict[str, float]
    """Seconds by stage; they add up to the time between the moments."""
    parts: int
    """Pieces of work that workers had."""


def attribute(marks: Sequence[Mark], window: Interval, steps: Iterable[Interval] = ()) -> Timeline:
    """Share out the time of a pass among the stages that were under way.

    A moment belongs to the innermost stage of the thread that was in one, in equal parts to the
    stages of several threads. While the consumer takes a step the moment is its own, whatever is
    loaded behind its back: that costs nothing. A moment in which no thread was in a stage is
    `handover`: one thread or process waits to hear of another, or Python runs between the stages.

    Args:
        marks: of all threads.
        window: the pass.
        steps: when the consumer was at work.
    """
    start, end = window
    events: list[tuple[float, int, str | None]] = [(at, who, name) for who, at, name in marks]
    for low, high in steps:
        events += [(low, 0, _STEPPING), (high, 0, None)]
    events.sort(key=lambda event: event[0])
    stacks: dict[int, list[str]] = defaultdict(list)
    active: Counter[str] = Counter()
    shares: dict[str, float] = defaultdict(float)
    parts, then = 0, start
    for at, thread, name in events:
        now = min(max(at, start), end)
        _share(shares, active, now - then)
        then = now
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
    _share(shares, active, end - then)
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
    """What it takes to enter and leave a stage while it is recorded, for each of the two marks."""
    with Recorder():
        start = time.perf_counter()
        for _ in range(_COST_ROUNDS):
            with stage("part"):
                pass
        return (time.perf_counter() - start) / (2 * _COST_ROUNDS)
