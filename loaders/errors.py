"""What can go wrong, in one small family: every error of feedrate is a `FeedrateError`."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


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
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(
            f"cannot read {path}: {reason}; repair or remove the file, "
            "or pass on_error='skip' to load the others"
        )
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ParquetFileError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class SchemaError(FeedrateError, ValueError):
    """Files whose columns differ, where `schema='strict'` asks that they agree."""


class ColumnError(FeedrateError, KeyError, ValueError):
    """A column that is missing or cannot become a number."""

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0])


class DocumentError(FeedrateError, ValueError):
    """A profile, results or spec file that is damaged, newer than this version, or not ours."""


class MissingBackendError(FeedrateError, ImportError):
    """A backend or feature whose packages are not installed; the message names the extra."""


class FeedrateWarning(UserWarning):
    """Something the user should know that is no reason to stop."""


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """Say that `name` is no known `what`: the nearest match, and all names that exist."""
    names = sorted(known)
    near = get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}; choose one of: {', '.join(names) or '(none)'}.{hint}"
