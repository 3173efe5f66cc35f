"""Output of the commands, and the options that several of them share."""

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
    str,
    typer.Argument(
        metavar="DATA", help="A storage, a folder of Parquet files, or a glob, on disk or by URL."
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", help="Also print all tables and problems, and where the time goes."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def out_console() -> Console:
    """The console for results, on stdout."""
    # Piped output keeps its shape: wide enough for the tables, and never coloured.
    wide = os.environ.get("COLUMNS", "")
    piped = int(wide) if wide.isdecimal() and int(wide) else 80
    return QuietConsole(
        highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else piped
    )


def echo(text: str, *, exact: bool = False) -> None:
    """Print a line of results on stdout, not wrapped; `exact` leaves JSON as it is."""
    try:
        typer.echo(text if exact else escaped(text))
    except BrokenPipeError:
        drop_output(sys.stdout)


_PLAIN = {"–": "-", "×": "x", "µ": "u", "…": "...", "─": "-", "·": "."}  # noqa: RUF001


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that the locale cannot encode: a handler of encoding errors."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in signs), error.end


def in_github_actions() -> bool:
    """Whether GitHub Actions reads the output."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def workflow_command(kind: str, text: str, title: str = "feedrate") -> str:
    """A line that GitHub Actions shows as an annotation of a pull request.

    Source of the format: GitHub's toolkit, packages/core/src/command.ts.
    """
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{kind} title={title}::{escaped}"
