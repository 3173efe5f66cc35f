"""What a report consists of, whatever it is written as: sentences, tables and charts."""

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
    """Sentences that stand beside each other."""

    kind: ClassVar = "items"
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """What can be typed into a shell."""

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
    """Rows to be seen first."""
    folded: bool = False
    """Whether it is for those who look for it."""


@dataclass(frozen=True)
class Chart:
    """A picture of what was measured."""

    kind: ClassVar = "chart"
    name: str
    """Unique in a report; also the stem of its files."""
    title: str
    caption: str
    """What it shows, with what spread, in words that also stand where it cannot be drawn."""
    spec: dict[str, Any]
    """A Vega-Lite specification, without colours of a theme."""


Part = Words | Items | Command | Grid | Chart


@dataclass(frozen=True)
class Section:
    """Parts under a heading."""

    title: str
    parts: tuple[Part, ...]
    brief: bool = True
    """Whether the short form of a report has it, too."""


@dataclass(frozen=True)
class Report:
    """A report: the answer comes first."""

    title: str
    sections: tuple[Section, ...]
    about: str = ""
    """When and on what it was measured, in a line."""

    @property
    def charts(self) -> list[Chart]:
        """All its charts, in order."""
        return [part for one in self.sections for part in one.parts if isinstance(part, Chart)]
