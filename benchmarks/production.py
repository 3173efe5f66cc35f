"""The production loader as a user-defined loader for `choice.py`: tuned, or with given settings.

An environment variable, which fresh processes inherit, describes the two sides of a comparison.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import msgspec
import pandas as pd
from feedrate.loaders import LoaderSettings, OptimizedHistoricalDataLoader, ParquetStorage

VARIABLE = "FEEDRATE_BENCHMARK_SIDES"


class Sides(msgspec.Struct, frozen=True):
    """The arguments of both sides' loaders."""

    storage: str
    profile: str
    """For the tuned side."""
    other: LoaderSettings


@functools.cache
def _loader(side: str) -> OptimizedHistoricalDataLoader:
    sides = msgspec.json.decode(os.environ[VARIABLE], type=Sides)
    storage = ParquetStorage(sides.storage)
    if side == "tuned":
        return OptimizedHistoricalDataLoader(storage, profile=sides.profile)
    return OptimizedHistoricalDataLoader(storage, settings=sides.other, profile=None)


def tuned(_: Any, files: Sequence[str], columns: Sequence[str] | None, *__: Any) -> pd.DataFrame:
    """Load with the settings of the profile."""
    return _loader("tuned").load_files(files, columns)


def other(_: Any, files: Sequence[str], columns: Sequence[str] | None, *__: Any) -> pd.DataFrame:
    """Load with the other side's settings."""
    return _loader("other").load_files(files, columns)


tuned.uses = other.uses = set()  # type: ignore[attr-defined]  # the variable has their settings
