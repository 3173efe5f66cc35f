"""What a sweep of a cluster has found on each kind of machine; as text and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from rich.console import Group, RenderableType

from ...loaders.base.errors import FeedrateError
from ..plan.host import Host
from ..run.tuner import Outcome, outcome_json
from ..show.machines import machines_view
from ..show.terminal import as_text, sweep_view
from ..show.text import Text
from ..system.formats import format_bytes
from ..system.units import counted


@dataclass(frozen=True)
class Measured:
    """What was found on one kind of machine.

    Attributes:
        host: the machine; of several, the one with the least memory.
        nodes: names of the nodes of this kind.
        outcome: results, recommendations, profile; None if measuring failed.
        error: why it failed.
    """

    host: Host
    nodes: list[str]
    outcome: Outcome | None = None
    error: FeedrateError | None = None


@dataclass(frozen=True)
class ClusterOutcome:
    """The outcome for each kind of machine in a cluster, and notes."""

    machines: list[Measured]
    notes: list[str] = field(default_factory=list)

    @property
    def found(self) -> list[tuple[Measured, Outcome]]:
        """The machines that were measured to the end."""
        return [(one, one.outcome) for one in self.machines if one.outcome is not None]

    def __str__(self) -> str:
        return as_text(cluster_view(self))

    def __repr__(self) -> str:
        return str(self)


def cluster_view(outcome: ClusterOutcome, *, verbose: bool = False) -> RenderableType:
    """Each kind of machine with its answers and tables; at the end all choices side by side."""
    parts: list[RenderableType] = []
    several = len(outcome.machines) > 1
    for one in outcome.machines:
        if several:
            parts.append(Text(_title(one), style="bold"))
        if one.outcome is not None:
            found = one.outcome
            parts.append(sweep_view(found.results, found.recommendations, verbose=verbose))
        else:
            parts.append(Text(f"failed: {one.error}", style="red"))
    chosen = [
        (one.host.name, one.host.machine, found.recommendations) for one, found in outcome.found
    ]
    if several and any(recommendations for _, _, recommendations in chosen):
        parts.append(machines_view(chosen))
    return Group(*parts)


def _title(one: Measured) -> str:
    machine = one.host.machine
    memory = format_bytes(machine.memory_bytes)
    nodes = f"{counted(len(one.nodes), 'node')}: {', '.join(one.nodes)}"
    return f"{machine.cpu_model}, {counted(machine.effective_cpus, 'CPU')}, {memory} ({nodes})"


def cluster_json(outcome: ClusterOutcome) -> dict[str, Any]:
    """The outcome as JSON values, by kind of machine."""
    machines = []
    for one in outcome.machines:
        document: dict[str, Any] = {
            "machine": msgspec.to_builtins(one.host.machine),
            "nodes": one.nodes,
            "error": None if one.error is None else str(one.error),
        }
        if (found := one.outcome) is not None:
            document |= outcome_json(found)
        machines.append(document)
    return {"machines": machines}
