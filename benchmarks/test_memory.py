"""Comparisons of memory and of round trips, for the table of requirements alone."""

from __future__ import annotations

import pytest

from .interleave import SECONDS
from .plan import COMPARISONS


@pytest.mark.parametrize(
    "comparison",
    [
        pytest.param(comparison, id=comparison.name)
        for comparison in COMPARISONS.values()
        if comparison.unit != SECONDS
    ],
)
def test_memory(measured, comparison):
    found = measured(comparison)
    assert all(value > 0 for values in found.samples.values() for value in values)
