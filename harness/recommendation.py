"""From results to recommended settings, and from those to a profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ..loaders.errors import InputError
from ..loaders.profile import Entry, Evidence, Job, Profile, Strength
from .metrics import format_bytes
from .results import Results
from .statistics import Ratio
from .summary import (
    Summary,
    compare,
    compare_first,
    ranked,
    simplest,
    summarise,
    tied_with,
)

WEAK_ABOVE = 1.05  # an interval of the ratio to the runner-up that includes this tells too little
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Recommendation:
    """The settings chosen for one job, and what they were compared with."""

    job: Job
    data_type: str
    chosen: Summary
    original: Summary | None
    candidates: tuple[Summary, ...]
    """All that were ranked in the same phase, fastest first."""
    speedup: Ratio | None
    """Over the original, in total time over the passes."""
    first_speedup: Ratio | None
    """Over the original, on the first pass, when nothing is cached yet."""
    strength: Strength
    why: str


@dataclass(frozen=True)
class Advice:
    """What is recommended, and for which jobs nothing can be."""

    found: list[Recommendation]
    problems: list[str]


def recommend_all(results: Results, max_memory: int | None = None) -> Advice:
    """Choose settings for each job that was measured, at the most files it was measured with.

    Confirming samples decide; screening samples only where nothing was confirmed.

    Args:
        results: a sweep's journal.
        max_memory: bytes of peak PSS that may be needed.

    Raises:
        InputError: no job has a correct trial within the memory limit.
    """
    summaries = summarise(results.samples)
    jobs = list(dict.fromkeys(summary.job for summary in summaries))
    if not jobs:
        raise InputError("the results hold no sample yet; nothing can be recommended")
    data_type = str(results.header.dataset.data_type)
    advice = Advice([], [])
    for job in jobs:
        mine = [summary for summary in summaries if summary.job == job]
        try:
            advice.found.append(_recommend(mine, data_type, max_memory))
        except InputError as error:
            advice.problems.append(str(error))
    if not advice.found:
        raise InputError(advice.problems[0])
    return advice


def _recommend(
    summaries: Sequence[Summary], data_type: str, max_memory: int | None
) -> Recommendation:
    job = summaries[0].job
    most = max(summary.files for summary in summaries)
    largest = [summary for summary in summaries if summary.files == most]
    correct = [
        ranked(summary for summary in largest if summary.phase == phase)
        for phase in ("confirming", "screening")
    ]
    candidates = correct[0] or correct[1]
    if not candidates:
        told = next((summary.message for summary in largest if summary.message), "no sample")
        raise InputError(f"no correct trial of the {job} job: {told}")
    original = next((found for found in candidates if found.backend == "original"), None)
    allowed = _within(candidates, max_memory, job)
    best = allowed[0]
    chosen = simplest(tied_with(best, allowed))
    rival = next((found for found in allowed if found is not chosen), None)
    strength, why = _strength(chosen, rival)
    return Recommendation(
        job=job,
        data_type=data_type,
        chosen=chosen,
        original=original,
        candidates=tuple(candidates),
        speedup=None if original is None else compare(original, chosen),
        first_speedup=None if original is None else compare_first(original, chosen),
        strength=strength,
        why=why,
    )


def _within(candidates: Sequence[Summary], max_memory: int | None, job: Job) -> list[Summary]:
    if max_memory is None:
        return list(candidates)
    known = [summary for summary in candidates if summary.peak_pss_bytes is not None]
    allowed = [summary for summary in known if (summary.peak_pss_bytes or 0) <= max_memory]
    if not allowed:
        if not known:
            raise InputError(
                f"peak memory of the {job} job was not measured, since a sweep only screens; "
                "measure with feedrate tune, which confirms in fresh processes"
            )
        least = min(summary.peak_pss_bytes or 0 for summary in known)
        raise InputError(
            f"no settings of the {job} job keep to max_memory {format_bytes(max_memory)}; the "
            f"least that was needed is {format_bytes(least)}. Raise the limit, or load fewer files "
            "at a time"
        )
    return allowed


def _strength(chosen: Summary, rival: Summary | None) -> tuple[Strength, str]:
    """Whether the evidence settles the choice, and why in a few words."""
    if chosen.phase == "screening":
        return "weak", "screening only: not confirmed in fresh processes"
    if rival is None:
        return "weak", "nothing to compare with"
    ratio = compare(rival, chosen)
    if ratio is None:
        return "weak", "no round in common with the runner-up"
    span = f"runner-up took {ratio.estimate:.2f} times as long, n={ratio.n}"
    if ratio.n > 1:
        span += f", {ratio.confidence:.0%} interval {ratio.low:.2f} to {ratio.high:.2f}"
    if ratio.confidence < CONFIDENCE:
        return "weak", f"{span}: too few launches, which a larger --budget or --repeats adds"
    if ratio.low <= WEAK_ABOVE <= ratio.high:
        return "weak", f"{span}, too wide to tell"
    return "strong", span


def as_profile(
    results: Results, recommendations: Sequence[Recommendation], command: str
) -> Profile:
    """A profile of these recommendations, holding for the results' machine and dataset."""
    return Profile(
        created=results.header.created,
        command=command,
        machine=results.header.environment,
        datasets=[results.header.dataset],
        entries=[_entry(found) for found in recommendations],
    )


def _entry(found: Recommendation) -> Entry:
    chosen, speedup = found.chosen, found.speedup
    return Entry(
        job=found.job,
        data_type=found.data_type,
        files=chosen.files,
        max_files=None,
        # A sweep's seed makes it repeatable; training shall not repeat one order for ever.
        settings=msgspec.structs.replace(chosen.settings, seed=None),
        evidence=Evidence(
            strength=found.strength,
            why=found.why,
            launches=chosen.launches,
            passes=chosen.passes,
            total_s=chosen.total_s,
            first_pass_s=chosen.first_s,
            rows=chosen.rows,
            rows_per_s=chosen.rows_per_s,
            speedup=None if speedup is None else speedup.estimate,
            speedup_low=None if speedup is None else speedup.low,
            speedup_high=None if speedup is None else speedup.high,
            confidence=None if speedup is None else speedup.confidence,
            peak_pss_bytes=chosen.peak_pss_bytes,
        ),
    )
