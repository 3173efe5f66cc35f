"""Make a profile of recommendations: settings by job and number of files, with evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import exp, isqrt, log

import msgspec

from ...loaders.choosing.profile import Entry, Evidence, Point, Profile, Rate
from ..record.bottleneck import sentence, waterfall
from ..record.emulated import described
from ..record.results import Results
from ..record.statistics import hodges_lehmann, wilcoxon_interval
from ..record.summary import Summary, summarise
from ..system.units import counted
from .recommendation import Recommendation


def as_profile(
    results: Results, recommendations: Sequence[Recommendation], command: str
) -> Profile:
    """Return a profile of these recommendations, valid for the results' machine and dataset."""
    emulated = results.header.emulated
    return Profile(
        created=results.header.created,
        command=command,
        machine=results.header.environment,
        datasets=[results.header.dataset],
        entries=[entry for one in recommendations for entry in _entries(one, results)],
        emulated=None if emulated is None else described(emulated),
    )


def _entries(recommendation: Recommendation, results: Results) -> list[Entry]:
    """The entry for the most files, and one for each smaller number with another choice."""
    choices = [recommendation.chosen, *recommendation.fewer]
    max_files: list[int | None] = [None]
    # Between two measured numbers of files, the nearer one by ratio decides.
    max_files += [isqrt(more.files * fewer.files) for more, fewer in pairwise(choices)]
    summaries = summarise(results.samples, results.passes)
    machine = results.header.environment
    entries = []
    columns = results.header.spec.get("columns")
    for summary, most in zip(choices, max_files, strict=True):
        evidence = msgspec.structs.replace(_evidence(summary, recommendation), columns=columns)
        if (stages := waterfall(summary)) is not None:
            evidence = msgspec.structs.replace(
                evidence,
                limiting_stage=stages.limiting.stage,
                ceiling_s=stages.limiting.least_s,
                limit=sentence(stages, machine, summaries),
            )
        # A sweep's seed makes it repeatable; training must not repeat one order.
        settings = msgspec.structs.replace(summary.settings, seed=None)
        entries.append(
            Entry(
                job=recommendation.job,
                data_type=recommendation.data_type,
                files=summary.files,
                max_files=most,
                settings=settings,
                evidence=evidence,
            )
        )
    return entries


def _evidence(summary: Summary, recommendation: Recommendation) -> Evidence:
    is_largest = summary is recommendation.chosen
    speedup = recommendation.speedup if is_largest else None
    return Evidence(
        strength=recommendation.strength if is_largest else "weak",
        why=recommendation.why if is_largest else _why_of_fewer(summary),
        objective=recommendation.objective.name,
        launches=summary.launches,
        passes=summary.passes,
        total_s=summary.total_s,
        first_pass_s=summary.first_s,
        rows=summary.rows,
        rows_per_s=summary.rows_per_s,
        first=_rate(summary, summary.first_passes.values(), summary.rows),
        total=_rate(summary, summary.totals.values(), summary.rows * summary.passes),
        later=_rate(summary, summary.later_passes.values(), summary.rows),
        totals_s=[summary.totals[turn] for turn in sorted(summary.totals)],
        speedup=None if speedup is None else speedup.estimate,
        speedup_low=None if speedup is None else speedup.low,
        speedup_high=None if speedup is None else speedup.high,
        confidence=None if speedup is None else speedup.confidence,
        peak_pss_bytes=summary.peak_pss_bytes,
        front=[
            Point(
                settings=one.settings, rows_per_s=one.rows_per_s, peak_pss_bytes=one.peak_pss_bytes
            )
            for one in recommendation.front
        ]
        if is_largest
        else [],
    )


def _why_of_fewer(summary: Summary) -> str:
    """The evidence for a choice for fewer files, in words."""
    files = counted(summary.files, "file")
    return f"launched with {files}, against the choice for the most files"


def _rate(summary: Summary, seconds: Iterable[float], rows: int) -> Rate | None:
    """Rows per second with the interval over launches; None without rows or passes."""
    logs = [log(rows / took) for took in seconds if rows and took > 0]
    if not logs:
        return None
    interval = wilcoxon_interval(logs)
    return Rate(
        rows_per_s=exp(hodges_lehmann(logs)),
        low=exp(interval.low),
        high=exp(interval.high),
        lowest=exp(min(logs)),
        confidence=interval.confidence_attained,
        launches=summary.launches,
    )
