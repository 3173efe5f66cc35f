"""Text as terminals show it, and lines on stderr."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

import rich.text
from rich.console import Console

from ..system.units import escaped


class Text(rich.text.Text):
    """Text for a terminal, which obeys nothing that stands in it: names are of others' making."""

    def __init__(self, text: str = "", *args: Any, **options: Any) -> None:
        super().__init__(escaped(text), *args, **options)


class QuietConsole(Console):
    """A console that ignores a closed pipe, as after `| head`.

    Rich would exit with 1, which is a verdict of the gate.
    """

    def on_broken_pipe(self) -> None:
        """Drop the output that nobody reads any more."""
        drop_output(sys.stderr if self.stderr else sys.stdout)


def drop_output(stream: TextIO) -> None:
    """Send what is still to be printed nowhere, so that the exit code stays the command's own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(text: str) -> None:
    """Write a line on stderr."""
    QuietConsole(stderr=True, highlight=False, soft_wrap=True).print(Text(text))
