"""The tables of a run: requirements, limits and all sides, as text, Markdown and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from feedrate.loaders.base.machine import Machine

from .interleave import SECONDS, Comparison, Measured
from .requirements import LIMITS, REQUIREMENTS, SPEEDUP, Limit, Outcome, compare, judge

HEADINGS = ("job", "data", "ours", "must be", "measured (lowest to highest round)", "verdict")
LIMIT_HEADINGS = ("comparison", "ours", "beside", "our speed, its is 1", "note")
SIDE_HEADINGS = ("comparison", "side", "median", "lowest", "highest", "rounds")

KEYS = ("job", "data", "ours", "must_be", "measured", "verdict")  # of the requirements, in JSON

Row = tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """All measurements of a run of the suite."""

    date: str
    command: str
    machine: Machine
    versions: Mapping[str, str]
    measured: dict[str, tuple[Comparison, Measured]] = field(default_factory=dict)
    """By the comparison's name."""

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of requirements whose comparison has run, in the table's order."""
        return [
            judge(row, found.samples, found.facts)
            for row in REQUIREMENTS
            for _, found in self._of(row.comparison)
        ]

    @property
    def limits(self) -> list[tuple[Limit, tuple[float, ...]]]:
        """Our speed as a share of each limit's, one figure per round."""
        return [
            (limit, compare(SPEEDUP, found.samples, limit.ours, (limit.limit,)))
            for limit in LIMITS
            for _, found in self._of(limit.comparison)
        ]

    def _of(self, name: str) -> list[tuple[Comparison, Measured]]:
        return [self.measured[name]] if name in self.measured else []

    def requirement_rows(self) -> list[Row]:
        """The cells of the table of requirements."""
        return [
            (
                outcome.requirement.job,
                outcome.requirement.data,
                outcome.requirement.ours,
                outcome.requirement.must_be,
                outcome.measured,
                outcome.verdict,
            )
            for outcome in self.outcomes
        ]

    def limit_rows(self) -> list[Row]:
        """The cells of the table of limits."""
        return [
            (
                self.measured[limit.comparison][0].title,
                limit.ours,
                limit.limit,
                _range(figures),
                limit.note,
            )
            for limit, figures in self.limits
        ]

    def side_rows(self) -> list[Row]:
        """The cells of the table of all sides."""
        return [
            (
                comparison.title,
                side,
                *(_value(of(values), comparison.unit) for of in (statistics.median, min, max)),
                str(len(values)),
            )
            for comparison, found in self.measured.values()
            for side, values in found.samples.items()
        ]

    def summary(self) -> str:
        """One line on how many requirements are met."""
        outcomes = self.outcomes
        met = sum(outcome.met for outcome in outcomes)
        left = len(REQUIREMENTS) - len(outcomes)
        more = f"; {left} more were not measured in this run" if left else ""
        return f"{met} of {len(outcomes)} measured requirements are met{more}."


def _range(figures: Sequence[float]) -> str:
    show = SPEEDUP.show
    return f"{show(statistics.median(figures))} ({show(min(figures))} to {show(max(figures))})"


def _value(value: float, unit: str) -> str:
    if unit != SECONDS:
        return f"{value:.4g} {unit}"
    return f"{value * 1000:.4g} ms" if value < 1 else f"{value:.4g} s"


def as_text(headings: Row, rows: Sequence[Row]) -> list[str]:
    """The lines of a table with padded columns."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *rows)
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def as_markdown(run: Run) -> str:
    """A document with all measurements of a run and its machine."""
    machine = run.machine
    memory, gpu = f"{machine.memory_bytes / (1 << 30):.0f} GiB", machine.gpu or "no GPU"
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return "\n".join(
        (
            "# Results of the benchmarks",
            "",
            "Written by the run itself; [README.md](README.md) says how it measures.",
            "",
            f"- date: {run.date}",
            f"- machine: {machine.cpu_model}, {machine.effective_cpus} CPUs, {memory}, {gpu}",
            f"- system: {machine.system}, Python {machine.python}",
            f"- versions: {versions}",
            f"- command: `{run.command}`",
            "",
            "## Requirements",
            "",
            run.summary(),
            "",
            *markdown_table(HEADINGS, run.requirement_rows()),
            "",
            "## How close to the limit",
            "",
            *markdown_table(LIMIT_HEADINGS, run.limit_rows()),
            "",
            "## All sides",
            "",
            *markdown_table(SIDE_HEADINGS, run.side_rows()),
            "",
        )
    )


def markdown_table(headings: Row, rows: Iterable[Row]) -> list[str]:
    return [_markdown_row(headings), _markdown_row(["---"] * len(headings))] + [
        _markdown_row(row) for row in rows
    ]


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(run: Run) -> str:
    """A run as JSON, with the figure of each round."""
    document: dict[str, Any] = {
        "date": run.date,
        "command": run.command,
        "machine": msgspec.to_builtins(run.machine),
        "versions": dict(run.versions),
        "requirements": [
            {
                **dict(zip(KEYS, row, strict=True)),
                "relation": outcome.requirement.relation,
                "bound": outcome.requirement.bound,
                "median": outcome.median,
                "rounds": outcome.figures,
                "met": outcome.met,
            }
            for row, outcome in zip(run.requirement_rows(), run.outcomes, strict=True)
        ],
        "limits": [
            {
                "comparison": limit.comparison,
                "ours": limit.ours,
                "limit": limit.limit,
                "rounds": figures,
            }
            for limit, figures in run.limits
        ],
        "comparisons": [
            {
                "name": comparison.name,
                "unit": comparison.unit,
                "samples": found.samples,
                "facts": found.facts,
            }
            for comparison, found in run.measured.values()
        ],
    }  # fmt: skip
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def write(run: Run, path: Path) -> None:
    """Write a run as JSON if the name ends in .json, else as Markdown."""
    text = as_json(run) if path.suffix == ".json" else as_markdown(run)
    path.write_text(text, encoding="utf-8")


def requirements_page(
    title: str,
    written: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    required: str,
    misses: Sequence[str],
) -> str:
    """A page of Markdown: its command, the table, the requirements, and those that are missed."""
    lines = [
        f"# {title}",
        "",
        written,
        "",
        *markdown_table(header, [tuple(row) for row in rows]),
        "",
        required,
        "",
        f"Missed: {'; '.join(misses)}." if misses else "All met.",
        "",
    ]
    return "\n".join(lines)
