"""The charts of a report, as Altair specifications without theme colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log
from typing import Any

import altair as alt

from ..harness.system.formats import format_bytes, format_count, format_seconds
from ..loaders.choosing.profile import Job
from .content import Chart
from .encodings import (
    COLOURS,
    OTHERS,
    PLAIN,
    colour_of,
    data_of,
    is_wide,
    order_of,
    seconds_unit,
    shape_of,
    tooltips,
)
from .measured import (
    Measured,
    Rows,
    basis,
    fastest,
    medians,
    single_samples,
    span,
    speedups,
    stages,
    thinned,
    time_and_memory,
    transfers,
)

HEIGHT, ROW = 240, 28  # heights in pixels: of a plot, and of a row in a plot
_LABEL, _LINE = 170, 10  # pixels of a row's label, which fit on a phone, and of a line of it
CELL = 44  # pixels of a heatmap's cell
_BLACK_FROM = 0.55  # of a heatmap's range: above it, black text is easier to read than white
_MIB = 1 << 20
_FAR = 3.0  # times the highest peak: a limit further off would squeeze all points
_SI = "~s"


def charts_of(measured: Measured, job: Job) -> list[Chart]:
    """The charts of a job that have data."""
    drawn = (draw(measured, job) for draw in _ALL)
    found = [one for one in drawn if one is not None]
    return [_as_emulated(one) for one in found] if measured.emulated else found


def _as_emulated(chart: Chart) -> Chart:
    """A chart whose title says that storage was emulated: it is also a picture of its own."""
    return replace(chart, title=f"{chart.title} (emulated storage)")


def _speedup(measured: Measured, job: Job) -> Chart | None:
    rows = speedups(measured.rows_of(job))
    if len({row["name"] for row in rows}) < 2:  # noqa: PLR2004 - one bar compares nothing
        return None
    title = f"Speedup over the original: {job}"
    return speedup_chart(measured.key("speedup", job), title, rows, measured.loaders)


def speedup_chart(name: str, title: str, rows: Rows, loaders: Sequence[str] = ()) -> Chart:
    """The speedup of each loader over the original, with intervals.

    Args:
        name: of the chart.
        title: of the chart.
        rows: with loader, name, pass, speedup, low, high, n and confidence.
        loaders: all loaders with their own colours in other charts.
    """
    y = alt.Y("name:N", title=None, sort=order_of(rows, "name"), axis=_labels(rows))
    kinds = [kind for kind in ("first pass", "all passes") if any(r["pass"] == kind for r in rows)]
    scale = alt.Scale(type="log", nice=False, padding=12)
    base = alt.Chart(data_of(rows)).encode(y=y, yOffset=alt.YOffset("pass:N", sort=kinds))
    shape = alt.Shape(
        "pass:N",
        title=None,
        legend=alt.Legend(orient="top") if len(kinds) > 1 else None,
        scale=alt.Scale(domain=kinds, range=["circle", "diamond"][: len(kinds)]),
    )
    shown = base.mark_point(filled=True, size=70).encode(
        x=alt.X("speedup:Q", title="times as fast (log scale)", scale=scale,
                axis=alt.Axis(format="~g", tickCount=6)),
        color=colour_of(rows, loaders),
        shape=shape,
        tooltip=tooltips(rows, PLAIN, name="loader", **{"pass": "of"}, speedup="times as fast",
                      low="interval from", high="to", confidence="confidence", n="launches"),
    )  # fmt: skip
    spread = base.mark_rule(strokeWidth=2).encode(
        x="low:Q", x2="high:Q", color=colour_of(rows, loaders)
    )
    n = span(row["n"] for row in rows)
    sure = " and ".join(sorted({row["confidence"] for row in rows if row["n"] > 1})) or "none"
    caption = (
        "Points: Hodges-Lehmann ratio of the original's time to the loader's, paired by round "
        f"(n = {n} launches); lines: its interval (confidence {sure}). The first pass has nothing "
        "cached by the loader" + ("; all passes include later ones." if len(kinds) > 1 else ".")
    )
    height = ROW * (0.75 + 0.75 * len(kinds)) * len({row["name"] for row in rows})
    return _chart(name, title, caption, spread + shown, height)


def _workers(measured: Measured, job: Job) -> Chart | None:
    some = measured.at_most_files(job)
    rows = fastest(some, "loader", "workers")
    fixed = [row for row in rows if row["loader"] == "original"]
    moving = [row for row in rows if row not in fixed]
    if len({row["workers"] for row in moving}) < 2:  # noqa: PLR2004 - one point is no line
        return None
    title = f"Throughput against workers: {job}"
    key = measured.key("workers", job)
    return _line(key, title, moving, fixed, "workers", basis(some), measured.loaders)


def _files(measured: Measured, job: Job) -> Chart | None:
    some = [one for one in measured.summaries if one.job == job]
    rows = fastest(some, "loader", "files")
    if len({row["files"] for row in rows}) < 2:  # noqa: PLR2004 - one point is no line
        return None
    title = f"Throughput against files: {job}"
    key = measured.key("files", job)
    return _line(key, title, rows, [], "files", basis(some), measured.loaders)


def _line(
    name: str,
    title: str,
    rows: Rows,
    fixed: Rows,
    x: str,
    rests_on: str,
    loaders: Sequence[str] = (),
) -> Chart:
    """Rows per second with spread, one line per loader; `fixed` rows do not depend on `x`."""
    every = [*rows, *fixed]
    along = (
        alt.X(f"{x}:O", title=x, axis=alt.Axis(labelAngle=0, labelOverlap=True))
        if x == "workers"
        else alt.X(f"{x}:Q", title=f"{x} (log scale)", axis=alt.Axis(format="~g", tickCount=5),
                   scale=alt.Scale(type="log", nice=False, padding=12))
    )  # fmt: skip
    wide = is_wide(every)

    def up(field: str) -> alt.Y:
        return alt.Y(
            f"{field}:Q",
            title="rows/s (log scale)" if wide else "rows/s",
            scale=alt.Scale(type="log", nice=False, padding=8) if wide else alt.Undefined,
            axis=alt.Axis(format=_SI, tickCount=6),
        )

    colour = colour_of(every, loaders)
    tips = tooltips(every, loader="loader", settings="settings", files="files", rate="rows/s",
                 low="lowest", high="highest", n="launches")  # fmt: skip
    base = alt.Chart(data_of(rows)).encode(x=along, color=colour)
    shape = shape_of(every, loaders)
    layers: list[Any] = [
        base.mark_area(opacity=0.2).encode(y=up("low"), y2="high:Q"),
        base.mark_line().encode(y=up("rate")),
        base.mark_point(filled=True, size=60).encode(y=up("rate"), shape=shape, tooltip=tips),
    ]
    if fixed:
        same = alt.Chart(data_of(fixed)).encode(color=colour, tooltip=tips)
        layers.append(same.mark_rect(opacity=0.15).encode(y=up("low"), y2="high:Q"))
        rule = same.mark_rule(strokeDash=[5, 4], strokeWidth=2)
        layers.append(rule.encode(y=up("rate")))
    caption = (
        f"For each number of {x}: rows/s of its fastest settings, over all passes. Bands: lowest "
        f"and highest launch. {rests_on}"
    )
    if fixed:
        caption += " The original (dashed) has no workers."
    return _chart(name, title, caption, alt.layer(*layers), HEIGHT)


def _heatmap(measured: Measured, job: Job) -> Chart | None:
    some = [one for one in measured.at_most_files(job) if one.backend != "original"]
    every = fastest(some, "loader", "cache", "workers", "prefetch")
    tried = Counter(row["loader"] for row in every)
    rows = [row for row in every if tried[row["loader"]] > 1]  # others were not varied
    if any(len({row[name] for row in rows}) < 2 for name in ("workers", "prefetch")):  # noqa: PLR2004
        return None
    wide = is_wide(rows)
    heights = [log(row["rate"]) if wide else row["rate"] for row in rows]
    low, room = min(heights), (max(heights) - min(heights)) or 1.0
    for row, height in zip(rows, heights, strict=True):
        row["text"] = format_count(row["rate"]).replace(" ", "")
        row["bright"] = (height - low) / room > _BLACK_FROM
    rates = [row["rate"] for row in rows]
    span_of_all = [min(rates), max(rates)]
    scale = alt.Scale(scheme="viridis", type="log" if wide else "linear", domain=span_of_all)
    parts = [
        _cells([row for row in rows if row["loader"] == loader], loader, scale)
        for loader in dict.fromkeys(row["loader"] for row in rows)
    ]
    drawn = alt.vconcat(*parts).resolve_scale(color="shared")
    caption = (
        "For each number of workers and prefetch depth: rows/s of its fastest settings, over all "
        f"passes, by cache and loader; medians. {basis(some)}"
    )
    title = f"Workers and prefetch: {job}"
    return Chart(measured.key("heatmap", job), title, caption, drawn.to_dict())


def _cells(rows: Rows, loader: str, scale: alt.Scale) -> Any:
    """The heatmaps of one loader side by side, one for each cache it was tried with."""
    base = alt.Chart().encode(
        x=alt.X("prefetch:O", title="prefetch", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("workers:O", title="workers", sort="descending"),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("rate:Q", title="rows/s", scale=scale,
                        legend=alt.Legend(orient="bottom", format=_SI)),
        tooltip=tooltips(rows, loader="loader", settings="settings", cache="cache", rate="rows/s",
                      low="lowest", high="highest", n="launches"),
    )  # fmt: skip
    texts = base.mark_text(fontSize=10).encode(
        text="text:N",
        color=alt.condition("datum.bright", alt.value("black"), alt.value("white")),
    )
    both = alt.layer(cells, texts, data=data_of(rows))
    both = both.properties(width={"step": CELL}, height={"step": CELL * 0.7})
    caches = alt.Column("cache:N", title=f"{loader}: cache", sort=["none", "memory", "disk"])
    return both.facet(column=caches)


def _memory(measured: Measured, job: Job) -> Chart | None:
    found = measured.recommended(job)
    rows = time_and_memory(found) if found is not None else []
    if len(rows) < 2:  # noqa: PLR2004 - a choice is between two
        return None
    unit, factor = seconds_unit(row["seconds"] for row in rows)
    for row in rows:
        row["time"], row["mib"] = row["seconds"] / factor, row["bytes"] / _MIB
        row["took"], row["needed"] = format_seconds(row["seconds"]), format_bytes(row["bytes"])
    x = alt.X("mib:Q", title="peak memory (PSS, MiB)", scale=alt.Scale(zero=False, padding=16))
    y = alt.Y("time:Q", title=f"time of all passes ({unit}, log scale)",
              scale=alt.Scale(type="log", nice=False, padding=16),
              axis=alt.Axis(format="~g", tickCount=5))  # fmt: skip
    points = alt.Chart(data_of(rows)).mark_point(filled=True, size=80).encode(
        x=x, y=y, color=colour_of(rows, measured.loaders), shape=shape_of(rows, measured.loaders),
        tooltip=tooltips(rows, loader="loader", settings="settings", took="time of all passes",
                      needed="peak memory", chosen="recommended", n="launches"),
    )  # fmt: skip
    front = [row for row in rows if row["front"]]
    line = alt.Chart(data_of(front)).mark_line(strokeDash=[4, 3], color="#868686").encode(x=x, y=y)
    layers: list[Any] = [line, points]
    if chosen := [row for row in rows if row["chosen"]]:  # else Vega warns of an empty layer
        ring = alt.Chart(data_of(chosen)).mark_point(size=260, strokeWidth=2, color="#868686")
        layers.append(ring.encode(x=x, y=y))
    caption = (
        "Median time of all passes against the highest peak memory of the process tree, one point "
        "for each setting that was launched anew. Dashed: those that none beats in both. Ringed: "
        "the recommended one."
    )
    if (limit := measured.max_memory) is not None:
        if limit > _FAR * max(row["bytes"] for row in rows):
            caption += f" The memory limit, {format_bytes(limit)}, is far to the right."
        else:
            rule = alt.Chart(data_of([{"mib": limit / _MIB}]))
            rule = rule.mark_rule(color=OTHERS[2], strokeWidth=2)
            layers.append(rule.encode(x="mib:Q"))
            caption += f" The vertical line is the memory limit, {format_bytes(limit)}."
    return _chart(
        measured.key("memory", job), f"Time and memory: {job}", caption, alt.layer(*layers), HEIGHT
    )


def _samples(measured: Measured, job: Job) -> Chart | None:
    every = single_samples(measured.rows_of(job))
    if not every:
        return None
    unit, factor = seconds_unit(row["seconds"] for row in every)
    for row in every:
        row["time"], row["took"] = row["seconds"] / factor, format_seconds(row["seconds"])
    shown = thinned(every)
    y = alt.Y("name:N", title=None, sort=order_of(every, "name"), axis=_labels(every))
    scale = alt.Scale(type="log", nice=False, padding=12)
    title, axis = f"time of a pass ({unit}, log scale)", alt.Axis(format="~g", tickCount=6)
    x = alt.X("time:Q", title=title, scale=scale, axis=axis)
    kinds = ["first pass", "later passes"]
    colour = colour_of(every, measured.loaders)
    offset = alt.YOffset("pass:N", sort=kinds)
    encoded: dict[str, Any] = {"y": y, "yOffset": offset, "color": colour}
    dots = alt.Chart(data_of(shown)).encode(**encoded).mark_point(opacity=0.65, size=36).encode(
        x=x,
        shape=alt.Shape("pass:N", title=None, legend=alt.Legend(orient="top"),
                        scale=alt.Scale(domain=kinds, range=["circle", "diamond"])),
        tooltip=tooltips(shown, name="loader", **{"pass": "of"}, took="time", launch="launch",
                      cache="page cache"),
    )  # fmt: skip
    middles = alt.Chart(data_of(medians(every))).encode(**encoded)
    middle = middles.mark_tick(thickness=3, size=ROW * 0.6).encode(x="time:Q")
    states = ", ".join(sorted({row["cache"] for row in every}))
    some = "Every pass" if len(shown) == len(every) else f"{len(shown)} of {len(every)} passes"
    caption = (
        f"{some} of each loader's best settings (passes = {len(every)}; page cache: {states}). "
        "Bars: medians of all. First passes have nothing cached by the loader."
    )
    height = ROW * 2 * len({row["name"] for row in every})
    title = f"Single samples: {job}"
    return _chart(measured.key("samples", job), title, caption, dots + middle, height)


def _waterfall(measured: Measured, job: Job) -> Chart | None:
    rows = stages(measured, job)
    if not rows:
        return None
    unit, factor = seconds_unit([rows[-1]["end"]])
    for row in rows:
        row |= {name: row[name] / factor for name in ("start", "end")}
        row["took"] = format_seconds(row["seconds"])
        row["span"] = f"{format_seconds(row['low'])} to {format_seconds(row['high'])}"
        row["from"] = row["start"] + row["low"] / factor
        row["to"] = row["start"] + row["high"] / factor
        row["bound"] = format_seconds(row["least_s"])
        row["least"] = None if row["least"] is None else row["least"] / factor
    x = alt.X("start:Q", title=f"time within the pass ({unit})")
    y = alt.Y("stage:N", title=None, sort=[row["stage"] for row in rows])
    tips = tooltips(rows, stage="stage", took="time", span="lowest to highest", bound="at least")
    base = alt.Chart(data_of(rows)).encode(y=y)
    bars = base.mark_bar(color=COLOURS["pytorch"]).encode(x=x, x2="end:Q", tooltip=tips)
    spread = base.mark_rule(strokeWidth=2, color="#868686").encode(x="from:Q", x2="to:Q")
    known = [row for row in rows if row["least"] is not None]
    layers: list[Any] = [bars, spread]
    if known:
        least = alt.Chart(data_of(known)).encode(y=y, x="least:Q")
        layers.append(least.mark_tick(thickness=4, size=ROW * 0.9, color=COLOURS["tensorflow"]))
    caption = (
        "One pass of the recommended settings, the one of median time, stage after stage; grey "
        "lines: lowest to highest of all passes; orange marks: what the stage takes at least on "
        "this machine."
    )
    title = f"Where the time goes: {job}"
    return _chart(measured.key("stages", job), title, caption, alt.layer(*layers), ROW * len(rows))


def _transfer(measured: Measured, job: Job) -> Chart | None:
    found = measured.recommended(job)
    rows = transfers(found) if found is not None else []
    if not rows:
        return None
    for row in rows:
        row |= {name: row[name] / 1e9 for name in ("rate", "low", "high")}
    y = alt.Y("kind:N", title=None, sort=[row["kind"] for row in rows])
    base = alt.Chart(data_of(rows)).encode(y=y)
    tips = tooltips(
        rows, PLAIN, kind="from memory", rate="GB/s", low="lowest", high="highest", n="launches"
    )
    bars = base.mark_bar(color=COLOURS["pytorch"]).encode(
        x=alt.X("rate:Q", title="GB/s to the GPU"), tooltip=tips
    )
    spread = base.mark_rule(strokeWidth=2, color="#868686").encode(x="low:Q", x2="high:Q")
    caption = (
        "Batches copied to the GPU, timed by CUDA events (the first 256 MiB of an epoch, scaled "
        f"up): medians with lowest and highest of n = {max(row['n'] for row in rows)} launches."
    )
    title = f"To the GPU: {job}"
    return _chart(measured.key("transfer", job), title, caption, bars + spread, ROW * len(rows))


_ALL: tuple[Callable[[Measured, Job], Chart | None], ...] = (
    _speedup, _workers, _files, _heatmap, _memory, _samples, _waterfall, _transfer,
)  # fmt: skip


def machines_chart(measured: Sequence[Measured], job: Job) -> Chart | None:
    """Throughput against workers of the loader that each results file recommends."""
    rows: Rows = []
    told = []
    for one in measured:
        found = one.recommended(job)
        if found is not None:
            some = [s for s in one.at_most_files(job) if s.backend == found.chosen.backend]
            stored = " (emulated storage)" if one.emulated else ""
            name = f"{one.name}: {found.chosen.backend}{stored}"
            rows += [row | {"loader": name} for row in fastest(some, "loader", "workers")]
            told.append(f"{one.name}: {basis(some)}" if some else "")
    if len({row["loader"] for row in rows}) < 2:  # noqa: PLR2004 - nothing to compare with
        return None
    title = f"Throughput against workers, side by side: {job}"
    return _line(f"machines-{job}", title, rows, [], "workers", " ".join(filter(None, told)))


def _labels(rows: Rows) -> alt.Axis:
    """The labels of rows: a name may have several lines, around the middle of its row."""
    breaks = max((row["name"].count("\n") for row in rows), default=0)
    lines = "split(datum.label, '\\n')"
    return alt.Axis(labelLimit=_LABEL, labelOffset=-_LINE / 2 * breaks, labelExpr=lines)


def _chart(name: str, title: str, caption: str, drawn: Any, height: float) -> Chart:
    spec = drawn.properties(width="container", height=height).to_dict()
    return Chart(name, title, caption, spec)
