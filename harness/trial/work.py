"""What a trial works on, and what it can be asked: timed visits, and what explains them."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ...loaders.training.matrix import Columns
from ..system.pagecache import PageCache
from .fingerprint import Fingerprint
from .gpu import Metrics, Reasons


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """The files and columns of a sweep, as a child process is told them once."""

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
    """What one timed visit of the data gave."""

    rows: int
    metrics: dict[str, float | None]
    reasons: dict[str, str] = {}
    """What there is to say about a metric, by its name."""


class Work(Protocol):
    """A loader, ready to be timed."""

    def visit(self) -> Pass:
        """Visit the data once, and keep what was delivered until the next visit."""
        ...

    def fingerprint(self) -> Fingerprint:
        """A digest of the rows of the last visit, or of one more visit, untimed."""
        ...

    def overhead(self) -> Metrics:
        """What measuring itself takes of a pass, and what the consumer does without a loader."""
        ...

    def transfer(self) -> tuple[Metrics, Reasons]:
        """How long the delivered batches take to reach a GPU."""
        ...

    def alone(self, page_cache: PageCache) -> tuple[Metrics, Reasons]:
        """How long the things that a pass consists of take alone, and why some is not known."""
        ...

    def what_if(self) -> tuple[Metrics, Reasons]:
        """What other columns or other files would save, and why some of it is not known."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...
