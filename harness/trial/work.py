"""The data of a trial, and the interface of its work: timed passes and explanations."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ...loaders.training.matrix import Columns
from ..system.pagecache import PageCache
from .fingerprint import Fingerprint
from .gpu import Metrics, Reasons


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """The files and columns of a sweep, sent to a child process once."""

    paths: list[str]
    columns: list[str] | None
    """Columns of the frame job; None means all."""
    features: list[str]
    """Columns of the training jobs."""
    target: str | None
    null_value: float = 0.0

    @property
    def training(self) -> Columns:
        """Features and target of the training jobs."""
        return Columns.of(self.features, self.target, self.null_value)


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """The results of one timed pass over the data."""

    rows: int
    metrics: dict[str, float | None]
    reasons: dict[str, str] = {}
    """Explanations of metrics, by their names."""


class Work(Protocol):
    """A loader, ready to be timed."""

    def visit(self) -> Pass:
        """Load the data once, and keep the delivered data until the next pass."""
        ...

    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the rows of the last pass, or of one more untimed pass."""
        ...

    def overhead(self) -> Metrics:
        """Time the harness's own work in a pass, and the consumer's step without a loader."""
        ...

    def transfer(self) -> tuple[Metrics, Reasons]:
        """Time copying the delivered batches to a GPU."""
        ...

    def alone(self, page_cache: PageCache) -> tuple[Metrics, Reasons]:
        """Time the parts of a pass alone; return the times, and reasons for missing ones."""
        ...

    def what_if(self) -> tuple[Metrics, Reasons]:
        """The time that fewer columns or rewritten files would save; reasons for missing ones."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...
