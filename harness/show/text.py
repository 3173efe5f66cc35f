"""Text for terminals, and lines on stderr."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

import rich.text
from rich.console import Console

from ..system.units import escaped


class Text(rich.text.Text):
    """Text for a terminal, with control characters escaped, since names in it are untrusted."""

    def __init__(self, text: str = "", *args: Any, **options: Any) -> None:
        super().__init__(escaped(text), *args, **options)


class QuietConsole(Console):
    """A console that ignores a closed pipe, as after `| head`.

    Rich would exit with 1, which is a verdict of the gate.
    """

    def on_broken_pipe(self) -> None:
        """Drop the remaining output, which nobody reads."""
        drop_output(sys.stderr if self.stderr else sys.stdout)


def drop_output(stream: TextIO) -> None:
    """Discard a stream's remaining output, so that the exit code stays the command's own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(text: str) -> None:
    """Write a line on stderr."""
    QuietConsole(stderr=True, highlight=False, soft_wrap=True).print(Text(text))
