"""The answer in sentences, and the contents of its tables."""

from __future__ import annotations

from collections.abc import Sequence

from ..choose.recommendation import Recommendation
from ..record.bottleneck import Waterfall, sentence, waterfall
from ..record.metrics import REQUEST_METRICS, STAGES
from ..record.objectives import THROUGHPUT
from ..record.results import Results
from ..record.speedup import Table, loader_text, speedup_tables
from ..record.summary import Summary, summarise
from ..system.formats import (
    MISSING,
    format_bytes,
    format_count,
    format_percent,
    format_ratio,
    format_seconds,
)
from ..system.units import counted

SHOWN_TROUBLES = 5
MOST_SHOWN = 0.99  # confidence shown as a number: 100% would claim too much


def tables_of(results: Results, recommendations: Sequence[Recommendation]) -> list[Table]:
    """The speedup tables, with the recommendations for all numbers of files marked."""
    marked = [one.trial for found in recommendations for one in (found.chosen, *found.fewer)]
    objective = next((found.objective for found in recommendations), THROUGHPUT)
    return speedup_tables(results, marked, objective)


def answer(found: Recommendation) -> str:
    """The recommendation of one job in plain words: what to use, how fast, how sure."""
    chosen = found.chosen
    text = f"{found.job}: use {loader_text(found.job, chosen.settings)}{times_as_fast(found)}."
    text = f"{text} Evidence: {found.strength}."
    for less in found.fewer:
        use = loader_text(found.job, less.settings)
        text += f" For about {counted(less.files, 'file')}: {use}."
    return text


def times_as_fast(found: Recommendation) -> str:
    """How many times as fast as the original the choice is, without intervals."""
    if found.speedups is None:
        return ""
    first, every = (format_ratio(one.estimate) for one in found.speedups)
    if found.chosen.passes == 1:
        return f": {first} as fast as the original"
    return (
        f": {first} as fast as the original on the first pass, "
        f"{every} over {counted(found.chosen.passes, 'pass')}"
    )


def evidence_text(found: Recommendation) -> str:
    """The evidence for an answer: rivals, the objective's cost, the share of stalls."""
    chosen = found.chosen
    told = [f"{found.why[:1].upper()}{found.why[1:]}"]
    if (name := found.objective.called(found.job)) is not None:
        told.append(f"{name}: {format_seconds(found.objective.cost(chosen))}")
    if chosen.metric("step_s") is not None:  # a consumer simulated a training step
        stalled = format_percent(chosen.metric("stall_pct"))
        told.append(f"Stalled: the training step waits for batches {stalled} of the time")
    return f"{'. '.join(told)}."


Limit = tuple[Waterfall, str]
"""Where the time of a trial goes, and a sentence on what limits it."""


def limits(results: Results, recommendations: Sequence[Recommendation]) -> list[Limit]:
    """Where the time of each recommended trial goes, and the sentence on what limits it."""
    known = summarise(results.samples, results.passes)
    machine = results.header.environment
    return [
        (found, f"{sentence(found, machine, known)}.")
        for one in recommendations
        if (found := waterfall(one.chosen)) is not None
    ]


def unexplained(chosen: Summary) -> str:
    """Why it is not known where the time of recommended settings goes."""
    reasons = [one.reasons.get("stage_handover_s") for one in chosen.samples]
    return next((why for why in reasons if why), "no launch measured all stages")


WATERFALL = ("Stage", "Time", "Lowest", "Highest", "Share", "At least")


def waterfall_title(found: Waterfall) -> str:
    """Title: the pass that the stages add up to, and its time."""
    what = "first pass" if found.first else "a later pass"
    return (
        f"Where the time goes: {found.summary.job}, {found.summary.backend}, {what}, "
        f"{format_seconds(found.wall_s)}"
    )


def waterfall_rows(found: Waterfall) -> list[tuple[str, ...]]:
    """A row for each stage that took time, and for copies to a GPU, which are not in the total."""
    rows: list[tuple[str, ...]] = [
        (
            STAGES[share.stage][0],
            format_seconds(share.seconds),
            format_seconds(share.low),
            format_seconds(share.high),
            f"{share.seconds / found.wall_s:.0%}",
            format_seconds(share.least_s),
        )
        for share in found.shares
        if share.high > 0
    ]
    copied = found.summary.metric("h2d_overlap_s")
    if copied is not None:
        beside = "beside it"
        rows.append(("to the GPU", format_seconds(copied), MISSING, MISSING, beside, MISSING))
    return rows


def waterfall_note(found: Waterfall) -> str:
    """How to read the rows."""
    sure = "over 99%" if found.confidence > MOST_SHOWN else f"{found.confidence:.0%}"
    spread = (
        f"Of the median pass of {found.launches} launches; the true median of a stage lies between "
        f"lowest and highest with {sure} confidence."
        if found.launches > 1
        else "From one launch."
    )
    how = "Threads at work at once share the time. At least: alone, with all CPUs."
    return f"{spread} {how}"


def requests_text(found: Waterfall) -> str | None:
    """The requests to an object store in the pass of a waterfall; None if they are not known."""
    later = not found.first
    made, size, again, throttled_s = (
        found.summary.metric(name, later=later) for name in REQUEST_METRICS
    )
    if made is None:
        return None
    per_file = made / found.summary.files
    text = f"Requests: {format_count(made)}, {per_file:.2f} a file, for {format_bytes(size)}"
    if again:
        text += f"; {format_count(again)} of them repeated"
    if throttled_s:
        text += f"; they waited {format_seconds(throttled_s)} since the store asked for fewer"
    return f"{text}."
