"""The output of the commands: tables and sentences that fit 80 columns and pipes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable

from ...loaders.choosing.profile import Entry, Profile
from ...loaders.choosing.trust import Checked
from ..choose.recommendation import Recommendation
from ..record.emulated import label_of
from ..record.results import Results
from ..record.speedup import Row, Table, legend, loader_text, troubles
from ..record.statistics import Ratio
from ..system.formats import (
    TIMES,
    format_bytes,
    format_count,
    format_ratio,
    format_rows_per_s,
    format_seconds,
)
from ..system.units import counted
from .answer import (
    SHOWN_TROUBLES,
    WATERFALL,
    answer,
    evidence_text,
    limits,
    requests_text,
    tables_of,
    unexplained,
    waterfall_note,
    waterfall_rows,
    waterfall_title,
)
from .bars import Bar, Bars
from .text import Text

CHECKED = ("Holds", "What", "Measured", "Here", "Near enough")
TEXTS = ("Loader", "Settings", "Stage", *CHECKED)  # columns of text, not numbers


def sweep_view(
    results: Results, recommendations: Sequence[Recommendation] = (), *, verbose: bool = False
) -> RenderableType:
    """The answer first, then the tables, the limits of the loaders, and problems.

    Args:
        results: a journal.
        recommendations: at most one per job.
        verbose: also show all tables and problems, and where the time of each recommended loader
            goes.
    """
    parts: list[RenderableType] = [*emulation_view(results), answers_view(recommendations)]
    every = tables_of(results, recommendations)
    tables = every if verbose else _most_files_or_marked(every)
    charted = set()
    for table in tables:
        parts.append(_speedup_table(table))
        if table.job not in charted and len(table.rows) > 1:  # the most files come first
            parts.append(_bars(table))
        charted.add(table.job)
    if tables:
        parts.append(Text(_legend_with_intervals(tables), style="dim"))
    known = limits(results, recommendations)
    for found, limit in known:
        if verbose:
            parts.append(rich_table(waterfall_title(found), WATERFALL, waterfall_rows(found)))
            notes = filter(None, [waterfall_note(found), requests_text(found)])
            parts += [Text(note, style="dim") for note in notes]
        parts.append(Text(f"{found.summary.job}: {limit}"))
    if verbose:
        jobs = {found.summary.job for found, _ in known}
        parts += [
            Text(f"{one.job}: where the time goes is not known: {unexplained(one.chosen)}.")
            for one in recommendations
            if one.job not in jobs
        ]
    problems = troubles(results, brief=not verbose)
    shown = problems if verbose else problems[:SHOWN_TROUBLES]
    parts += [Text(line, style="yellow") for line in shown]
    if len(problems) > len(shown):
        parts.append(Text(f"… and {len(problems) - len(shown)} more, which --verbose shows."))
    if not tables and not problems:
        parts.append(Text("Nothing was measured yet."))
    return Group(*parts)


def _most_files_or_marked(tables: Sequence[Table]) -> list[Table]:
    """Each job's table with the most files, and those with a recommended loader."""
    most = {table.job: table for table in reversed(tables)}  # the most files come first
    return [
        table
        for table in tables
        if table is most[table.job] or any(row.recommended for row in table.rows)
    ]


def emulation_view(results: Results) -> list[RenderableType]:
    """The label of results on emulated storage; nothing for others."""
    label = label_of(results)
    return [] if label is None else [Text(label, style="bold yellow")]


def answers_view(
    recommendations: Sequence[Recommendation], *, memory: bool = False
) -> RenderableType:
    """The answer for each job, with its evidence below; `memory`: with its peak memory."""
    parts: list[RenderableType] = []
    for found in recommendations:
        parts += [Text(answer(found), style="bold"), Text(evidence_text(found), style="dim")]
        if memory and found.chosen.peak_pss_bytes is not None:
            size = format_bytes(found.chosen.peak_pss_bytes)
            parts.append(Text(f"Peak memory: {size}.", style="dim"))
    return Group(*parts)


def _speedup_table(table: Table) -> RenderableType:
    """The table with two lines a row: the estimates, then launches and intervals."""
    speedups = ("x all",) if table.cost else ("x 1st", "x all")
    columns = ("Loader", "Settings", "1st pass", "Later", *filter(None, [table.cost]), "Peak")
    cells = [_two_lines(row, by_cost=table.cost is not None) for row in table.rows]
    return rich_table(table.title, (*columns, *speedups), cells)


def _two_lines(row: Row, *, by_cost: bool) -> list[str]:
    summary = row.summary
    times = [format_seconds(summary.first_s), format_seconds(summary.later_s)]
    if by_cost:
        times.append(format_seconds(row.cost))
    ratios = (row.speedup,) if by_cost else (row.first_speedup, row.speedup)
    return [
        f"{row.name}\n  n = {len(summary.totals)}",
        row.settings,
        *times,
        format_bytes(summary.peak_pss_bytes),
        *(_with_interval(ratio, summary.backend) for ratio in ratios),
    ]


def _with_interval(ratio: Ratio | None, backend: str) -> str:
    """A speedup, below it its interval, which the original's own does not have."""
    estimate = format_ratio(ratio.estimate if ratio else None)
    if ratio is None or ratio.n == 1 or backend == "original":
        return estimate
    low, high = (format_ratio(end).rstrip(TIMES) for end in (ratio.low, ratio.high))
    return f"{estimate}\n{low}-{high}"


