"""Results as the charts want them: tidy rows of plain values, one function a chart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..harness.metrics import STAGES
from ..harness.recommendation import Recommendation
from ..harness.results import Results
from ..harness.show import limits
from ..harness.speedup import Table, short_settings, speedup_tables
from ..harness.summary import RIGHT, Summary, summarise
from ..harness.units import parse_size
from ..loaders.profile import Job

Rows = list[dict[str, Any]]
MOST_DOTS = 200  # of one line of a chart; more hide each other
_RANKABLE = (*RIGHT, "unverified")


@dataclass(frozen=True)
class Measured:
    """One results file with what is recommended from it.

    Attributes:
        name: how a report calls it.
        results: the journal.
        advice: a recommendation for each job, as far as there is one.
        number: its place among several files; 0 where it is alone.
    """

    name: str
    results: Results
    advice: Sequence[Recommendation] = ()
    number: int = 0

    @cached_property
    def summaries(self) -> list[Summary]:
        """What may be shown of each trial: its rows are right, or cannot be verified."""
        every = summarise(self.results.samples)
        return [one for one in every if one.verdict in _RANKABLE and one.totals]

    @cached_property
    def jobs(self) -> list[Job]:
        """Those of which something ended well, in the order they were measured."""
        return list(dict.fromkeys(one.job for one in self.summaries))

    @cached_property
    def tables(self) -> list[Table]:
        """The speedup tables."""
        marked = [one.chosen.trial for one in self.advice]
        if not self.advice:
            return speedup_tables(self.results)
        return speedup_tables(self.results, marked, self.advice[0].objective)

    @property
    def max_memory(self) -> int | None:
        """The memory limit that it was measured for, in bytes."""
        limit = self.results.header.spec.get("max_memory")
        return None if limit is None else parse_size(str(limit), "max_memory")

    def key(self, kind: str, job: Job) -> str:
        """What a chart of it is called."""
        return f"{kind}-{job}" + (f"-{self.number}" if self.number else "")

    def recommended(self, job: Job) -> Recommendation | None:
        """What is recommended for a job."""
        return next((one for one in self.advice if one.job == job), None)

    def limit(self, job: Job) -> str | None:
        """What limits the recommended settings of a job, in a sentence."""
        told = limits(self.results, [one for one in self.advice if one.job == job])
        return told[0][1] if told else None

    def at_most_files(self, job: Job) -> list[Summary]:
        """The trials of a job with as many files as it was measured with."""
        mine = [one for one in self.summaries if one.job == job]
        most = max((one.files for one in mine), default=0)
        return [one for one in mine if one.files == most]


def label(summary: Summary) -> str:
    """A loader with its settings."""
    settings = short_settings(summary.job, summary.settings)
    return summary.backend if summary.backend == "original" else f"{summary.backend} {settings}"


def screened(summaries: Iterable[Summary]) -> list[Summary]:
    """Those of the phase in which more settings were measured."""
    phases: dict[str, list[Summary]] = {}
    for one in summaries:
        phases.setdefault(one.phase, []).append(one)
    return max(phases.values(), key=len, default=[])


def rate(summary: Summary) -> dict[str, Any]:
    """Rows a second over all passes, lowest and highest of its rounds, and what it is of."""
    times = sorted(summary.totals.values())
    rows = summary.rows * summary.passes
    return {
        "loader": summary.backend,
        "settings": short_settings(summary.job, summary.settings),
        "workers": summary.settings.num_workers,
        "files": summary.files,
        "rate": rows / summary.total_s,
        "low": rows / times[-1],
        "high": rows / times[0],
        "n": len(times),
    }


def fastest(summaries: Iterable[Summary], *by: str) -> Rows:
    """The fastest of those that agree in some columns of `rate`."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in map(rate, summaries):
        key = tuple(row[name] for name in by)
        if key not in best or row["rate"] > best[key]["rate"]:
            best[key] = row
    return sorted(best.values(), key=lambda row: tuple(str(row[name]).zfill(9) for name in by))


