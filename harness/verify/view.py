"""The output of `feedrate verify`: the answer, a table, each fault; for terminals and Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table

from ..show.markdown import as_markdown_table, escape
from ..show.terminal import rich_table
from ..show.text import Text
from ..system.units import counted
from .findings import EXCEPTIONS, Finding
from .outcome import Ran, Verified

COLUMNS = ("Situation", "Rows", "Steps of a rank", "Found")
TEXTS = ("Situation", "Found")


def answer_line(found: Verified) -> str:
    """The answer in one sentence."""
    who = found.loader if found.wrapper == "none" else f"{found.loader} in {found.wrapper}"
    if found.passed:
        equal = sum(one.count for one in found.findings if one.kind == "equal-rows")
        exceptions = any(one.kind in EXCEPTIONS for one in found.findings) or 2 * equal > found.rows
        were_run = counted(sum(ran.was_run for ran in found.ran), "situation")
        but = ", apart from the notes" if exceptions else ""
        return f"PASS: {who} delivers each of {counted(found.rows, 'row')} once in {were_run}{but}."
    failed = sum(1 for one in found.ran if one.faults)
    return (
        f"FAIL: {who}: {counted(len(found.faults), 'fault')} in {failed} of "
        f"{counted(len(found.ran), 'situation')}."
    )


def sentence(one: Finding) -> str:
    """A finding with its place, in one line."""
    return f"{_place(one)}: {one.text}"


def _place(one: Finding) -> str:
    return one.situation if one.epoch is None else f"{one.situation}, epoch {one.epoch}"


def as_entries(found: Verified) -> list[tuple[str, str]]:
    """The faults and then the notes, each with its kind; what is the same in all words, once."""
    places: dict[tuple[str, str], list[str]] = {}
    for is_fault in (True, False):
        for one in found.findings:
            if one.is_fault is is_fault:
                kind = one.kind if is_fault else "note"
                places.setdefault((kind, one.text), []).append(_place(one))
    return [(kind, f"{_places(at)}: {text}") for (kind, text), at in places.items()]


def _places(places: list[str]) -> str:
    others = f" and {counted(len(places) - 1, 'other place')}" if len(places) > 1 else ""
    return f"{places[0]}{others}"


def as_lines(found: Verified) -> Iterator[str]:
    """The answer, the faults, and the notes."""
    yield answer_line(found)
    yield from (f"{kind}: {text}" for kind, text in as_entries(found))


def verify_view(found: Verified) -> RenderableType:
    """The answer with its table, for a terminal."""
    table = rich_table(None, COLUMNS, [_cells(ran) for ran in found.ran], TEXTS, wrap_first=True)
    parts: list[RenderableType] = [Text(answer_line(found)), Text(), table]
    entries = Table.grid(padding=(0, 1))
    entries.add_column(no_wrap=True)
    entries.add_column()
    for kind, text in as_entries(found):
        entries.add_row(f"{kind}:", Text(text))
    if entries.row_count:
        parts += [Text(), entries]
    return Group(*parts)


def as_markdown(found: Verified) -> str:
    """The answer with its table, in Markdown."""
    answer, *more = as_lines(found)
    lines = [f"**{escape(answer)}**", "", as_markdown_table(COLUMNS, map(_cells, found.ran))]
    if more:
        lines += ["", *(f"- {escape(line)}" for line in more)]
    return "\n".join([*lines, ""])


def _cells(ran: Ran) -> tuple[str, ...]:
    return (
        ran.situation,
        f"{ran.rows:,}",
        " ".join(f"{steps:,}" for steps in _short(ran.steps)),
        counted(ran.faults, "fault") if ran.faults else "ok" if ran.was_run else "not run",
    )


def _short(steps: list[int]) -> list[int]:
    """The steps of all ranks, or of one if all take as many."""
    return steps[:1] if len(set(steps)) == 1 else steps
