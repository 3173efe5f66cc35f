"""What a trial does: the files and columns, a timed visit of the data, and its stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from ..loaders.backends import is_own
from ..loaders.matrix import Columns
from ..loaders.settings import LoaderSettings
from ..loaders.stages import Recorder
from .breakdown import stage_metrics
from .fingerprint import Fingerprint
from .gpu import Metrics, Reasons
from .pagecache import PageCache
from .timeline import Interval, attribute


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


class Work(Protocol):
    """A loader, ready to be timed."""

    def visit(self) -> Pass:
        """Visit the data once, and keep what was delivered until the next visit."""
        ...

    def fingerprint(self) -> Fingerprint:
        """Visit the data once more, untimed, and digest what is delivered."""
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


def staged(
    recorder: Recorder,
    interval: Interval,
    settings: LoaderSettings,
    steps: Iterable[Interval] = (),
    *,
    from_files: bool = True,
) -> Metrics:
    """The stages of a pass, and how many workers had nothing to do; none of a user's loader."""
    if is_own(settings.backend):
        return {}
    timeline = attribute(recorder.marks, interval, steps)
    unseen = not from_files and not timeline.parts
    metrics = stage_metrics(timeline, gathered_unseen=unseen)
    if from_files and timeline.parts and settings.cache == "none":  # else only misses are parts
        metrics["idle_workers"] = float(max(0, settings.num_workers - timeline.parts))
    return metrics
