"""The parts of a report, independent of its format: sentences, tables and charts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    kind: ClassVar = "words"
    text: str
    strong: bool = False
    """Whether it is the answer, or as important."""


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    kind: ClassVar = "items"
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A shell command."""

    kind: ClassVar = "command"
    text: str


@dataclass(frozen=True)
class Grid:
    """A table of texts."""

    kind: ClassVar = "grid"
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: frozenset[str] = frozenset()
    """Columns that hold no numbers."""
    marked: frozenset[int] = frozenset()
    """Indices of highlighted rows."""
    folded: bool = False
    """Whether it is shown collapsed."""


@dataclass(frozen=True)
class Chart:
    """A chart of measurements."""

    kind: ClassVar = "chart"
    name: str
    """Unique in a report; also the stem of its files."""
    title: str
    caption: str
    """Describes the chart and its spread; also shown where the chart cannot be drawn."""
    spec: dict[str, Any]
    """A Vega-Lite specification, without theme colours."""


Part = Words | Items | Command | Grid | Chart


@dataclass(frozen=True)
class Section:
    """Parts under a heading."""

    title: str
    parts: tuple[Part, ...]
    brief: bool = True
    """Whether the short form of a report includes it."""


@dataclass(frozen=True)
class Report:
    """A report: the answer comes first."""

    title: str
    sections: tuple[Section, ...]
    about: str = ""
    """The data, machine and date of the measurement, in one line."""

    @property
    def charts(self) -> list[Chart]:
        """All its charts, in order."""
        return [part for one in self.sections for part in one.parts if isinstance(part, Chart)]
