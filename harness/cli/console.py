"""Where commands write, and what several of them take."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from ..show.text import QuietConsole, drop_output
from ..system.units import escaped


def option(help_text: str, metavar: str) -> Any:
    """A flag of a command."""
    return typer.Option(help=help_text, metavar=metavar)


DataArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="A storage, a folder of Parquet files, or a glob.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def out_console() -> Console:
    """Results, on stdout."""
    # Piped output keeps its shape: wide enough for the tables, and never coloured.
    wide = os.environ.get("COLUMNS", "")
    piped = int(wide) if wide.isdecimal() and int(wide) else 80
    return QuietConsole(
        highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else piped
    )


def echo(text: str, *, exact: bool = False) -> None:
    """A line of results on stdout, without line breaks of its own; `exact` leaves JSON as it is."""
    try:
        typer.echo(text if exact else escaped(text))
    except BrokenPipeError:
        drop_output(sys.stdout)


_PLAIN = {"–": "-", "×": "x", "µ": "u", "…": "...", "─": "-", "·": "."}  # noqa: RUF001


def in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    """What stands for a sign that the locale does not have: a handler of encoding errors."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in signs), error.end


def in_github_actions() -> bool:
    """Whether GitHub Actions reads what is printed."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def workflow_command(kind: str, text: str) -> str:
    """A line that GitHub Actions shows beside a pull request.

    Source of its form: GitHub's toolkit, packages/core/src/command.ts.
    """
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{kind} title=feedrate gate::{escaped}"
