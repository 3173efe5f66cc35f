"""Read specs from TOML files, with flags that override them and errors that name the key."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
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
        DocumentError: the file is missing, no TOML, or has an unknown key or a wrong type.
        InputError: a value that is not allowed.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for key in given:
        if key not in kind.__struct_fields__:
            raise InputError(unknown("setting", key, kind.__struct_fields__))
    values = {} if path is None else _read(path)
    where = "" if path is None else f"spec {path}: "
    for key in values:
        if key not in kind.__struct_fields__:
            raise DocumentError(f"{where}{unknown('key', key, kind.__struct_fields__)}")
    try:
        return msgspec.convert({**values, **given}, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise InputError(f"{where}{error.__cause__}") from None
        error_type: type[Exception] = DocumentError if path is not None else InputError
        raise error_type(f"{where}{reworded(str(error), {**values, **given})}") from error


_TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list, such as [0, 2]",
    "object": "a table",
}
"""Plain words for the types that a parser's message names."""
_WRONG_TYPE = re.compile(r"Expected `(?P<wanted>.+?)`, got `.+?` - at `\$\.(?P<place>.+)`")
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
    match = _WRONG_TYPE.fullmatch(said)
    if match is None:
        return said
    place = match["place"]
    value: Any = given
    for step in re.findall(r"\w+", place):
        value = value[int(step) if isinstance(value, list | tuple) else step]
    if place == "cells":
        return f"cells is {value!r}; write each cell as a table below [[cells]]"
    kinds = [_TYPE_WORDS.get(kind, kind) for kind in match["wanted"].split(" | ") if kind != "null"]
    expected = " or ".join(kinds)
    where = ""
    if (table := _TABLE.match(place)) and table.end() < len(place):
        where, place = f"{table['table']} {int(table['number']) + 1}: ", place[table.end() :]
    if place.endswith("]"):
        key = place.partition("[")[0]
        return f"{where}{key} holds {value!r}, and each of its values must be {expected}"
    return f"{where}{place} is {value!r}; it must be {expected}"


@dataclass(frozen=True)
class SpecFile:
    """The TOML file of a spec, named in errors about values that do not suit the data.

    Attributes:
        path: of the file, or None where there is none.
        flags: values that override it.
    """

    path: str | os.PathLike[str] | None
    flags: Mapping[str, Any]

    @contextmanager
    def at(self, key: str) -> Iterator[None]:
        """Name the file in errors of the block about a key, if the file gave the key's value.

        Raises:
            InputError, ColumnError: from the block.
        """
        try:
            yield
        except (InputError, ColumnError) as error:
            if self.path is None or self.flags.get(key) is not None:
                raise
            if key not in _read(self.path):
                raise
            raise type(error)(f"spec {self.path}: {error}") from error


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DocumentError(f"cannot read spec {path}: {error.strerror or error}") from error
    except UNREADABLE as error:
        raise DocumentError(f"spec {path} is no TOML: {error}") from error
