"""The errors of feedrate, each a `FeedrateError`, and helpers for their messages."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

UNREADABLE = (ValueError, RecursionError)
"""Errors that decoders raise for damaged JSON or TOML: RecursionError for thousands of brackets,
else ValueError, also for bytes that are not UTF-8 and for numbers of thousands of digits."""


class FeedrateError(Exception):
    """Base of all errors that feedrate raises on purpose."""


class InputError(FeedrateError, ValueError):
    """An argument, a date, a column or a setting that cannot be used."""


class StorageError(FeedrateError, OSError):
    """A folder that is missing, holds no Parquet, or cannot be written."""


class ParquetFileError(FeedrateError, OSError):
    """A file that cannot be read as Parquet.

    Attributes:
        path: the file.
        reason: what is wrong with it, without the path.
        skippable: whether the caller may pass `on_error='skip'`; the message then says so.
    """

    def __init__(self, path: str | Path, reason: str, skippable: bool = False) -> None:
        advice = ", or pass on_error='skip' to load the others" if skippable else ""
        super().__init__(f"cannot read {path}: {reason}; repair or remove the file{advice}")
        self.path = str(path)
        self.reason = reason
        self.skippable = skippable

    def __reduce__(self) -> tuple[type[ParquetFileError], tuple[str, str, bool]]:
        return type(self), (self.path, self.reason, self.skippable)


class SchemaError(FeedrateError, ValueError):
    """Files whose columns differ although `schema='strict'` requires them to agree."""


class ColumnError(FeedrateError, KeyError, ValueError):
    """A column that is missing or cannot become a number."""

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0])


class DocumentError(FeedrateError, ValueError):
    """A profile, results or spec file that is damaged, too new for this version, or not ours."""


class MissingBackendError(FeedrateError, ImportError):
    """A backend or feature whose packages are not installed; the message names the extra."""


def not_installed(backend: str, module: str, extra: str, host: str = "") -> MissingBackendError:
    """The error for a backend whose module is missing, naming the extra that installs it."""
    where = f" on {host}" if host else ""
    return MissingBackendError(
        f"the {backend} backend needs {module}, which is not installed{where}; "
        f'install it with: pip install "feedrate[{extra}]"'
    )


class FeedrateWarning(UserWarning):
    """A problem the user should know about that does not stop the program."""


def shown(value: object) -> str:
    """A value as an error message shows it, shortened if long.

    >>> shown(3), shown("short"), shown(10**400)
    ('3', "'short'", '100000000000000000...0000000000000000000')
    """
    return reprlib.repr(value)


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The message for an unknown `name`: the nearest match, ignoring case, and all choices."""
    names = sorted(known)
    by_lower = {choice.lower(): choice for choice in names}
    lower = name.lower() if isinstance(name, str) else ""
    matches = [by_lower[match] for match in get_close_matches(lower, by_lower, n=1)]
    hint = f"did you mean {matches[0]!r}? The" if matches else "the"
    return f"unknown {what} {name!r}; {hint} choices are: {', '.join(names) or '(none)'}"
