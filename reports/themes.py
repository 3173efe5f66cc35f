"""Chart themes for light and dark backgrounds."""

from __future__ import annotations

from typing import Any, Literal

Theme = Literal["light", "dark"]
_INK: dict[Theme, tuple[str, str, str]] = {
    "light": ("#1b1f24", "#57606a", "#e4e8ec"),
    "dark": ("#e6e9ed", "#9aa4af", "#30373f"),
}
"""Text, dim text and grid; the page uses the same colours."""
# Legends stacked at the left: side by side they do not fit on a phone.
_STACKED = {"top": {"direction": "vertical", "anchor": "start"}}
_FONT = "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif"


def theme(which: Theme, *, background: str = "transparent") -> dict[str, Any]:
    """A Vega-Lite configuration."""
    ink, dim, grid = _INK[which]
    return {
        "background": background,
        "font": _FONT,
        "view": {"stroke": "transparent"},
        "axis": {
            "labelColor": dim, "titleColor": dim, "gridColor": grid, "domainColor": dim,
            "tickColor": dim, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal",
        },
        "legend": {
            "labelColor": ink, "titleColor": dim, "labelFontSize": 12, "titleFontSize": 12,
            "titleFontWeight": "normal", "layout": _STACKED,
            "symbolBaseFillColor": dim, "symbolBaseStrokeColor": dim,
        },
        "header": {"labelColor": ink, "titleColor": dim, "labelFontSize": 12},
        "title": {"color": ink},
    }  # fmt: skip
