"""Sizes as users type them, and the grammar that they share with durations."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import InputError

_BYTES = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")


def parse_size(text: str, what: str = "size", *, may_be_zero: bool = False) -> int:
    """Parse a size into bytes.

    >>> parse_size("4GiB") == 4 << 30, parse_size("500MB")
    (True, 500000000)

    Raises:
        InputError: it is no size, or zero where that is not allowed.
    """
    return int(parse_amount(text, what, _BYTES, "512MiB or 4GiB", may_be_zero=may_be_zero))


def parse_amount(
    text: str,
    what: str,
    units: Mapping[str, float],
    examples: str,
    *,
    may_be_zero: bool = False,
) -> float:
    """Parse a number with a unit.

    Args:
        text: the number, and a unit in upper or lower case.
        what: its name in an error.
        units: the factor of each unit in lower case; that of `""` is for numbers without a unit.
        examples: for the error.
        may_be_zero: whether zero is allowed.

    Raises:
        InputError: it is no such amount.
    """
    match = _AMOUNT.fullmatch(text)
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None or not (float(match[1]) > 0 or may_be_zero):
        raise InputError(f"{what} is {text!r}; write it like {examples}")
    return float(match[1]) * unit
