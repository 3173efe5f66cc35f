"""Durations and lists as users type them, and words for texts."""

from __future__ import annotations

import re

from ...loaders.base.errors import InputError
from ...loaders.base.sizes import parse_amount

_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_duration(text: str, what: str = "duration") -> float:
    """Parse a duration into seconds.

    >>> parse_duration("90s"), parse_duration("5m"), parse_duration("250ms")
    (90.0, 300.0, 0.25)

    Raises:
        InputError: it is no duration, or not above zero.
    """
    return parse_amount(text, what, _SECONDS, "90s, 5m or 1h")


def counted(count: int, what: str) -> str:
    """A count with its noun.

    >>> counted(1, "file"), counted(2000, "file"), counted(3, "pass")
    ('1 file', '2,000 files', '3 passes')
    """
    return f"{count:,} {plural(count, what)}"


def plural(count: float, what: str) -> str:
    """A noun, in the plural unless the count is 1.

    >>> plural(1, "row group"), plural(1.5, "row group"), plural(0, "launch")
    ('row group', 'row groups', 'launches')
    """
    if count == 1:
        return what
    return f"{what}es" if what.endswith(("s", "ch")) else f"{what}s"


def without_numbers(text: str) -> str:
    """Replace all numbers by 0, to group messages that differ only by their numbers.

    >>> without_numbers("1,000 rows instead of 2,000")
    '0 rows instead of 0'
    """
    return re.sub(r"\d[\d,.]*", "0", text)


def without_amounts(text: str) -> str:
    """Replace amounts by 0, to group notes; numbers in names and quotes stay.

    >>> without_amounts("column 'x1' holds 1699991229 in 5,000 rows")
    "column 'x1' holds 0 in 0 rows"
    """
    return re.sub(r"(?<![\w'\"./-])-?\d[\d,.]*", "0", text)


def without_hints(text: str) -> str:
    """The first line of a library's message, without advice for its callers.

    >>> without_hints("type mismatch for column x, hint: pass cast_options=pl.ScanCastOptions()")
    'type mismatch for column x'
    """
    first = text.strip().partition("\n")[0]
    return re.split(r"[,;.]?\s*\bhint: ", first, maxsplit=1, flags=re.IGNORECASE)[0]


_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    r"""Remove colours and other control characters for a terminal or a report.

    >>> printable("\x1b[31mboom\x1b[0m\x00")
    'boom'
    """
    return _CONTROL.sub("", text)


_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def escaped(text: str) -> str:
    r"""Escape control characters, and characters that change the text's direction.

    >>> print(escaped("a name\x1b[31m of a file"))
    a name\x1b[31m of a file
    """
    return _INVISIBLE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def as_seconds(value: float | str, what: str) -> float:
    """A duration in seconds, given as a number of seconds or as text like `5m`."""
    return parse_duration(f"{value:f}" if isinstance(value, int | float) else value, what)


def parse_list(text: str) -> list[str]:
    """The items of a comma-separated list.

    >>> parse_list("none, memory")
    ['none', 'memory']
    """
    return [item for part in text.split(",") if (item := part.strip())]


def parse_counts(text: str, what: str) -> list[int]:
    """The whole numbers of a comma-separated list.

    >>> parse_counts("0,1,2", "--workers")
    [0, 1, 2]

    Raises:
        InputError: an item is no whole number, or there is none.
    """
    items = parse_list(text)
    if not items or not all(item.isascii() and item.isdigit() for item in items):
        raise InputError(f"{what} is {text!r}; write whole numbers with commas, like 0,1,2")
    return [int(item) for item in items]
