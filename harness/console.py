"""Where commands write, and what several of them take."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text


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
    return Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 80)


def say(text: str) -> None:
    """Anything else, on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(text))
