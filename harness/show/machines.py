"""Choices side by side, for several machines that measured the same data."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from ...loaders.base.machine import Machine
from ..choose.recommendation import Recommendation
from ..record.speedup import settings_text
from ..system.formats import format_ratio, format_rows_per_s
from ..system.units import counted
from .terminal import rich_table

TEXTS = ("Machine", "Job", "Loader", "Settings", "Evidence")
COLUMNS = ("Machine", "Job", "Loader", "Settings", "rows/s", "x all", "Evidence")


def machines_rows(
    machines: Sequence[tuple[str, Machine, Sequence[Recommendation]]],
) -> list[list[str]]:
    """A row for each job on each machine: what to use there."""
    return [
        [
            f"{name}\n  {counted(machine.effective_cpus, 'CPU')}",
            found.job,
            found.chosen.backend,
            settings_text(found.job, found.chosen.settings),
            format_rows_per_s(found.chosen.rows_per_s).removesuffix(" rows/s"),
            format_ratio(found.speedup.estimate if found.speedup else None),
            found.strength,
        ]
        for name, machine, recommendations in machines
        for found in recommendations
    ]


def machines_view(
    machines: Sequence[tuple[str, Machine, Sequence[Recommendation]]],
) -> RenderableType:
    """What to use on each machine."""
    title = "what to use on each machine"
    return rich_table(title, COLUMNS, machines_rows(machines), TEXTS)
