"""The speedup tables: one for each measured job and file count, with the best of each loader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...loaders.base.errors import InputError
from ...loaders.base.settings import REQUESTS, LoaderSettings
from ...loaders.choosing.profile import Job
from ...loaders.choosing.registry import find_backend
from ..system.formats import (
    MISSING,
    TIMES,
    format_bytes,
    format_count,
    format_ratio,
    format_seconds,
)
from ..system.units import counted, without_numbers
from .objectives import THROUGHPUT, Objective
from .results import Results
from .sampling import described
from .statistics import MIN_LAUNCHES, Ratio
from .summary import RANKABLE_VERDICTS, Summary, compare, compare_first, ranked, summarise

RATE = "Rows/s"
PREFETCH = LoaderSettings().prefetch  # made once: the default number of workers reads cgroups
MOST_RACED = 8  # settings that raced to the end in a table, next to each loader's best
LEGEND = (
    "n: launches. x 1st, x all: speedup over the original on the first pass, with nothing cached, "
    "and over all passes; paired by round, so not the quotient of the medians shown. Prefetch is "
    f"{PREFETCH} where none is named."
)
REQUESTS_LEGEND = f"Requests in flight are {REQUESTS} where none are named."
MARKS = {
    "*": "recommended",
    "?": "rows not verified",
    "~": "rows verified on a sample of the files",
}


@dataclass(frozen=True)
class Row:
    """A loader with settings, as a row of a table."""

    summary: Summary
    first_speedup: Ratio | None
    speedup: Ratio | None
    recommended: bool
    cost: float | None
    """By the objective; None if unknown."""
    settings: str
    """In words, without those that all rows of the table share."""

    @property
    def marks(self) -> str:
        """Signs that the legend explains: whether it is recommended, how it was verified."""
        mark = "*" if self.recommended else ""
        if self.summary.verdict == "unverified":
            return f"{mark}?"
        return f"{mark}~" if self.summary.verified_every > 1 else mark

    @property
    def label(self) -> str:
        """The loader with its settings and marks, as shown in charts."""
        return self.name if self.settings == MISSING else f"{self.name} {self.settings}"

    @property
    def name(self) -> str:
        """The loader with its marks."""
        return f"{shown_name(self.summary.backend)}{self.marks}"

    def cells(self, *, by_cost: bool) -> list[str]:
        """The texts of the row's columns; `by_cost`: with the cost in place of the rate."""
        summary = self.summary
        return [
            self.name,
            self.settings,
            format_times(self.first_speedup),
            format_times(self.speedup),
            format_seconds(summary.first_s),
            format_seconds(summary.later_s),
            format_seconds(self.cost) if by_cost else format_count(summary.rows_per_s),
            format_bytes(summary.peak_pss_bytes),
            str(len(summary.totals)),
        ]


@dataclass(frozen=True)
class Table:
    """The rows of one job and file count."""

    job: Job
    files: int
    rows_per_pass: int
    passes: int
    rows: tuple[Row, ...]
    objective: Objective
    shared: str
    """The settings that all rows share, in words; empty if none."""

    @property
    def cost(self) -> str | None:
        """The name of the objective's cost; None if another column has it."""
        return self.objective.called(self.job)

    @property
    def columns(self) -> tuple[str, ...]:
        """The header."""
        last = ("1st pass", "Later", self.cost or RATE, "Peak", "n")
        return ("Loader", "Settings", "x 1st", "x all", *last)

    @property
    def cells(self) -> list[list[str]]:
        """The texts of the rows."""
        return [row.cells(by_cost=self.cost is not None) for row in self.rows]

    @property
    def title(self) -> str:
        """What was measured."""
        state = self.rows[0].summary.page_cache
        return (
            f"{self.job} job: {counted(self.files, 'file')}, "
            f"{counted(self.rows_per_pass, 'row')}, {counted(self.passes, 'pass')}"
            + (f", {self.shared}" if self.shared else "")
            + ("" if state == "as-is" else f", page cache {state}")
        )


def legend(tables: Sequence[Table]) -> str:
    """How to read the tables: the marks that they use, and the columns."""
    used = {mark for table in tables for row in table.rows for mark in row.marks}
    marks = ", ".join(f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in used)
    named = any(row.summary.settings.requests != REQUESTS for table in tables for row in table.rows)
    text = f"{LEGEND} {REQUESTS_LEGEND}" if named else LEGEND
    return f"{marks}. {text}" if marks else text


def shown_name(backend: str) -> str:
    """A backend's name in tables and charts; for a custom loader, its function."""
    module, colon, function = backend.rpartition(":")
    return f"{module.rpartition('.')[2]}{colon}{function}"


