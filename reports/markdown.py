"""The report in Markdown: its short form, with charts as separate pictures."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping

from ..harness.show.markdown import as_markdown_table, escape
from .content import Chart, Command, Grid, Items, Part, Report, Words


def markdown_report(report: Report, pictures: Mapping[str, str] | None = None) -> str:
    """The report as Markdown text; what comes from data (names, paths) is escaped.

    Args:
        report: the report.
        pictures: paths of pictures by chart name, relative to the folder of the text; charts
            without one are left out.
    """
    parts = [f"# {escape(report.title)}", escape(report.about)]
    for section in report.sections:
        told = [text for part in section.parts for text in _told(part, pictures or {})]
        if section.brief and told:
            parts += [f"## {escape(section.title)}", *told]
    return "\n\n".join(parts) + "\n"


def _told(part: Part, pictures: Mapping[str, str]) -> Iterator[str]:
    match part:
        case Words():
            yield f"**{escape(part.text)}**" if part.strong else escape(part.text)
        case Items():
            yield "\n".join(f"- {escape(line)}" for line in part.lines)
        case Command():
            fence = "`" * max(3, _longest_run(part.text) + 1)
            yield f"{fence}\n{part.text}\n{fence}"
        case Grid():
            yield from _table(part)
        case Chart():
            if (path := pictures.get(part.name)) is not None:
                yield f"![{escape(part.title)}](<{path.replace('>', '%3E')}>)"
                yield f"*{escape(part.caption)}*"


def _table(grid: Grid) -> Iterator[str]:
    rows = [
        [f"**{cell}**" if mark and cell else cell for cell in map(escape, row)]
        for mark, row in ((n in grid.marked, row) for n, row in enumerate(grid.rows))
    ]
    table = as_markdown_table(grid.columns, rows, escaped=True)
    if grid.folded:
        # Empty lines around the table, or GitHub parses it as HTML. The title is HTML, where
        # Markdown's escapes do not work.
        title = html.escape(" ".join(grid.title.split()))
        yield f"<details><summary>{title}</summary>"
        yield table
        yield "</details>"
    else:
        yield f"**{escape(grid.title)}**"
        yield table


def _longest_run(text: str) -> int:
    """The length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)
