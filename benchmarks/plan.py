"""All comparisons, and the task that runs one of them in a fresh process."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from . import (
    caches,
    device_batches,
    frames,
    kinds,
    memory,
    object_stores,
    promises,
    seasons,
    small_loads,
    streams,
    tf_batches,
    torch_batches,
    waterfalls,
)
from .data import Setup
from .fresh import Ready, run_fresh
from .interleave import Comparison, Measured, UnavailableError, measure

COMPARISONS: dict[str, Comparison] = {
    comparison.name: comparison
    for module in (
        frames,
        kinds,
        caches,
        seasons,
        torch_batches,
        device_batches,
        tf_batches,
        streams,
        memory,
        waterfalls,
        promises,
        small_loads,
        object_stores,
    )
    for comparison in module.COMPARISONS
}


def run(comparison: Comparison, setup: Setup, rounds: int) -> Measured:
    """Measure a comparison in a fresh process, with its own scratch folder and caches.

    So the threads, allocators and caches of comparisons never affect each other.

    Raises:
        UnavailableError: it cannot run here.
        RuntimeError: it failed, or a result was wrong.
    """
    with tempfile.TemporaryDirectory(prefix=f"{comparison.name}-", dir=setup.scratch) as scratch:
        options = {
            "name": comparison.name,
            "setup": asdict(replace(setup, scratch=scratch)),
            "rounds": rounds,
        }
        environment = {
            "FEEDRATE_HOME": str(Path(scratch, "home")),
            "HF_HOME": str(Path(scratch, "hugging-face")),
        }
        answer = run_fresh(measure_task, options, environment)
    if "unavailable" in answer:
        raise UnavailableError(answer["unavailable"])
    return Measured(**answer)


def measure_task(options: dict[str, Any], ready: Ready) -> tuple[dict[str, Any], None]:
    """The task of `run` in the fresh process."""
    ready()
    try:
        measured = measure(
            COMPARISONS[options["name"]], Setup(**options["setup"]), options["rounds"]
        )
    except UnavailableError as error:
        return {"unavailable": str(error)}, None
    return asdict(measured), None
