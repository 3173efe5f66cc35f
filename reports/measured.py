"""Results as input to charts: tidy rows of plain values, one function per chart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import wrap
from typing import Any

from ..harness.choose.recommendation import Recommendation
from ..harness.record.emulated import label_of
from ..harness.record.metrics import STAGES
from ..harness.record.results import Results
from ..harness.record.speedup import Row, Table, settings_text, shown_name
from ..harness.record.statistics import median
from ..harness.record.summary import RANKABLE_VERDICTS, Summary, summarise
from ..harness.show.answer import Limit, limits, tables_of
from ..harness.system.formats import MISSING
from ..loaders.base.sizes import parse_size
from ..loaders.choosing.profile import Job
from ..loaders.remote.urls import is_url

Rows = list[dict[str, Any]]
LABEL_CHARACTERS = 18
MOST_DOTS = 100  # per loader and pass; more would hide each other


@dataclass(frozen=True)
class Measured:
    """One results file with its recommendations.

    Attributes:
        name: its name in a report.
        results: the journal.
        advice: the recommendations, at most one per job.
        number: its place among several files; 0 if it is alone.
        problems: why nothing is recommended for the other jobs.
    """

    name: str
    results: Results
    advice: Sequence[Recommendation] = ()
    number: int = 0
    problems: Sequence[str] = ()

    @cached_property
    def summaries(self) -> list[Summary]:
        """The trials to show: with right rows or, for loaders without any, unverified ones."""
        every = [
            one for one in summarise(self.results.samples, self.results.passes) if one.has_figures
        ]
        right = [one for one in every if one.verdict in RANKABLE_VERDICTS]
        verified = {(one.job, one.backend) for one in right}
        return [
            one
            for one in every
            if one.verdict in RANKABLE_VERDICTS
            or (one.verdict == "unverified" and (one.job, one.backend) not in verified)
        ]

    @cached_property
    def jobs(self) -> list[Job]:
        """The jobs with trials to show, in the order they were measured."""
        return list(dict.fromkeys(one.job for one in self.summaries))

    @cached_property
    def loaders(self) -> list[str]:
        """The names of all loaders in charts; each has one colour in all charts."""
        return list(dict.fromkeys(shown_name(one.backend) for one in self.results.samples))

    @cached_property
    def tables(self) -> list[Table]:
        """The speedup tables."""
        return tables_of(self.results, self.advice)

    @property
    def emulated(self) -> str | None:
        """The label of emulated storage; None if the storage was real."""
        return label_of(self.results)

    @property
    def of_objects(self) -> bool:
        """Whether the data were objects in a store."""
        return is_url(self.results.header.dataset.folder) or self.emulated is not None

    @property
    def max_memory(self) -> int | None:
        """The memory limit of the measurement, in bytes."""
        limit = self.results.header.spec.get("max_memory")
        return None if limit is None else parse_size(str(limit), "max_memory")

    def key(self, kind: str, job: Job) -> str:
        """The name of a chart of this file."""
        return f"{kind}-{job}" + (f"-{self.number}" if self.number else "")

    def recommended(self, job: Job) -> Recommendation | None:
        """The recommendation for a job."""
        return next((one for one in self.advice if one.job == job), None)

    def limit(self, job: Job) -> str | None:
        """A sentence on the limit of a job's recommended settings."""
        return self.explained[job][1] if job in self.explained else None

    @cached_property
    def explained(self) -> dict[Job, Limit]:
        """By job, where the time of the recommended settings goes, and what limits them."""
        return {one[0].summary.job: one for one in limits(self.results, self.advice)}

    def at_most_files(self, job: Job) -> list[Summary]:
        """The trials of a job with the most files that it was measured with."""
        mine = [one for one in self.summaries if one.job == job]
        most = max((one.files for one in mine), default=0)
        return [one for one in mine if one.files == most]

    def rows_of(self, job: Job) -> tuple[Row, ...]:
        """The rows of a job's first speedup table, the one with the most files."""
        return next((one.rows for one in self.tables if one.job == job), ())


def basis(summaries: Iterable[Summary]) -> str:
    """The basis of figures: number of launches, and state of the page cache."""
    some = list(summaries)
    n = span(len(one.totals) for one in some)
    states = " and ".join(sorted({one.page_cache for one in some}))
    return f"n = {n} launches; page cache: {states}."


def span(counts: Iterable[int]) -> str:
    """The lowest and the highest of some counts, or the only one."""
    known = sorted(set(counts))
    return f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"


