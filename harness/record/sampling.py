"""Pick the files on which to verify rows if there are very many: every n-th, and the last."""

from __future__ import annotations


def picked(files: int, every: int) -> list[int]:
    """The positions of the files in a sample: every n-th from the first on, and the last.

    Args:
        files: number of files.
        every: the step; 1 picks all.

    >>> picked(10, 4), picked(9, 4), picked(3, 1)
    ([0, 4, 8, 9], [0, 4, 8], [0, 1, 2])
    """
    positions = list(range(0, files, every))
    if positions and positions[-1] != files - 1:
        positions.append(files - 1)
    return positions


def described(files: int, every: int) -> str:
    """Describe a sample in words.

    >>> described(200_000, 100)
    '2,001 of 200,000 files, every 100th and the last'
    """
    return f"{len(picked(files, every)):,} of {files:,} files, every {ordinal(every)} and the last"


def ordinal(number: int) -> str:
    """Return a number as an English ordinal.

    >>> [ordinal(one) for one in (2, 3, 11, 21, 112, 1000)]
    ['2nd', '3rd', '11th', '21st', '112th', '1,000th']
    """
    suffixes = {1: "st", 2: "nd", 3: "rd"}
    is_teen = 10 < number % 100 < 20  # noqa: PLR2004 - 11th, 12th, 13th
    return f"{number:,}{'th' if is_teen else suffixes.get(number % 10, 'th')}"
