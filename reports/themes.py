"""Colours and chart themes for light and dark backgrounds."""

from __future__ import annotations

from typing import Any, Literal

Theme = Literal["light", "dark"]
PALETTES: dict[Theme, dict[str, str]] = {
    "light": {
        "ink": "#1b1f24", "dim": "#57606a", "line": "#d0d7de",
        "ground": "#fff", "soft": "#f3f5f7", "mark": "#fff4d6",
    },
    "dark": {
        "ink": "#e6e9ed", "dim": "#9aa4af", "line": "#3b434c",
        "ground": "#14171b", "soft": "#1e2329", "mark": "#3a3115",
    },
}  # fmt: skip
"""Of charts and of the page, where they are CSS variables."""
# Legends stacked at the left: side by side they do not fit on a phone.
_STACKED = {"top": {"direction": "vertical", "anchor": "start"}}
_FONT = "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif"


def theme(which: Theme, *, background: str = "transparent") -> dict[str, Any]:
    """A Vega-Lite configuration."""
    ink, dim, line = (PALETTES[which][name] for name in ("ink", "dim", "line"))
    return {
        "background": background,
        "font": _FONT,
        "view": {"stroke": "transparent"},
        "axis": {
            "labelColor": dim, "titleColor": dim, "gridColor": line, "domainColor": dim,
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