def format_times(ratio: Ratio | None) -> str:
    """A ratio with its interval, the confidence and the number of launches.

    >>> format_times(Ratio(11.5, 10.72, 12.3, 0.961, 8)).replace(TIMES, "x")
    '11.5x [10.7, 12.3; 96%, n = 8]'
    """
    if ratio is None:
        return MISSING
    estimate, low, high = map(format_ratio, (ratio.estimate, ratio.low, ratio.high))
    if ratio.n == 1:
        return f"{estimate} (n = 1)"
    span = f"{low.rstrip(TIMES)}, {high.rstrip(TIMES)}"
    return f"{estimate} [{span}; {ratio.confidence:.0%}, n = {ratio.n}]"


def speedup_tables(
    results: Results, recommended: Iterable[str] = (), objective: Objective = THROUGHPUT
) -> list[Table]:
    """Tables by job, the most files first.

    Args:
        results: a journal.
        recommended: the ids of recommended trials, which are marked.
        objective: what they were chosen by.
    """
    marked = set(recommended)
    groups: dict[tuple[Job, int], list[Summary]] = {}
    for summary in summarise(results.samples, results.passes):
        groups.setdefault((summary.job, summary.files), []).append(summary)
    jobs = list(dict.fromkeys(job for job, _ in groups))
    order = sorted(groups, key=lambda key: (jobs.index(key[0]), -key[1]))
    tables = (_table(*key, groups[key], marked, objective) for key in order)
    return [table for table in tables if table is not None]


def _table(
    job: Job, files: int, summaries: Sequence[Summary], marked: set[str], objective: Objective
) -> Table | None:
    every = ranked(summaries, (*RANKABLE_VERDICTS, "unverified"))
    if not every:
        return None
    enough = min(MIN_LAUNCHES, max(one.launches for one in every))
    raced = [one.trial for one in every if one.launches >= enough]
    best = {one.backend: one.trial for one in reversed(every)}
    wanted = {*raced[:MOST_RACED], *best.values(), *marked}
    shown = [one for one in every if one.trial in wanted]
    original = next((found for found in every if found.backend == "original"), None)
    sizes = {one.settings.batch_size for one in shown if "batch_size" in _used(job, one.settings)}
    shared = frozenset({"batch_size"}) if len(sizes) == 1 else frozenset()
    rows = [_row(summary, original, marked, objective, shared) for summary in shown]
    rows.sort(key=lambda row: _place(row, objective))
    words = f"batches of {sizes.pop():,}" if shared else ""
    return Table(job, files, shown[0].rows, shown[0].passes, tuple(rows), objective, words)


def _place(row: Row, objective: Objective) -> tuple[bool, bool, float]:
    """Sort key: the original first, then by cost.

    A row without a known cost, such as a peak memory that was not measured, comes last.
    """
    summary = row.summary
    cost = summary.total_s if objective is THROUGHPUT else row.cost
    return summary.backend != "original", cost is None, cost or 0.0


def _row(
    summary: Summary,
    original: Summary | None,
    marked: set[str],
    objective: Objective,
    shared: frozenset[str],
) -> Row:
    return Row(
        summary,
        None if original is None else compare_first(original, summary),
        None if original is None else compare(original, summary),
        summary.trial in marked,
        objective.cost(summary),
        settings_text(summary.job, summary.settings, shared),
    )


def settings_text(
    job: str, settings: LoaderSettings, left_out: frozenset[str] = frozenset()
) -> str:
    """The settings that matter in a job, in words; prefetch and requests if not the default.

    >>> settings_text("frame", LoaderSettings(backend="pytorch", num_workers=2, cache="memory"))
    '2 workers, memory cache'
    >>> settings_text("batches", LoaderSettings(backend="pytorch", num_workers=1, prefetch=0))
    '1 worker, no prefetch, batches of 32'
    """
    return ", ".join(_in_words(job, settings, left_out)) or MISSING


def loader_text(job: str, settings: LoaderSettings) -> str:
    """The loader and the settings that matter in a job, as a part of a sentence.

    >>> loader_text("frame", LoaderSettings(backend="pytorch", num_workers=2, cache="memory"))
    'pytorch with 2 workers and the memory cache'
    >>> loader_text("batches", LoaderSettings(backend="pytorch", num_workers=1, prefetch=0))
    'pytorch with 1 worker, no prefetch and batches of 32'
    """
    parts = _in_words(job, settings, frozenset())
    if not parts:
        return settings.backend
    *first, last = parts
    if last == f"{settings.cache} cache":
        last = f"the {last}"
    return f"{settings.backend} with " + " and ".join(
        [*([", ".join(first)] if first else []), last]
    )


