"""The answer and its tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..choose.recommendation import Recommendation
from ..record.emulated import label_of
from ..record.results import Results
from ..record.speedup import legend, troubles
from .answer import SHOWN_TROUBLES, answer, evidence_text, limits, tables_of


def as_markdown_table(
    header: Iterable[str], rows: Iterable[Iterable[str]], *, escaped: bool = False
) -> str:
    """A Markdown table; cells are escaped, unless `escaped` says that they are Markdown."""
    names = [escape(name) for name in header]
    lines = [f"| {' | '.join(names)} |", f"| {' | '.join('---' for _ in names)} |"]
    cells = ((cell if escaped else escape(cell) for cell in row) for row in rows)
    lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(lines)


def escape(text: str) -> str:
    """Escape text so that Markdown shows it unchanged, on one line."""
    for sign in "\\`*_{}[]<>#|~&":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.splitlines())


def as_markdown(
    results: Results,
    recommendations: Sequence[Recommendation] = (),
    notes: Sequence[str] = (),
) -> str:
    """The answer, the tables, failures and notes, in Markdown."""
    label = label_of(results)
    parts = [] if label is None else [f"**{escape(label)}**\n"]
    parts += [
        f"- **{escape(answer(found))}** {escape(evidence_text(found))}" for found in recommendations
    ]
    tables = tables_of(results, recommendations)
    for table in tables:
        cells = as_markdown_table(table.columns, table.cells)
        parts.append(f"\n**{table.title}**\n\n{cells}")
    if tables:
        parts.append(f"\n{escape(legend(tables))}")
    parts += [
        f"\n{escape(f'{found.summary.job}: {limit}')}"
        for found, limit in limits(results, recommendations)
    ]
    told = [*troubles(results)[:SHOWN_TROUBLES], *(f"note: {note}" for note in notes)]
    parts += [f"\n{escape(line)}" for line in told]
    return "\n".join(parts)
