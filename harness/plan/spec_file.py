"""Read specs from TOML files, with flags that override them and errors that name the line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ...loaders.base.errors import UNREADABLE, ColumnError, DocumentError, InputError, unknown

S = TypeVar("S", bound=msgspec.Struct)


def read_spec(path: str | os.PathLike[str] | None, kind: type[S], flags: Mapping[str, Any]) -> S:
    """Read a TOML file; given flags override it.

    Args:
        path: of the file, or None where there is none.
        kind: the struct that it is read as; its fields are the keys.
        flags: fields that override the file; None stands for not given.

    Raises:
        DocumentError: the file is missing, no TOML, or has an unknown key or a wrong type; the
            message names the line.
        InputError: a value that is not allowed.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for key in given:
        if key not in kind.__struct_fields__:
            raise InputError(unknown("setting", key, kind.__struct_fields__))
    text = "" if path is None else _read(path)
    try:
        known = tomllib.loads(text)
    except UNREADABLE as error:
        raise DocumentError(f"spec {path} is no TOML: {error}") from error
    for key in known:
        if key not in kind.__struct_fields__:
            where = _where(path, text, key)
            raise DocumentError(f"{where}{unknown('key', key, kind.__struct_fields__)}")
    try:
        return msgspec.convert({**known, **given}, kind)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        told = str(cause) if isinstance(cause, InputError) else str(error)
        keys = [name for name in known if name not in given]
        where = _where_of_table(path, text, told) or _where(path, text, _meant(told, keys))
        if isinstance(cause, InputError):
            raise InputError(f"{where}{told}") from None
        wrong: type[Exception] = DocumentError if path is not None else InputError
        raise wrong(f"{where}{reworded(told, {**known, **given})}") from error


_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list, such as [0, 2]",
    "object": "a table",
}
"""Plain words for the types that a parser's message names."""
_OF_ANOTHER_TYPE = re.compile(r"Expected `(?P<wanted>.+?)`, got `.+?` - at `\$\.(?P<place>.+)`")
_UNKNOWN_KEY = re.compile(r"Object contains unknown field `(?P<key>.+)` - at `\$\.(?P<place>.+)`")
_TABLE = re.compile(r"(?P<table>\w+)s\[(?P<number>\d+)\]\.?")


def reworded(said: str, given: Mapping[str, Any]) -> str:
    """Turn a parser's message about a wrong type into a sentence about the key.

    >>> reworded("Expected `int`, got `str` - at `$.files[0]`", {"files": ["all"]})
    "files holds 'all', and each of its values must be a whole number"
    >>> reworded("Expected `str`, got `int` - at `$.cells[1].job`", {"cells": [{}, {"job": 3}]})
    'cell 2: job is 3; it must be text'
    """
    if unknown_key := _UNKNOWN_KEY.fullmatch(said):
        table = _TABLE.fullmatch(unknown_key["place"])
        where = f"{table['table']} {int(table['number']) + 1}" if table else unknown_key["place"]
        return f"{where}: unknown key {unknown_key['key']!r}"
    found = _OF_ANOTHER_TYPE.fullmatch(said)
    if found is None:
        return said
    place = found["place"]
    value: Any = given
    for step in re.findall(r"\w+", place):
        value = value[int(step) if isinstance(value, list | tuple) else step]
    if place == "cells":
        return f"cells is {value!r}; write each cell as a table below [[cells]]"
    kinds = [_WANTED.get(kind, kind) for kind in found["wanted"].split(" | ") if kind != "null"]
    wanted = " or ".join(kinds)
    where = ""
    if (table := _TABLE.match(place)) and table.end() < len(place):
        where, place = f"{table['table']} {int(table['number']) + 1}: ", place[table.end() :]
    if place.endswith("]"):
        key = place.partition("[")[0]
        return f"{where}{key} holds {value!r}, and each of its values must be {wanted}"
    return f"{where}{place} is {value!r}; it must be {wanted}"


@dataclass(frozen=True)
class SpecFile:
    """The TOML file of a spec, to name its lines in errors about what the data lack.

    Attributes:
        path: of the file, or None where there is none.
        flags: values that override it.
    """

    path: str | os.PathLike[str] | None
    flags: Mapping[str, Any]

    @contextmanager
    def at(self, key: str) -> Iterator[None]:
        """Name the key's line in an error, if its value came from the file.

        Raises:
            InputError: as raised in the block, or with the line.
            ColumnError: likewise.
        """
        try:
            yield
        except (InputError, ColumnError) as error:
            if self.path is None or self.flags.get(key) is not None:
                raise
            text = _read(self.path)
            if key not in tomllib.loads(text):
                raise
            raise type(error)(f"{_where(self.path, text, key)}{error}") from error


def _read(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DocumentError(f"cannot read spec {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DocumentError(f"spec {path} is no TOML: {error}") from error


def _meant(told: str, keys: Iterable[str]) -> str | None:
    """The key that an error is about: `$.workers`, `max_workers is`, `unknown page cache`."""
    start = told.partition("; ")[0]
    if start.startswith("cell "):  # a cell has keys of its own
        return None
    said = {key: rf"\b{key.rstrip('s').replace('_', '[_ ]')}s?\b" for key in keys}
    named = [key for key, pattern in said.items() if re.search(pattern, start)]
    return max(named, key=len, default=None)


def _where_of_table(path: str | os.PathLike[str] | None, text: str, told: str) -> str | None:
    """The start of a message about one of several tables, such as `$.cells[1]`."""
    named = re.search(r"\$\.(\w+)\[(\d+)\]", told)
    if path is None or named is None:
        return None
    header = re.compile(rf"\s*\[\[\s*{named[1]}\s*\]\]")
    numbers = [n for n, line in enumerate(text.splitlines(), start=1) if header.match(line)]
    place = int(named[2])
    return f"spec {path}, line {numbers[place]}: " if place < len(numbers) else None


def _where(path: str | os.PathLike[str] | None, text: str, key: str | None) -> str:
    """The start of a message about a spec file, with the line of a key."""
    if path is None:
        return ""
    lines = text.splitlines()
    starts = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.\]]" if key else r"(?!)")
    table = re.compile(rf"\s*\[+\s*{re.escape(key)}\b" if key else r"(?!)")
    for number, line in enumerate(lines, start=1):
        if starts.match(line) or table.match(line):
            return f"spec {path}, line {number}: "
    return f"spec {path}: "