def _in_words(job: str, settings: LoaderSettings, left_out: frozenset[str]) -> list[str]:
    words = {"num_workers": counted(settings.num_workers, "worker")}
    if settings.prefetch != PREFETCH:
        words["prefetch"] = f"prefetch {settings.prefetch}" if settings.prefetch else "no prefetch"
    if settings.requests != REQUESTS:
        words["requests"] = counted(settings.requests, "request")
    words["batch_size"] = f"batches of {settings.batch_size:,}"
    words["cache"] = "no cache" if settings.cache == "none" else f"{settings.cache} cache"
    uses = _used(job, settings) - left_out
    return [text for name, text in words.items() if name in uses]


def _used(job: str, settings: LoaderSettings) -> frozenset[str]:
    """The settings that a backend uses in a job."""
    try:
        uses = frozenset(find_backend(settings.backend).uses.get(job, frozenset()))
    except InputError:  # measured with a backend that is not registered here
        used = {"num_workers": settings.num_workers, "prefetch": settings.prefetch,
                "requests": settings.requests != REQUESTS,
                "cache": settings.cache != "none", "batch_size": True}  # fmt: skip
        uses = frozenset(name for name, value in used.items() if value)
    return uses - {"batch_size"} if job == "frame" else uses


def troubles(results: Results, *, brief: bool = False) -> list[str]:
    """One sentence per trial that failed, was not verified, or partly measured the harness.

    One more for each sample of files on which rows were verified.

    Args:
        results: a journal.
        brief: leave out trials with idle workers, whose figures count.
    """
    every = summarise(results.samples, results.passes)
    failed = [one for one in every if not brief or one.verdict != "idle-workers"]
    return [
        *_failures(failed),
        *_sampled(every),
        *_unexplained(every),
        *_unmeasured(every),
        *_flagged(every),
        *_without_figures(every),
    ]


def _sampled(every: Sequence[Summary]) -> list[str]:
    """The samples on which rows were verified."""
    samples = {
        (one.job, one.files, one.verified_every): None for one in every if one.verified_every > 1
    }
    return [
        f"sampled: {job} rows verified on {described(files, step)}; a fault in other files, or "
        "only with all of them, would not be seen"
        for job, files, step in samples
    ]


def _unexplained(every: Sequence[Summary]) -> list[str]:
    """Trials that succeeded, but whose time could not be explained."""
    return [
        f"not explained: {_named(one)}: {failed.verdict}: {failed.reasons.get('verdict', '')}"
        for one in every
        for failed in one.unexplained
    ]


def _unmeasured(every: Sequence[Summary]) -> list[str]:
    """Trials whose memory could not be measured."""
    return [
        f"memory not measured: {_named(one)}: {bad.verdict}: {bad.reasons.get('verdict', '')}"
        for one in every
        for bad in one.unmeasured
    ]


def _without_figures(every: Sequence[Summary]) -> list[str]:
    """Trials that succeeded, but have no rate."""
    return [
        f"left out: {_named(one)}: "
        + (
            f"it delivered {counted(one.rows, 'row')} in no time"
            if one.totals
            else "no run of it has all its passes; the results are cut off, or still being written"
        )
        for one in every
        if one.verdict in (*RANKABLE_VERDICTS, "unverified") and not one.has_figures
    ]


def _flagged(every: Sequence[Summary]) -> list[str]:
    """Trials whose time is partly the harness's own; one sentence for all with the same flag."""
    alike: dict[str, list[tuple[Summary, str]]] = {}
    for summary in every:
        whys = [
            sample.reasons["harness_s"]
            for sample in summary.samples
            if sample.metrics.get("harness_s") is not None and "harness_s" in sample.reasons
        ]
        if whys:
            alike.setdefault(without_numbers(whys[-1]), []).append((summary, whys[-1]))
    return [
        f"flagged: {_all_named([summary for summary, _ in some])}: {some[0][1]}"
        for some in alike.values()
    ]


def _named(summary: Summary) -> str:
    settings = settings_text(summary.job, summary.settings)
    return f"{summary.job} with {summary.backend} ({settings}, {counted(summary.files, 'file')})"


def _failures(every: Sequence[Summary]) -> list[str]:
    """Failed trials; one sentence for all that failed in the same way."""
    alike: dict[tuple[str, str, str], list[Summary]] = {}
    for summary in every:
        if summary.verdict != "ok":
            message = without_numbers(summary.message)
            alike.setdefault((summary.verdict, message, summary.remedy), []).append(summary)
    return [
        f"{verdict}: {_all_named(some)}"
        + (f": {some[0].message}" if some[0].message else "")
        + (f" ({remedy})" if remedy else "")
        for (verdict, _, remedy), some in alike.items()
    ]


def _all_named(summaries: Sequence[Summary]) -> str:
    first = _named(summaries[0])
    return first if len(summaries) == 1 else f"{first} and {len(summaries) - 1} more"
