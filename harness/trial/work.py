"""The data of a trial, and the interface of its work: timed passes and explanations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, Self

import msgspec

from ...loaders.remote.urls import RemotePath, is_url
from ...loaders.training.matrix import Columns
from ..system.pagecache import PageCache
from .fingerprint import Fingerprint
from .gpu import Metrics, Reasons


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """The files and columns of a sweep, sent to a child process once."""

    paths: list[str]
    """Of files, or URLs of objects."""
    columns: list[str] | None
    """Columns of the frame job; None means all."""
    features: list[str]
    """Columns of the training jobs."""
    target: str | None
    null_value: float = 0.0
    listed: list[tuple[int | None, str | None]] = []
    """The size and the version of each object, as a listing gave them; empty for files."""

    @classmethod
    def of(
        cls,
        files: Sequence[str],
        columns: list[str] | None,
        features: list[str],
        target: str | None,
    ) -> Self:
        """Data of files, or of objects that were listed."""
        listed = [(path.size, path.version) for path in files if isinstance(path, RemotePath)]
        paths = list(map(str, files))
        return cls(paths=paths, columns=columns, features=features, target=target, listed=listed)

    @property
    def matrix_columns(self) -> list[str]:
        """The columns of a training job's rows: the features, then the target if there is one."""
        return [*self.features, *([] if self.target is None else [self.target])]

    @property
    def of_objects(self) -> bool:
        """Whether they are objects in a store."""
        return bool(self.paths) and is_url(self.paths[0])

    def first(self, count: int) -> list[str]:
        """The first files; of objects with the size and the version."""
        if not self.listed:
            return self.paths[:count]
        objects = zip(self.paths[:count], self.listed[:count], strict=True)
        return [RemotePath(path, size, version) for path, (size, version) in objects]

    def only(self, positions: Iterable[int]) -> Self:
        """The data with only some of the files."""
        chosen = list(positions)
        return msgspec.structs.replace(
            self,
            paths=[self.paths[at] for at in chosen],
            listed=[self.listed[at] for at in chosen] if self.listed else [],
        )

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
