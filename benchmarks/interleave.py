"""Comparisons: several ways (sides) to do the same work, measured in interleaved rounds."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .data import Setup

SECONDS, MIB = "s", "MiB"
T = TypeVar("T")


@dataclass(frozen=True)
class Side:
    """One way to do the work."""

    run: Callable[[], Any]
    """Does the work once. Its result is dropped outside the timing."""
    check: Callable[[Any], None] | None = None
    """Raises if the result of the warm-up is wrong."""
    measures_itself: bool = False
    """Whether `run` measures, for example in a process of its own, and returns the sample."""


@dataclass(frozen=True)
class Prepared:
    """A comparison that is ready to run."""

    sides: Mapping[str, Side]
    facts: Callable[[], dict[str, bool]] = dict
    """Called after the rounds; returns further required facts by name, and whether they hold."""


@dataclass(frozen=True)
class Comparison:
    """Ways to do the same work on the same data, measured together in one fresh process."""

    name: str
    title: str
    sides: tuple[str, ...]
    rounds: int
    prepare: Callable[[Setup], Prepared]
    unit: str = SECONDS


class UnavailableError(Exception):
    """A comparison cannot run here; the message says why."""


@dataclass(frozen=True)
class Measured:
    """The result of a comparison."""

    samples: dict[str, list[float]]
    """One value per round for each side, in the comparison's unit."""
    facts: dict[str, bool]


def measure(comparison: Comparison, setup: Setup, rounds: int) -> Measured:
    """Prepare a comparison and run its rounds in this process.

    Raises:
        UnavailableError: it cannot run here.
    """
    prepared = comparison.prepare(setup)
    if tuple(prepared.sides) != comparison.sides:
        raise AssertionError(f"{comparison.name} prepared {list(prepared.sides)}")
    samples = run_rounds(prepared.sides, rounds)
    return Measured(samples, prepared.facts())


def run_rounds(
    sides: Mapping[str, Side], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Warm up each side, check its result, then alternate all sides.

    Returns:
        One sample per round for each side, without the warm-up.
    """
    for side in sides.values():
        result = _turn(side, clock)[1]
        if side.check is not None:
            side.check(result)
        del result
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in order_of(list(sides), number):
            samples[name].append(_turn(sides[name], clock)[0])
    return samples


def order_of(names: Sequence[T], number: int) -> list[T]:
    """The order of a round: forwards in even rounds, backwards in odd ones, so that drift cancels.

    >>> order_of(["a", "b"], 0), order_of(["a", "b"], 1)
    (['a', 'b'], ['b', 'a'])
    """
    return list(names) if number % 2 == 0 else list(reversed(names))


def _turn(side: Side, clock: Callable[[], float]) -> tuple[float, Any]:
    gc.collect()
    start = clock()
    result = side.run()
    seconds = clock() - start
    return (result if side.measures_itself else seconds), result
