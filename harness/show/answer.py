"""The answer in sentences, and what tables of it have."""

from __future__ import annotations

from collections.abc import Sequence

from ..choose.recommendation import Recommendation
from ..record.bottleneck import Waterfall, sentence, waterfall
from ..record.metrics import STAGES
from ..record.objectives import THROUGHPUT
from ..record.results import Results
from ..record.speedup import Table, format_times, short_settings, speedup_tables
from ..record.summary import summarise
from ..system.formats import MISSING, format_bytes, format_rows_per_s, format_seconds
from ..system.units import counted

SHOWN_TROUBLES = 5
MOST_SHOWN = 0.99  # of a confidence: 100% would be a claim


def tables_of(results: Results, recommendations: Sequence[Recommendation]) -> list[Table]:
    """The speedup tables, what is recommended for any number of files marked."""
    marked = [one.trial for found in recommendations for one in (found.chosen, *found.fewer)]
    objective = next((found.objective for found in recommendations), THROUGHPUT)
    return speedup_tables(results, marked, objective)


def answer(found: Recommendation) -> str:
    """The recommendation of one job in a few sentences."""
    chosen = found.chosen
    settings = short_settings(found.job, chosen.settings)
    text = f"{found.job}: use {chosen.backend} ({settings}): {format_rows_per_s(chosen.rows_per_s)}"
    if found.first_speedup is not None and found.speedup is not None:
        text += (
            f", {format_times(found.first_speedup)} as fast as the original on the first pass, "
            f"{format_times(found.speedup)} over {counted(chosen.passes, 'pass')}"
        )
    if (name := found.objective.called(found.job)) is not None:
        text += f"; {name} {format_seconds(found.objective.cost(chosen))}"
    if chosen.peak_pss_bytes is not None:
        text += f"; peak memory {format_bytes(chosen.peak_pss_bytes)}"
    text = f"{text}. Evidence {found.strength}: {found.why}."
    for less in found.fewer:
        settings = short_settings(found.job, less.settings)
        text += f" For about {counted(less.files, 'file')}: {less.backend} ({settings})."
    return text


Limit = tuple[Waterfall, str]
"""Where the time of a trial goes, and what limits it in a sentence."""


def limits(results: Results, recommendations: Sequence[Recommendation]) -> list[Limit]:
    """Where the time of each recommended trial goes, and the sentence on what limits it."""
    known = summarise(results.samples, results.passes)
    machine = results.header.environment
    return [
        (found, f"{one.job}: {sentence(found, machine, known)}.")
        for one in recommendations
        if (found := waterfall(one.chosen)) is not None
    ]


WATERFALL = ("Stage", "Time", "Lowest", "Highest", "Share", "At least")


def waterfall_title(found: Waterfall) -> str:
    """What the stages add up to."""
    what = "first pass" if found.first else "a later pass"
    return (
        f"Where the time goes: {found.summary.job}, {found.summary.backend}, {what}, "
        f"{format_seconds(found.wall_s)}"
    )


def waterfall_rows(found: Waterfall) -> list[tuple[str, ...]]:
    """A row for each stage that took any time, and for the copies to a GPU, which are beside it."""
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
