"""A small bar chart in text, as wide as the terminal, in ASCII if it supports nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult

from .text import Text

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_FULL, _ASCII = _EIGHTHS[-1], "#"
_MOST_LABEL = 48  # characters
_LEAST_BAR = 8


@dataclass(frozen=True)
class Bar:
    """A line of the chart."""

    label: str
    value: float
    text: str
    """The value as written after the bar."""


@dataclass(frozen=True)
class Bars:
    """A chart whose longest bar is the largest value."""

    title: str
    bars: Sequence[Bar]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """One line per bar, for the terminal's width and characters as given by rich."""
        yield Text(self.title, style="bold")
        for line in self.lines(options.max_width, ascii_only=options.ascii_only):
            yield Text(line, no_wrap=True, overflow="crop")

    def lines(self, width: int, *, ascii_only: bool = False) -> Iterator[str]:
        """The bars as lines of text, for a terminal of `width` characters."""
        labels = min(max((len(bar.label) for bar in self.bars), default=0), _MOST_LABEL)
        texts = max((len(bar.text) for bar in self.bars), default=0)
        room = max(width - labels - texts - 4, _LEAST_BAR)
        most = max((bar.value for bar in self.bars), default=0.0)
        for bar in self.bars:
            drawn = _drawn(bar.value / most * room if most else 0.0, ascii_only=ascii_only)
            yield f"  {bar.label[:labels]:{labels}} {drawn} {bar.text}"


def _drawn(length: float, *, ascii_only: bool) -> str:
    """A bar; even the shortest is visible."""
    if ascii_only:
        return _ASCII * max(1, round(length))
    eighths = max(1, round(length * 8))
    return _FULL * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
