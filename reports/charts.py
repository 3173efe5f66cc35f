"""The charts of a report, as Altair specifications without colours of a theme.

Loaders differ by colour and by shape: the colours are Okabe and Ito's, which colour-blind people
can tell apart, on light and on dark ground (https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import log
from typing import Any

import altair as alt

from ..harness.metrics import format_bytes, format_count, format_seconds
from ..loaders.profile import Job
from .content import Chart
from .measured import (
    Measured,
    Rows,
    by_files,
    by_workers,
    by_workers_and_prefetch,
    single_samples,
    speedups,
    stages,
    time_and_memory,
    transfers,
)

COLOURS = {"original": "#868686", "tensorflow": "#E69F00", "pytorch": "#0072B2"}
OTHERS = ("#009E73", "#CC79A7", "#D55E00", "#56B4E9")
HEIGHT, ROW = 240, 28  # pixels: of a plot, and of a line of one
_LABEL = 150  # pixels of what stands beside a line, which a phone has room for
CELL = 44  # pixels of a heatmap's cell
_SPREAD = "Bands: lowest and highest of n rounds."
_BLACK_FROM = 0.55  # of a heatmap's range: from here on black is read better than white
_MIB = 1 << 20
_WIDE = 10.0  # times: rates that differ by more are shown on a logarithmic scale
_SI = "~s"
# Two columns at most, for a phone; bands are pale, and their signs need not be.
_LEGEND = alt.Legend(orient="top", title=None, symbolOpacity=1.0, columns=2, labelLimit=160)


def charts_of(measured: Measured, job: Job) -> list[Chart]:
    """The charts of a job for which something was measured."""
    drawn = (draw(measured, job) for draw in _ALL)
    return [one for one in drawn if one is not None]


def _speedup(measured: Measured, job: Job) -> Chart | None:
    rows = speedups(measured, job)
    if len({row["name"] for row in rows}) < 2:  # noqa: PLR2004 - one bar compares nothing
        return None
    return speedup_chart(measured.key("speedup", job), f"Speedup over the original: {job}", rows)


def speedup_chart(name: str, title: str, rows: Rows) -> Chart:
    """How many times as fast as the original, with intervals, by loader.

    Args:
        name: of the chart.
        title: of the chart.
        rows: with loader, name, pass, speedup, low, high and n.
    """
    y = alt.Y("name:N", title=None, sort=_order(rows, "name"), axis=alt.Axis(labelLimit=_LABEL))
    offset = alt.YOffset("pass:N", sort=["first pass", "all passes"])
    scale = alt.Scale(type="log", nice=False, padding=12)
    base = alt.Chart(_data(rows)).encode(y=y, yOffset=offset)
    shown = base.mark_point(filled=True, size=70).encode(
        x=alt.X("speedup:Q", title="times as fast (log scale)", scale=scale,
                axis=alt.Axis(format="~g", tickCount=6)),
        color=_colour(rows),
        shape=alt.Shape("pass:N", title=None, legend=alt.Legend(orient="top"),
                        scale=alt.Scale(domain=["first pass", "all passes"],
                                        range=["circle", "diamond"])),
        tooltip=_tips(rows, name="loader", **{"pass": "of"}, speedup="times as fast",
                      low="interval from", high="to", n="launches"),
    )  # fmt: skip
    spread = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", color=_colour(rows))
    least = min((row["n"] for row in rows), default=0)
    caption = (
        "Points: Hodges-Lehmann ratio of the time to the original's, paired by round; lines: its "
        f"95% interval (less sure below 6 launches; the fewest here: {least}). The first pass "
        "has nothing cached; all passes include later ones."
    )
    height = ROW * 1.5 * len({row["name"] for row in rows})
    return _chart(name, title, caption, spread + shown, height)


def _workers(measured: Measured, job: Job) -> Chart | None:
    rows = by_workers(measured, job)
    if len({row["workers"] for row in rows if row["loader"] != "original"}) < 2:  # noqa: PLR2004
        return None
    return _line(
        measured.key("workers", job),
        f"Throughput against workers: {job}",
        rows,
        "workers:O",
        "workers",
    )


def _files(measured: Measured, job: Job) -> Chart | None:
    rows = by_files(measured, job)
    if len({row["files"] for row in rows}) < 2:  # noqa: PLR2004 - one point is no line
        return None
    return _line(
        measured.key("files", job),
        f"Throughput against files: {job}",
        rows,
        "files:Q",
        "files (log scale)",
    )


def _line(name: str, title: str, rows: Rows, x: str, x_title: str) -> Chart:
    """Rows a second with its spread, one line a backend; the original has no workers."""
    discrete = x.endswith("O")
    fixed = [row for row in rows if discrete and row["loader"] == "original"]
    moving = [row for row in rows if row not in fixed]
    scale = alt.Undefined if discrete else alt.Scale(type="log", nice=False, padding=12)
    axis = alt.Axis(labelAngle=0) if discrete else alt.Axis(format="~g", tickCount=5)
    along = alt.X(x, title=x_title, scale=scale, axis=axis)
    wide = _is_wide(rows)
    up = alt.Y("rate:Q", title="rows/s (log scale)" if wide else "rows/s",
               scale=alt.Scale(type="log", nice=False, padding=8) if wide else alt.Undefined,
               axis=alt.Axis(format=_SI, tickCount=6))  # fmt: skip
    base = alt.Chart(_data(moving)).encode(x=along, color=_colour(rows))
    band = base.mark_area(opacity=0.2).encode(y="low:Q", y2="high:Q")
    tips = _tips(rows, loader="loader", settings="settings", files="files", rate="rows/s",
                 low="lowest", high="highest", n="rounds")  # fmt: skip
    line = base.mark_line().encode(y=up)
    points = base.mark_point(filled=True, size=60).encode(y=up, shape=_shape(rows), tooltip=tips)
    layers: list[Any] = [band, line, points]
    if fixed:
        rule = alt.Chart(_data(fixed)).encode(color=_colour(rows), tooltip=tips)
        layers.append(rule.mark_rule(strokeDash=[5, 4], strokeWidth=2).encode(y="rate:Q"))
    caption = (
        "Rows a second over all passes, of the fastest settings with so many "
        f"{x_title.split(maxsplit=1)[0]}. {_SPREAD} {_rounds(rows)}"
        + (" The original (dashed) has no workers." if fixed else "")
    )
    return _chart(name, title, caption, alt.layer(*layers), HEIGHT)


def _heatmap(measured: Measured, job: Job) -> Chart | None:
    rows = by_workers_and_prefetch(measured, job)
    if any(len({row[name] for row in rows}) < 2 for name in ("workers", "prefetch")):  # noqa: PLR2004
        return None
    wide = _is_wide(rows)
    heights = [log(row["rate"]) if wide else row["rate"] for row in rows]
    low, span = min(heights), (max(heights) - min(heights)) or 1.0
    for row, height in zip(rows, heights, strict=True):
        row["text"] = format_count(row["rate"]).replace(" ", "")
        row["bright"] = (height - low) / span > _BLACK_FROM
    base = alt.Chart(_data(rows)).encode(
        x=alt.X("prefetch:O", title="prefetch", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("workers:O", title="workers", sort="descending"),
    )
    cells = base.mark_rect().encode(
        color=alt.Color("rate:Q", title="rows/s",
                        scale=alt.Scale(scheme="viridis", type="log" if wide else "linear"),
                        legend=alt.Legend(orient="bottom", format=_SI)),
        tooltip=_tips(rows, loader="loader", settings="settings", cache="cache", rate="rows/s",
                      low="lowest", high="highest", n="rounds"),
    )  # fmt: skip
    texts = base.mark_text(fontSize=10).encode(
        text="text:N",
        color=alt.condition("datum.bright", alt.value("black"), alt.value("white")),
    )
    drawn = alt.layer(cells, texts).properties(width={"step": CELL}, height={"step": CELL * 0.7})
    drawn = drawn.facet(
        column=alt.Column("cache:N", title="cache", sort=["none", "memory", "disk"]),
        row=alt.Row("loader:N", title=None),
    )
    caption = (
        "Rows a second over all passes: the median of n rounds, of the fastest settings with so "
        f"many workers and so much prefetch, by cache and loader. {_rounds(rows)}"
    )
    title = f"Workers and prefetch: {job}"
    return Chart(measured.key("heatmap", job), title, caption, drawn.to_dict())


def _memory(measured: Measured, job: Job) -> Chart | None:
    found = measured.recommended(job)
    rows = time_and_memory(found) if found is not None else []
    if len(rows) < 2:  # noqa: PLR2004 - a choice is between two
        return None
    unit, factor = _seconds_unit(row["seconds"] for row in rows)
    for row in rows:
        row["time"], row["mib"] = row["seconds"] / factor, row["bytes"] / _MIB
        row["took"], row["needed"] = format_seconds(row["seconds"]), format_bytes(row["bytes"])
    x = alt.X("mib:Q", title="peak memory (PSS, MiB)", scale=alt.Scale(zero=False, padding=16))
    y = alt.Y("time:Q", title=f"time of all passes ({unit}, log scale)",
              scale=alt.Scale(type="log", nice=False, padding=16),
              axis=alt.Axis(format="~g", tickCount=5))  # fmt: skip
    points = alt.Chart(_data(rows)).mark_point(filled=True, size=80).encode(
        x=x, y=y, color=_colour(rows), shape=_shape(rows),
        tooltip=_tips(rows, loader="loader", settings="settings", took="time of all passes",
                      needed="peak memory", chosen="recommended", n="launches"),
    )  # fmt: skip
    front = [row for row in rows if row["front"]]
    line = alt.Chart(_data(front)).mark_line(strokeDash=[4, 3], color="#868686").encode(x=x, y=y)
    chosen = [row for row in rows if row["chosen"]]
    ring = alt.Chart(_data(chosen)).mark_point(size=260, strokeWidth=2, color="#868686")
    layers: list[Any] = [line, points, ring.encode(x=x, y=y)]
    caption = (
        "Median time of all passes against the highest peak memory of the process tree, one point "
        "for each setting that was launched anew. Dashed: those that none beats in both. Ringed: "
        "the recommended one."
    )
    if (limit := measured.max_memory) is not None:
        rule = alt.Chart(_data([{"mib": limit / _MIB}])).mark_rule(color="#D55E00", strokeWidth=2)
        layers.append(rule.encode(x="mib:Q"))
        caption += f" The vertical line is the memory limit, {format_bytes(limit)}."
    return _chart(
        measured.key("memory", job), f"Time and memory: {job}", caption, alt.layer(*layers), HEIGHT
    )


def _samples(measured: Measured, job: Job) -> Chart | None:
    rows = single_samples(measured, job)
    if not rows:
        return None
    unit, factor = _seconds_unit(row["seconds"] for row in rows)
    for row in rows:
        row["time"], row["took"] = row["seconds"] / factor, format_seconds(row["seconds"])
    y = alt.Y("name:N", title=None, sort=_order(rows, "name"), axis=alt.Axis(labelLimit=_LABEL))
    x = alt.X("time:Q", title=f"time of a pass ({unit}, log scale)",
              scale=alt.Scale(type="log", nice=False, padding=12),
              axis=alt.Axis(format="~g", tickCount=6))  # fmt: skip
    kinds = ["first pass", "later passes"]
    base = alt.Chart(_data(rows)).encode(
        y=y, x=x, yOffset=alt.YOffset("pass:N", sort=kinds), color=_colour(rows)
    )
    dots = base.mark_point(opacity=0.65, size=36).encode(
        shape=alt.Shape("pass:N", title=None, legend=alt.Legend(orient="top"),
                        scale=alt.Scale(domain=kinds, range=["circle", "diamond"])),
        tooltip=_tips(rows, name="loader", **{"pass": "of"}, took="time", launch="launch",
                      cache="page cache"),
    )  # fmt: skip
    middle = base.mark_tick(thickness=3, size=ROW * 0.6).encode(x="median(time):Q")
    states = ", ".join(sorted({row["cache"] for row in rows}))
    caption = (
        f"Every pass of each loader's best settings ({len(rows)} samples; page cache: {states}). "
        "Bars: medians. First passes have nothing cached by the loader."
    )
    height = ROW * 1.6 * len({row["name"] for row in rows})
    title = f"Single samples: {job}"
    return _chart(measured.key("samples", job), title, caption, dots + middle, height)


def _waterfall(measured: Measured, job: Job) -> Chart | None:
    rows = stages(measured, job)
    if not rows:
        return None
    unit, factor = _seconds_unit([rows[-1]["end"]])
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
    tips = _tips(rows, stage="stage", took="time", span="lowest to highest", bound="at least")
    base = alt.Chart(_data(rows)).encode(y=y)
    bars = base.mark_bar(color=COLOURS["pytorch"]).encode(x=x, x2="end:Q", tooltip=tips)
    spread = base.mark_rule(strokeWidth=2, color="#868686").encode(x="from:Q", x2="to:Q")
    known = [row for row in rows if row["least"] is not None]
    layers: list[Any] = [bars, spread]
    if known:
        least = alt.Chart(_data(known)).encode(y=y, x="least:Q")
        layers.append(least.mark_tick(thickness=4, size=ROW * 0.9, color=COLOURS["tensorflow"]))
    limit = measured.limit(job)
    caption = (
        "One pass of the recommended settings, the launch of median time, stage after stage; grey "
        "lines: lowest to highest of all launches; orange marks: what the stage takes at least on "
        f"this machine. {limit or ''}"
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
    base = alt.Chart(_data(rows)).encode(y=y)
    tips = _tips(rows, kind="from memory", rate="GB/s", low="lowest", high="highest", n="passes")
    bars = base.mark_bar(color=COLOURS["pytorch"]).encode(
        x=alt.X("rate:Q", title="GB/s to the GPU"), tooltip=tips
    )
    spread = base.mark_rule(strokeWidth=2, color="#868686").encode(x="low:Q", x2="high:Q")
    caption = (
        "Batches copied to the GPU, timed by CUDA events: medians with the lowest and highest of "
        f"n passes. {_rounds(rows)}"
    )
    title = f"To the GPU: {job}"
    return _chart(measured.key("transfer", job), title, caption, bars + spread, ROW * len(rows))


_ALL: tuple[Callable[[Measured, Job], Chart | None], ...] = (
    _speedup, _workers, _files, _heatmap, _memory, _samples, _waterfall, _transfer,
)  # fmt: skip


def machines_chart(measured: Sequence[Measured], job: Job) -> Chart | None:
    """Throughput against workers of the recommended backend, a line for each results file."""
    rows: Rows = []
    for one in measured:
        found = one.recommended(job)
        if found is not None:
            mine = by_workers(one, job)
            rows += [
                row | {"loader": one.name, "backend": found.chosen.backend}
                for row in mine
                if row["loader"] == found.chosen.backend
            ]
    if len({row["loader"] for row in rows}) < 2:  # noqa: PLR2004 - nothing beside it
        return None
    return _line(
        f"machines-{job}", f"Throughput against workers, side by side: {job}", rows,
        "workers:O", "workers",
    )  # fmt: skip


def _chart(name: str, title: str, caption: str, drawn: Any, height: float) -> Chart:
    spec = drawn.properties(width="container", height=height).to_dict()
    return Chart(name, title, caption, spec)


def _is_wide(rows: Rows) -> bool:
    """Whether the rates differ so much that most could not be seen on a linear scale."""
    rates = [row["rate"] for row in rows]
    return bool(max(rates) > _WIDE * min(rates))


def _data(rows: Rows) -> alt.Data:
    return alt.Data(values=rows)  # type: ignore[no-untyped-call]  # altair leaves it untyped


def _names(rows: Rows) -> list[str]:
    found = dict.fromkeys(row["loader"] for row in rows)
    ours = [name for name in COLOURS if name in found]
    return [*ours, *(name for name in found if name not in COLOURS)]


def _colours(names: Iterable[str]) -> Iterator[str]:
    left = iter(OTHERS * 10)
    for name in names:
        yield COLOURS.get(name) or next(left)


def _colour(rows: Rows) -> alt.Color:
    names = _names(rows)
    scale = alt.Scale(domain=names, range=list(_colours(names)))
    return alt.Color("loader:N", scale=scale, legend=_LEGEND)


def _shape(rows: Rows) -> alt.Shape:
    shapes = ["square", "triangle-up", "circle", "diamond", "cross", "triangle-down"]
    names = _names(rows)
    scale = alt.Scale(domain=names, range=[shapes[n % len(shapes)] for n in range(len(names))])
    return alt.Shape("loader:N", scale=scale, legend=_LEGEND)


def _order(rows: Rows, name: str) -> list[str]:
    return list(dict.fromkeys(row[name] for row in rows))


def _tips(rows: Rows, **titles: str) -> list[alt.Tooltip]:
    """What a pointer shows: columns with their titles."""
    numbers = {name for row in rows for name, value in row.items() if isinstance(value, float)}
    return [
        alt.Tooltip(f"{name}:{'Q' if name in numbers else 'N'}", title=title,
                    format=".3~s" if name in numbers else alt.Undefined)
        for name, title in titles.items()
    ]  # fmt: skip


def _seconds_unit(values: Iterable[float]) -> tuple[str, float]:
    """The unit in which the largest is written, and what it has in seconds."""
    largest = max(values)
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
    return next((unit for unit in units if largest >= unit[1]), units[-1])


def _rounds(rows: Rows) -> str:
    counts = sorted({row["n"] for row in rows})
    return f"n = {counts[0]}." if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}."