def rate(summary: Summary) -> dict[str, Any]:
    """Rows per second over all passes, lowest and highest of the launches, and the settings."""
    times = sorted(summary.totals.values())
    rows = summary.rows * summary.passes
    settings = summary.settings
    return {
        "loader": shown_name(summary.backend),
        "settings": settings_text(summary.job, settings),
        "workers": settings.num_workers,
        "prefetch": settings.prefetch,
        "cache": settings.cache,
        "files": summary.files,
        "rate": summary.rows_per_s,
        "low": rows / times[-1],
        "high": rows / times[0],
        "n": len(times),
    }


def fastest(summaries: Iterable[Summary], *by: str) -> Rows:
    """The fastest trial for each combination of values in some columns of `rate`."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in map(rate, summaries):
        key = tuple(row[name] for name in by)
        if key not in best or row["rate"] > best[key]["rate"]:
            best[key] = row
    return [best[key] for key in sorted(best)]


def speedups(rows: Iterable[Row]) -> Rows:
    """The speedup of each loader's best settings over the original."""
    return [
        {
            "loader": shown_name(row.summary.backend),
            "name": _lines(row),
            "pass": kind,
            "speedup": ratio.estimate,
            "low": ratio.low,
            "high": ratio.high,
            "n": ratio.n,
            "confidence": f"{ratio.confidence:.0%}",
        }
        for row in rows
        for kind, ratio in (("first pass", row.first_speedup), ("all passes", row.speedup))
        if ratio is not None
    ]


def single_samples(rows: Iterable[Row]) -> Rows:
    """The time of every pass of the loaders in the speedup table."""
    return [
        {
            "loader": shown_name(row.summary.backend),
            "name": _lines(row),
            "pass": "later passes" if sample.pass_ else "first pass",
            "cache": sample.page_cache,
            "seconds": sample.metrics["wall_s"],
            "launch": sample.launch,
        }
        for row in rows
        for sample in row.summary.samples
        if sample.metrics.get("wall_s")
    ]


def _lines(row: Row) -> str:
    """A row's label in lines that are short enough for a phone."""
    settings = "" if row.settings == MISSING else row.settings
    return "\n".join([row.name, *wrap(settings, LABEL_CHARACTERS)])


def _by_loader_and_pass(samples: Rows) -> list[Rows]:
    """Group samples by loader, and by first and later passes."""
    groups: dict[tuple[str, str], Rows] = {}
    for row in samples:
        groups.setdefault((row["name"], row["pass"]), []).append(row)
    return list(groups.values())


def thinned(samples: Rows) -> Rows:
    """At most `MOST_DOTS` samples of each loader and pass, evenly spaced."""
    groups = _by_loader_and_pass(samples)
    return [row for some in groups for row in some[:: -(-len(some) // MOST_DOTS)]]


def medians(samples: Rows) -> Rows:
    """The median time of each loader and pass."""
    groups = _by_loader_and_pass(samples)
    return [some[0] | {"time": median([row["time"] for row in some])} for some in groups]


def time_and_memory(found: Recommendation) -> Rows:
    """Total time against peak memory of the ranked trials."""
    front = {one.trial for one in found.front}
    return [
        {
            "loader": shown_name(one.backend),
            "settings": settings_text(one.job, one.settings),
            "seconds": one.total_s,
            "bytes": one.peak_pss_bytes,
            "front": one.trial in front,
            "chosen": one.trial == found.chosen.trial,
            "n": len(one.totals),
        }
        for one in found.candidates
        if one.peak_pss_bytes is not None
    ]


def stages(measured: Measured, job: Job) -> Rows:
    """Where the time of a pass of the recommended settings goes, one stage after the other."""
    rows: Rows = []
    start = 0.0
    for share in measured.explained[job][0].shares if job in measured.explained else ():
        if share.high > 0:
            rows.append(
                {
                    "stage": STAGES[share.stage][0],
                    "start": start,
                    "end": start + share.seconds,
                    "seconds": share.seconds,
                    "low": share.low,
                    "high": share.high,
                    "least": None if share.least_s is None else start + share.least_s,
                    "least_s": share.least_s,
                }
            )
            start += share.seconds
    return rows


TRANSFERS = {
    "pageable": "h2d_pageable_s",
    "pinned": "h2d_pinned_s",
    "pinned, overlapped": "h2d_overlap_s",
}


def transfers(found: Recommendation) -> Rows:
    """Bytes per second of copies to a GPU, by launch: its passes all report the same copies."""
    rows: Rows = []
    for kind, name in TRANSFERS.items():
        rates = [
            size / took
            for sample in found.chosen.samples
            if sample.pass_ == 0
            and (took := sample.metrics.get(name))
            and (size := sample.metrics.get("h2d_bytes"))
        ]
        if rates:
            rows.append(
                {"kind": kind, "rate": median(rates), "low": min(rates), "high": max(rates),
                 "n": len(rates)}
            )  # fmt: skip
    return rows
