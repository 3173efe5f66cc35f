"""The report as one HTML file that works offline, on a phone and in dark mode."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2
import msgspec
import vl_convert
from markupsafe import Markup

from .content import Report
from .themes import PALETTES, theme

_GLOBALS = "window.vegaEmbed = vegaEmbed;"  # the only part of the bundle that the page calls
_PAGE = Path(__file__).with_name("page.html.j2")


def html_report(report: Report) -> str:
    """The page; text from data is escaped, and a content policy forbids all fetches."""
    charts = {
        "themes": {"light": theme("light"), "dark": theme("dark")},
        "specs": {chart.name: chart.spec for chart in report.charts},
    }
    specs = msgspec.json.encode(charts).decode()
    for sign in "<>&":  # so that no text in the data can end the script element
        specs = specs.replace(sign, f"\\u{ord(sign):04x}")
    return _template().render(
        report=report,
        palettes=PALETTES,
        specs=Markup(specs),  # noqa: S704 - escaped above, as JSON
        bundle=Markup(_bundle() if report.charts else ""),  # noqa: S704 - Vega's own code
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_PAGE.read_text(encoding="utf-8"))


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, which sets `window.vegaEmbed`."""
    return str(vl_convert.javascript_bundle(_GLOBALS)).replace("</script", "<\\/script")
