"""Each side of each timed comparison as a benchmark.

All sides of a comparison are measured together by the first of their tests.
"""

from __future__ import annotations

import pytest

from .interleave import SECONDS, UnavailableError
from .plan import COMPARISONS
from .replay import CLOCK

SIDES = [
    pytest.param(
        comparison,
        side,
        id=f"{comparison.name}: {side}",
        marks=pytest.mark.benchmark(group=comparison.title, timer=CLOCK),
    )
    for comparison in COMPARISONS.values()
    if comparison.unit == SECONDS
    for side in comparison.sides
]


@pytest.mark.parametrize(("comparison", "side"), SIDES)
def test_speed(benchmark, measured, comparison, side):
    try:
        samples = measured(comparison).samples[side]
    except UnavailableError as error:
        pytest.skip(str(error))
    CLOCK.replay(benchmark, samples)