def by_workers(measured: Measured, job: Job) -> Rows:
    """The fastest settings of each backend and number of workers, at the most files."""
    return fastest(screened(measured.at_most_files(job)), "loader", "workers")


def by_files(measured: Measured, job: Job) -> Rows:
    """The fastest settings of each backend and number of files."""
    mine = screened(one for one in measured.summaries if one.job == job)
    return fastest(mine, "loader", "files")


def by_workers_and_prefetch(measured: Measured, job: Job) -> Rows:
    """The fastest settings of each backend, cache, number of workers and prefetch."""
    tunable = [one for one in screened(measured.at_most_files(job)) if one.backend != "original"]
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in tunable:
        settings = one.settings
        key = (one.backend, settings.cache, settings.num_workers, settings.prefetch)
        row = rate(one) | {"cache": settings.cache, "prefetch": settings.prefetch}
        if key not in best or row["rate"] > best[key]["rate"]:
            best[key] = row
    return list(best.values())


def time_and_memory(found: Recommendation) -> Rows:
    """Total time against peak memory of what was confirmed."""
    front = {one.trial for one in found.front}
    return [
        {
            "loader": one.backend,
            "settings": short_settings(one.job, one.settings),
            "seconds": one.total_s,
            "bytes": one.peak_pss_bytes,
            "front": one.trial in front,
            "chosen": one.trial == found.chosen.trial,
            "n": len(one.totals),
        }
        for one in found.candidates
        if one.peak_pss_bytes is not None
    ]


def speedups(measured: Measured, job: Job) -> Rows:
    """How many times as fast as the original each loader's best settings are."""
    tables = [one for one in measured.tables if one.job == job]
    rows: Rows = []
    for row in tables[0].rows if tables else ():
        for kind, ratio in (("first pass", row.first_speedup), ("all passes", row.speedup)):
            if ratio is not None:
                rows.append(
                    {
                        "loader": row.summary.backend,
                        "name": label(row.summary),
                        "pass": kind,
                        "speedup": ratio.estimate,
                        "low": ratio.low,
                        "high": ratio.high,
                        "n": ratio.n,
                    }
                )
    return rows


def single_samples(measured: Measured, job: Job) -> Rows:
    """The time of every pass of the loaders in the speedup table."""
    tables = [one for one in measured.tables if one.job == job]
    rows: Rows = []
    for row in tables[0].rows if tables else ():
        mine = [
            {
                "loader": row.summary.backend,
                "name": label(row.summary),
                "pass": "later passes" if sample.pass_ else "first pass",
                "cache": sample.page_cache,
                "seconds": sample.metrics["wall_s"],
                "launch": sample.launch,
            }
            for sample in row.summary.samples
            if sample.metrics.get("wall_s")
        ]
        rows += mine[:: max(1, -(-len(mine) // MOST_DOTS))]
    return rows


def stages(measured: Measured, job: Job) -> Rows:
    """Where the time of a pass of the recommended settings goes, one stage after the other."""
    found = limits(measured.results, [one for one in measured.advice if one.job == job])
    rows: Rows = []
    start = 0.0
    for share in found[0][0].shares if found else ():
        if share.high > 0:
            rows.append(
                {
                    "stage": STAGES[share.stage][0],
                    "start": start,
                    "end": start + share.seconds,
                    "seconds": share.seconds,
                    "low": share.low,
                    "high": share.high,
                    "least": None if share.ceiling_s is None else start + share.ceiling_s,
                    "least_s": share.ceiling_s,
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
    """Bytes a second of copies to a GPU, of each pass in which they were measured."""
    rows: Rows = []
    for kind, name in TRANSFERS.items():
        rates = [
            size / took
            for sample in found.chosen.samples
            if (took := sample.metrics.get(name)) and (size := sample.metrics.get("h2d_bytes"))
        ]
        if rates:
            middle = sorted(rates)[len(rates) // 2]
            rows.append(
                {"kind": kind, "rate": middle, "low": min(rates), "high": max(rates),
                 "n": len(rates)}
            )  # fmt: skip
    return rows
