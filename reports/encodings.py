"""Colours, shapes, tooltips and units of charts: the same for a loader in all of them.

Loaders differ by colour and by shape: the colours are Okabe and Ito's, which colour-blind people
can distinguish, on light and dark backgrounds (https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import altair as alt

from .measured import Rows

COLOURS = {
    "original": "#868686", "tensorflow": "#E69F00", "pytorch": "#0072B2",
    "a peer": "#E69F00", "feedrate": "#0072B2",  # where many loaders are in two groups
}  # fmt: skip
OTHERS = ("#009E73", "#CC79A7", "#D55E00", "#56B4E9")
PLAIN, _SHORT = ".3~g", ".3~s"  # formats in tooltips: of ratios, and of rates
_WIDE = 10.0  # times: rates that differ by more are shown on a logarithmic scale
# Two columns at most, to fit a phone; symbols are opaque, although bands are pale.
_LEGEND = alt.Legend(orient="top", title=None, symbolOpacity=1.0, columns=2, labelLimit=160)


def is_wide(rows: Rows) -> bool:
    """Whether rates differ too much for a linear scale, where most could not be seen."""
    rates = [row["rate"] for row in rows]
    return bool(max(rates) > _WIDE * min(rates))


def data_of(rows: Rows) -> alt.Data:
    """Inline data of a chart."""
    return alt.Data(values=rows)  # type: ignore[no-untyped-call]  # altair leaves it untyped


def _names(rows: Rows) -> list[str]:
    found = dict.fromkeys(row["loader"] for row in rows)
    ours = [name for name in COLOURS if name in found]
    return [*ours, *(name for name in found if name not in COLOURS)]


def _chosen(names: Sequence[str], loaders: Sequence[str], choices: Sequence[str]) -> list[str]:
    """Assign a choice to each name, the same in all charts of these loaders."""
    places = {name: place for place, name in enumerate(dict.fromkeys([*loaders, *names]))}
    return [choices[places[name] % len(choices)] for name in names]


def colour_of(rows: Rows, loaders: Sequence[str] = ()) -> alt.Color:
    """The colour of each loader, the same in all charts of some loaders."""
    names = _names(rows)
    others = [name for name in loaders if name not in COLOURS]
    free = _chosen([name for name in names if name not in COLOURS], others, OTHERS)
    left = iter(free)
    scale = alt.Scale(domain=names, range=[COLOURS.get(name) or next(left) for name in names])
    return alt.Color("loader:N", scale=scale, legend=_LEGEND)


def shape_of(rows: Rows, loaders: Sequence[str] = ()) -> alt.Shape:
    """The shape of each loader, the same in all charts of some loaders."""
    shapes = ("square", "triangle-up", "circle", "diamond", "cross", "triangle-down")
    names = _names(rows)
    scale = alt.Scale(domain=names, range=_chosen(names, loaders, shapes))
    return alt.Shape("loader:N", scale=scale, legend=_LEGEND)


def order_of(rows: Rows, name: str) -> list[str]:
    """The values of a column in their order of appearance."""
    return list(dict.fromkeys(row[name] for row in rows))


def tooltips(rows: Rows, form: str = _SHORT, **titles: str) -> list[alt.Tooltip]:
    """The tooltips: columns with their titles and number formats."""
    numbers = {name for row in rows for name, value in row.items() if isinstance(value, float)}
    return [
        alt.Tooltip(f"{name}:{'Q' if name in numbers else 'N'}", title=title,
                    format=form if name in numbers else alt.Undefined)
        for name, title in titles.items()
    ]  # fmt: skip


def seconds_unit(values: Iterable[float]) -> tuple[str, float]:
    """The unit for the largest value, and its length in seconds."""
    largest = max(values)
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
    return next((unit for unit in units if largest >= unit[1]), units[-1])
