"""The Markdown report: the answer, the tables, what went wrong, the machine, the command."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..harness.metrics import METRICS, MISSING, Metric, format_bytes
from ..harness.recommendation import Recommendation
from ..harness.results import Results
from ..harness.show import as_markdown, as_markdown_table, escape
from ..harness.speedup import short_settings, troubles
from ..harness.summary import Summary

MAX_TROUBLES = 50  # a report is read; the CSV has them all


def markdown_report(results: Results, recommendations: Sequence[Recommendation] = ()) -> str:
    """The report as Markdown text; what comes from data (names, paths) is escaped."""
    header = results.header
    parts = [
        "# feedrate: speedup report",
        as_markdown(results, recommendations),
        *(_measured(found) for found in recommendations),
        "## What went wrong",
        _troubles(results),
        "## Data",
        as_markdown_table(("what", "value"), _data(msgspec.structs.asdict(header.dataset))),
        "## Machine",
        as_markdown_table(("what", "value"), _machine(results)),
        f"Measured {escape(header.created)}; {len(results.samples)} samples.",
    ]
    return "\n\n".join(parts) + "\n"


def _measured(found: Recommendation) -> str:
    """Every metric of the recommended settings, or why it is not known."""
    chosen = found.chosen
    settings = short_settings(found.job, chosen.settings)
    title = f"## All that was measured: {found.job} with {chosen.backend} ({settings})"
    rows = [_metric_row(metric, chosen) for metric in METRICS.values()]
    threads = ", ".join(f"{name} {count}" for name, count in chosen.samples[-1].threads.items())
    return "\n\n".join(
        [
            title,
            as_markdown_table(("metric", "first pass", "later", "how, or why not"), rows),
            f"Medians of {len(chosen.samples)} samples. Page cache: {chosen.page_cache}.",
            f"Threads: {escape(threads or MISSING)}.",
        ]
    )


def _metric_row(metric: Metric, summary: Summary) -> tuple[str, str, str, str]:
    first, later = summary.metric(metric.name), summary.metric(metric.name, later=True)
    reasons = [s.reasons[metric.name] for s in summary.samples if metric.name in s.reasons]
    told = metric.how if first is not None or later is not None or not reasons else reasons[0]
    return metric.label, metric.format(first), metric.format(later), told


def _troubles(results: Results) -> str:
    told = [f"- {escape(line)}" for line in troubles(results)]
    if results.truncated:
        told.append("- The last line of the results was cut off and is left out.")
    if len(told) > MAX_TROUBLES:
        told = [*told[:MAX_TROUBLES], f"- … and {len(told) - MAX_TROUBLES} more"]
    return "\n".join(told) or "Nothing: every trial delivered the original's rows."


def _data(dataset: dict[str, object]) -> list[tuple[str, str]]:
    return [
        (name, format_bytes(value) if name == "bytes" and isinstance(value, int) else str(value))
        for name, value in dataset.items()
    ]


def _machine(results: Results) -> list[tuple[str, str]]:
    machine = msgspec.structs.asdict(results.header.environment)
    versions = machine.pop("versions")
    machine["memory_bytes"] = format_bytes(machine["memory_bytes"])
    machine["gpu"] = machine["gpu"] or "none"
    return [(name, str(value)) for name, value in {**machine, **versions}.items()]
