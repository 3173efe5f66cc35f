"""The report's sections: answer, speed, where the time goes, problems, data and machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import msgspec

from ..harness.choose.recommendation import Recommendation, shortfall
from ..harness.record.emulated import described
from ..harness.record.metrics import METRICS, REQUEST_METRICS, STAGE_METRICS, Metric
from ..harness.record.results import Results
from ..harness.record.speedup import format_times, legend, loader_text, troubles
from ..harness.record.statistics import median
from ..harness.record.summary import Summary
from ..harness.show.answer import (
    WATERFALL,
    answer,
    evidence_text,
    requests_text,
    waterfall_note,
    waterfall_rows,
    waterfall_title,
)
from ..harness.system.formats import (
    MISSING,
    format_bytes,
    format_count,
    format_seconds,
)
from ..harness.system.units import counted
from ..loaders.base.machine import Machine
from ..loaders.choosing.profile import Job
from ..loaders.parquet.dataset import Dataset
from .charts import charts_of, machines_chart
from .content import Command, Grid, Items, Part, Report, Section, Words
from .measured import Measured, rate

TITLE = "How fast the data loads"
MAX_TROUBLES = 50  # to keep the report readable; the CSV has them all
MOST_TRIALS = 300  # rows of the table of all settings, the fastest first
WHAT, VALUE = "What", "Value"
HOW = "How, or why not"
_TEXTS = frozenset({"Job", "Loader", "Settings", "Stage", "Phase", "Metric", HOW, WHAT, VALUE})


def report(measured: Sequence[Measured]) -> Report:
    """The report on one or more results files; several are compared first, then each is shown."""
    about = "; ".join(_about(one) for one in measured)
    if len(measured) == 1:
        return Report(TITLE, tuple(_story(measured[0])), about)
    told = [
        replace(section, title=f"{one.name}: {section.title}")
        for one in measured
        for section in _story(one)
    ]
    return Report(TITLE, (_side_by_side(measured), *told), about)


def _about(measured: Measured) -> str:
    header = measured.results.header
    data, machine = header.dataset, header.environment
    what = data.data_type or data.folder
    return (
        f"{what}, {counted(data.files, 'file')}, on {machine.cpu_model} with "
        f"{counted(machine.effective_cpus, 'CPU')}, measured {header.created[:10]}"
        f"{' on emulated storage' if measured.emulated else ''}"
    )


def _story(measured: Measured) -> Iterator[Section]:
    yield Section("The answer", tuple(_answers(measured)))
    for job in measured.jobs:
        yield Section(f"The {job} job", tuple(_job(measured, job)))
    for found in measured.advice:
        # Stages that add up to the median pass are shown above; medians of each would differ.
        left = [*STAGE_METRICS] if found.job in measured.explained else []
        left += REQUEST_METRICS if not measured.of_objects else ()
        yield Section(f"Every metric of {found.job}", tuple(_metrics(found, left)))
    if measured.summaries:
        yield Section("All settings", (_all_settings(measured),), brief=False)
    yield Section("What went wrong, or could not be measured", tuple(_troubles(measured)))
    yield Section("Data and machine", tuple(_environment(measured.results)))
    yield Section("How to repeat it", tuple(_repeat(measured.results)))


def _answers(measured: Measured) -> Iterator[Part]:
    if measured.emulated is not None:
        yield Words(measured.emulated, strong=True)
    if not measured.advice:
        yield Words("Nothing can be recommended.", strong=True)
    yield from (Words(f"{problem}.") for problem in measured.problems)
    for found in measured.advice:
        chosen = found.chosen
        yield Words(answer(found), strong=True)
        text = evidence_text(found)
        if measured.max_memory is not None:
            peak, allowed = format_bytes(chosen.peak_pss_bytes), format_bytes(measured.max_memory)
            text += f" Peak memory: {peak}, of {allowed} allowed."
        yield Words(text)
        if (limit := measured.limit(found.job)) is not None:
            yield Words(f"What limits it: {limit}")


def _job(measured: Measured, job: Job) -> Iterator[Part]:
    tables = [table for table in measured.tables if table.job == job]
    for table in tables:
        marked = [n for n, row in enumerate(table.rows) if row.recommended]
        yield _grid(table.title, table.columns, table.cells, marked=marked)
    yield Words(
        f"{legend(tables)} Times are medians over n launches; Rows/s is computed from these "
        "medians. Brackets: the interval of a speedup, its confidence, and n launches paired with "
        "the original's. Of settings as good as each other, those with the fewest workers are "
        "recommended."
    )
    yield from charts_of(measured, job)
    if job in measured.explained:
        found, _ = measured.explained[job]
        yield _grid(waterfall_title(found), WATERFALL, waterfall_rows(found), folded=True)
        yield Words(waterfall_note(found))
        if (requests := requests_text(found)) is not None:
            yield Words(requests)


def _metrics(found: Recommendation, left: Iterable[str]) -> Iterator[Part]:
    """Every metric of the recommended settings except `left`, or why it is unknown."""
    chosen = found.chosen
    rows = [_metric_row(metric, chosen) for metric in METRICS.values() if metric.name not in left]
    threads = ", ".join(f"{name} {count}" for name, count in chosen.samples[-1].threads.items())
    yield _grid(
        f"{found.job}: {loader_text(found.job, chosen.settings)}",
        ("Metric", "First pass", "Later", "n", HOW),
        rows,
        folded=True,
    )
    yield Words(
        "Medians, of peaks the highest; n: samples of first and of later passes. Page cache: "
        f"{chosen.page_cache}. Threads: {threads or MISSING}."
    )


def _metric_row(metric: Metric, summary: Summary) -> tuple[str, ...]:
    known = [summary.values(metric.name, later=later) for later in (False, True)]
    of = max if metric.passes == "highest" else median
    shown = [metric.format(of(values) if values else None) for values in known]
    counts = ", ".join(str(len(values)) for values in known)
    return metric.label, *shown, counts, _reason(metric, summary) or metric.how


def _reason(metric: Metric, summary: Summary) -> str | None:
    """Why a metric is unknown; None if it is known, or no reason was recorded."""
    if any(summary.values(metric.name, later=later) for later in (False, True)):
        return None
    samples = (*summary.samples, *summary.explained)
    told = [sample.reasons[metric.name] for sample in samples if metric.name in sample.reasons]
    return told[-1] if told else None  # explaining samples come last and know best


def _all_settings(measured: Measured) -> Grid:
    """All trials to show, the fastest first within each job and number of files."""
    order = {job: place for place, job in enumerate(measured.jobs)}
    ordered = sorted(measured.summaries, key=lambda one: (order[one.job], -one.files, one.total_s))
    rows = [_trial_row(one) for one in ordered[:MOST_TRIALS]]
    left = len(ordered) - len(rows)
    more = f"; {left:,} slower ones or of fewer files are in the CSV" if left else ""
    columns = (
        "Job", "Loader", "Settings", "Files", "n", "Rows/s", "Lowest", "Highest",
        "1st pass", "Later", "Peak",
    )  # fmt: skip
    return _grid(f"{counted(len(rows), 'setting')}{more}", columns, rows, folded=True)


def _trial_row(summary: Summary) -> tuple[str, ...]:
    found = rate(summary)
    return (
        summary.job,
        summary.backend,
        found["settings"],
        f"{summary.files:,}",
        str(found["n"]),
        format_count(found["rate"]),
        format_count(found["low"]),
        format_count(found["high"]),
        format_seconds(summary.first_s),
        format_seconds(summary.later_s),
        format_bytes(summary.peak_pss_bytes),
    )


def _troubles(measured: Measured) -> Iterator[Part]:
    results = measured.results
    told = [*measured.problems, *troubles(results)]
    told += [
        f"{job}: {missing}; the time was up, or the run was stopped."
        for job in results.header.planned
        if (missing := ", ".join(shortfall(results, job)))
    ]
    if results.truncated:
        told.append("The last line of the results was cut off and is left out.")
    if len(told) > MAX_TROUBLES:
        told = [*told[:MAX_TROUBLES], f"… and {len(told) - MAX_TROUBLES} more, in the CSV"]
    if told:
        yield Items(tuple(told))
    elif results.samples:
        yield Words("Every trial delivered the original's rows.")
    else:
        yield Words("Nothing was measured yet.")
    for found in measured.advice:
        unknown: dict[str, list[str]] = {}
        for metric in METRICS.values():
            if metric.name in REQUEST_METRICS and not measured.of_objects:
                continue
            if (reason := _reason(metric, found.chosen)) is not None:
                unknown.setdefault(reason, []).append(metric.label)
        lines = [f"{', '.join(labels)}: {reason}" for reason, labels in unknown.items()]
        if lines:
            yield Words(f"Not measured for the recommended settings of {found.job}:")
            yield Items(tuple(lines))


def _environment(results: Results) -> Iterator[Part]:
    data, machine = results.header.dataset, results.header.environment
    yield _grid("Data", (WHAT, VALUE), _facts(data))
    yield _grid("Machine", (WHAT, VALUE), [*_facts(machine), *machine.versions.items()])


_NAMES = {"cpu_model": "CPU", "effective_cpus": "CPUs", "memory_bytes": "memory", "gpu": "GPU"}


def _facts(described: Dataset | Machine) -> list[tuple[str, str]]:
    facts = msgspec.structs.asdict(described)
    facts.pop("versions", None)
    return [
        (_NAMES.get(name, name.replace("_", " ")), _fact(name, value))
        for name, value in facts.items()
    ]


def _fact(name: str, value: object) -> str:
    if value is None:
        return "none" if name == "gpu" else MISSING
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if name in ("bytes", "memory_bytes") and isinstance(value, int):
        return format_bytes(value)
    return str(value)


def _repeat(results: Results) -> Iterator[Part]:
    header = results.header
    if header.command:
        yield Command(header.command)
    else:
        yield Words("The command was not noted; it was measured with this spec:")
    asked = {name: value for name, value in header.spec.items() if value is not None}
    rows = [(name, msgspec.json.encode(value).decode()) for name, value in asked.items()]
    yield _grid("Spec", (WHAT, VALUE), rows, folded=bool(header.command))
    yield Words(
        f"{counted(len(results.samples), 'sample')}, begun {header.created}, with feedrate "
        f"{header.environment.versions.get('feedrate', MISSING)}."
    )


def _side_by_side(measured: Sequence[Measured]) -> Section:
    """The differences between results files: machines, data, recommended settings, speed."""
    facts = [_compared(one) for one in measured]
    names = list(dict.fromkeys(name for one in facts for name in one))
    rows = [(name, *(one.get(name, MISSING) for one in facts)) for name in names]
    differing = [n for n, row in enumerate(rows) if len(set(row[1:])) > 1]
    same = [n for n in range(len(rows)) if n not in differing]
    ordered = [rows[n] for n in (*differing, *same)]
    grid = Grid(
        f"{counted(len(differing), 'difference')} first, then what is the same",
        (WHAT, *(one.name for one in measured)),
        tuple(ordered),
        frozenset({WHAT, *(one.name for one in measured)}),
        frozenset(range(len(differing))),
    )
    jobs = list(dict.fromkeys(job for one in measured for job in one.jobs))
    charts = (machines_chart(measured, job) for job in jobs)
    return Section("Side by side", (grid, *(one for one in charts if one is not None)))


def _compared(measured: Measured) -> dict[str, str]:
    header = measured.results.header
    told = {}
    for found in measured.advice:
        job, chosen = found.job, found.chosen
        told[f"{job}: recommended"] = loader_text(job, chosen.settings)
        told[f"{job}: workers"] = str(chosen.settings.num_workers)
        row = rate(chosen)
        told[f"{job}: rows/s"] = (
            f"{format_count(row['rate'])} [{format_count(row['low'])}, "
            f"{format_count(row['high'])}; n = {row['n']}]"
        )
        told[f"{job}: peak memory"] = format_bytes(chosen.peak_pss_bytes)
        if found.first_speedup is not None and found.speedup is not None:
            told[f"{job}: first pass, over the original"] = format_times(found.first_speedup)
            told[f"{job}: all passes, over the original"] = format_times(found.speedup)
        if (limit := measured.limit(job)) is not None:
            told[f"{job}: limit"] = limit
    told |= {f"machine: {name}": value for name, value in _facts(header.environment)}
    told |= {f"version: {name}": value for name, value in header.environment.versions.items()}
    told |= {f"data: {name}": value for name, value in _facts(header.dataset)}
    if header.emulated is not None:
        told["data: emulated storage"] = described(header.emulated)
    return told


def _grid(
    title: str,
    columns: Iterable[str],
    rows: Iterable[Iterable[str]],
    *,
    marked: Iterable[int] = (),
    folded: bool = False,
) -> Grid:
    cells = tuple(tuple(row) for row in rows)
    return Grid(title, tuple(columns), cells, _TEXTS, frozenset(marked), folded)