def _legend_with_intervals(tables: Sequence[Table]) -> str:
    """How to read the tables: marks, columns, intervals."""
    ratios = [
        ratio
        for table in tables
        for row in table.rows
        for ratio in (row.first_speedup, row.speedup)
        if ratio is not None and ratio.n > 1 and row.summary.backend != "original"
    ]
    if not ratios:
        return legend(tables)
    least, most = min(ratios, key=lambda one: one.n), max(ratios, key=lambda one: one.n)
    spans = dict.fromkeys(f"{one.confidence:.0%} ({one.n})" for one in (least, most))
    return (
        f"{legend(tables)} Below a speedup: its interval; confidence, by the number of rounds "
        f"shared with the original: {' to '.join(spans)}."
    )


def _bars(table: Table) -> Bars:
    """The table's rates as a bar chart."""
    bars = [
        Bar(row.label, row.summary.rows_per_s, format_count(row.summary.rows_per_s))
        for row in table.rows
    ]
    return Bars(f"rows/s over {counted(table.passes, 'pass')}", bars)


def profile_view(profile: Profile, path: Path) -> RenderableType:
    """A profile: its path, its machine and data, and the settings of each job."""
    machine = profile.machine
    data = ", ".join(
        f"{dataset.data_type or dataset.folder} ({counted(dataset.files, 'file')})"
        for dataset in profile.datasets
    )
    memory = format_bytes(machine.memory_bytes)
    share = f", as one of {machine.local_ranks} ranks" if machine.local_ranks > 1 else ""
    lines = [
        f"profile  {path}",
        f"made     {profile.created}, by: {profile.command}",
        f"machine  {machine.cpu_model}, {counted(machine.effective_cpus, 'CPU')}, {memory}{share}",
        f"data     {data}",
    ]
    if profile.emulated is not None:
        lines.append(f"storage  emulated: {profile.emulated}; loaders do not use this profile")
    if not profile.entries:
        lines.append("jobs     none: the profile sets nothing")
    for entry in profile.entries:
        lines += _entry_lines(entry)
        if entry.created is not None:
            lines.append(f"         made {entry.created}, by: {entry.command}")
    return Text("\n".join(lines))


def _entry_lines(entry: Entry) -> Iterator[str]:
    """The lines of an entry: settings, rates, memory, evidence, limit and alternatives."""
    evidence = entry.evidence
    band = "" if entry.max_files is None else f" (loads of up to {entry.max_files})"
    yield (
        f"{entry.job:8} {counted(entry.files, 'file')} of {entry.data_type}{band}: "
        f"{loader_text(entry.job, entry.settings)}, chosen by "
        f"{evidence.objective}"
    )
    for name, rate in (("first pass", evidence.first), ("later", evidence.later)):
        if rate is not None:
            span = f"[{format_count(rate.low)}, {format_count(rate.high)}]"
            yield (
                f"         {name}: {format_rows_per_s(rate.rows_per_s)} {span}, "
                f"{rate.confidence:.0%} interval of {counted(rate.launches, 'launch')}"
            )
    if evidence.peak_pss_bytes is not None:
        yield f"         peak memory {format_bytes(evidence.peak_pss_bytes)}"
    yield f"         evidence {evidence.strength}: {evidence.why}"
    if evidence.limit:
        yield f"         {evidence.limit}"
    if len(evidence.front) > 1:
        yield "         time against memory: " + "; ".join(
            f"{loader_text(entry.job, point.settings)}: "
            f"{format_rows_per_s(point.rows_per_s)} in {format_bytes(point.peak_pss_bytes)}"
            for point in evidence.front
        )


def checked_view(checked: Sequence[Checked], path: Path, data: str) -> RenderableType:
    """Compare what a profile was measured on with this machine and data."""
    against = sum(not one.holds for one in checked)
    rows = [
        ("yes" if one.holds else "NO", one.what, one.then, one.now, one.near_enough)
        for one in checked
    ]
    verdict = (
        f"{path} does not hold here: loaders use safe defaults. Tune again with: feedrate tune "
        f"{data}"
        if against
        else f"{path} holds here: loaders use it."
    )
    return Group(rich_table(None, CHECKED, rows), Text(f"\n{verdict}"))


def rich_table(
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Iterable[str]],
    texts: Sequence[str] = TEXTS,
    *,
    wrap_first: bool = False,
) -> RenderableType:
    """A table with right-aligned numbers; cells are plain text, not markup.

    Args:
        title: above it.
        columns: the header.
        rows: the cells.
        texts: columns of text, not numbers; they may be wrapped.
        wrap_first: whether the first column may be wrapped, too.
    """
    view = RichTable(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
        show_edge=False,
    )
    cells = [[Text(cell) for cell in row] for row in rows]
    for position, name in enumerate(columns):
        text = name in texts
        lines = [line for row in cells for line in row[position].plain.split("\n")]
        widest = max(map(len, lines), default=0)
        whole = not text or (not position and not wrap_first)
        justify: JustifyMethod = "left" if text else "right"
        # In a narrow terminal only text is folded: a number without its end is a different one.
        view.add_column(
            name, justify=justify, no_wrap=whole, overflow="fold",
            min_width=None if text else max(widest, len(name)),
        )  # fmt: skip
    for row in cells:
        view.add_row(*row)
    return Padding(view, (1, 0, 0, 0))


def as_text(view: RenderableType, width: int = 80) -> str:
    """A view as plain text."""
    text = io.StringIO()
    # In a notebook rich would display the view at once and leave the text empty.
    Console(file=text, width=width, color_system=None, force_jupyter=False).print(view)
    return text.getvalue()
