"""Format numbers: seconds, bytes, counts, rates, percentages and ratios.

None and numbers that are not finite are written as `MISSING`.
"""

from __future__ import annotations

import math
from typing import TypeGuard

MISSING = "–"  # noqa: RUF001 - the dash of a table's empty cell, not a minus sign
TIMES = "×"  # noqa: RUF001 - the multiplication sign, not the letter
_SECONDS = ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))
_BYTES = ((1, "B"), (1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB"), (1 << 40, "TiB"))
_COUNTS = ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"))
_MINUTE, _HOUR = 60, 3600
_IN_MINUTES_FROM = 120  # seconds; below, '95.2 s' reads better than '1 min 35 s'


def format_seconds(value: float | None) -> str:
    """Seconds in the unit that fits.

    >>> format_seconds(0.0123), format_seconds(0)
    ('12.3 ms', '0 s')
    >>> format_seconds(95.2), format_seconds(754), format_seconds(3725)
    ('95.2 s', '12 min 34 s', '1 h 2 min')
    """
    if not _is_number(value):
        return MISSING
    size = abs(value)
    if round(size) < _IN_MINUTES_FROM:
        return _scaled(value, _SECONDS) if value else "0 s"
    sign = "-" if value < 0 else ""
    if round(size) < _HOUR:
        return f"{sign}{round(size) // _MINUTE} min {round(size) % _MINUTE} s"
    minutes = round(size / _MINUTE)
    return f"{sign}{minutes // 60} h {minutes % 60} min"


def format_bytes(value: float | None) -> str:
    """Bytes in binary units.

    >>> format_bytes(512), format_bytes(3_500_000)
    ('512 B', '3.34 MiB')
    """
    return _scaled(value, _BYTES)


def format_count(value: float | None) -> str:
    """A count in thousands, millions or billions.

    >>> format_count(42), format_count(1_234_567)
    ('42', '1.23 M')
    """
    return _scaled(value, _COUNTS)


def format_rows_per_s(value: float | None) -> str:
    """Rows per second.

    >>> format_rows_per_s(1_234_567)
    '1.23 M rows/s'
    """
    text = format_count(value)
    return text if text == MISSING else f"{text} rows/s"


def format_bytes_per_s(value: float | None) -> str:
    """Bytes per second.

    >>> format_bytes_per_s(3_500_000)
    '3.34 MiB/s'
    """
    text = format_bytes(value)
    return text if text == MISSING else f"{text}/s"


def format_percent(value: float | None) -> str:
    """A percentage, given in percent (45.2 is 45.2%).

    >>> format_percent(45.23)
    '45.2%'
    """
    return f"{value:.1f}%" if _is_number(value) else MISSING


def format_ratio(value: float | None) -> str:
    """A speedup or slowdown: 7.84 and the multiplication sign."""
    return f"{_three_digits(value)}{TIMES}" if _is_number(value) else MISSING


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _scaled(value: float | None, units: tuple[tuple[float, str], ...]) -> str:
    """`value` to three digits in the largest unit that keeps it at 1 or above."""
    if not _is_number(value):
        return MISSING
    # 0.9995 s is 1.00 s to three digits, while 1023 bytes are not yet 1 KiB.
    fitting = (
        (factor, unit)
        for factor, unit in reversed(units)
        if abs(value) / factor >= 0.9995  # noqa: PLR2004 - rounds to 1.00, in three digits
    )
    factor, unit = next(fitting, units[0])
    exact = factor == 1 and float(value).is_integer()  # 12 bytes, not 12.0
    text = str(int(value)) if exact else _three_digits(value / factor)
    return f"{text} {unit}".rstrip()


def _three_digits(value: float) -> str:
    size = abs(value)
    if 0 < size < 0.0995:  # noqa: PLR2004 - 0.0043, not 0.00
        return f"{value:.2g}"
    decimals = 2 if size < 9.995 else 1 if size < 99.95 else 0  # noqa: PLR2004 - 3 digits
    return f"{value:.{decimals}f}"
