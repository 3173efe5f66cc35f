"""Text as terminals show it."""

from __future__ import annotations

from typing import Any

import rich.text

from ..system.units import escaped


class Text(rich.text.Text):
    """Text for a terminal, which obeys nothing that stands in it: names are of others' making."""

    def __init__(self, text: str = "", *args: Any, **options: Any) -> None:
        super().__init__(escaped(text), *args, **options)
