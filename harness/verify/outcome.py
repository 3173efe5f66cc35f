"""The outcome of verifying a loader."""

from __future__ import annotations

from dataclasses import dataclass

from ...loaders.choosing.profile import Job
from ..trial.protocol import Wrapper
from .findings import Finding


@dataclass(frozen=True)
class Ran:
    """A situation that was run.

    Attributes:
        situation: which.
        rows: that all ranks delivered in its first epoch, or in the rest of it.
        steps: of each rank in its first epoch; empty if a rank failed.
        faults: findings that fail the loader.
        seconds: that it took.
    """

    situation: str
    rows: int
    steps: list[int]
    faults: int
    seconds: float

    @property
    def was_run(self) -> bool:
        """Whether its ranks came to the end."""
        return bool(self.steps)


@dataclass(frozen=True)
class Verified:
    """What verifying a loader has found.

    Attributes:
        loader: its name.
        job: `batches` or `stream`.
        wrapper: what divided the rows.
        data: what was loaded.
        rows: of the files.
        ran: the situations, in order.
        findings: faults and notes, in order.
    """

    loader: str
    job: Job
    wrapper: Wrapper
    data: str
    rows: int
    ran: list[Ran]
    findings: list[Finding]

    @property
    def faults(self) -> list[Finding]:
        """The findings that fail the loader."""
        return [found for found in self.findings if found.is_fault]

    @property
    def passed(self) -> bool:
        """Whether there is no fault."""
        return not self.faults
