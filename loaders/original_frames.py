"""The original backend behind the same face as the fast ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import pandas as pd
import pyarrow as pa

from .errors import ParquetFileError
from .frames import Checks, OnError, SchemaRule
from .original import concat_frames, read_file
from .reader import read_schema, require_columns


class OriginalReader:
    """pandas, file after file, with the same checks as the fast loaders.

    Args:
        schema: `concat` warns once a column where files differ, `strict` raises.
        on_error: `raise`, or `skip` to leave unreadable files out; `skipped` lists them.
    """

    def __init__(self, *, schema: SchemaRule = "concat", on_error: OnError = "raise") -> None:
        self.checks = Checks(schema, on_error)

    @property
    def skipped(self) -> list[ParquetFileError]:
        """Files left out by the latest `load`."""
        return self.checks.skipped

    def load(
        self, paths: Iterable[str | os.PathLike[str]], columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """The files' rows in the order given; arguments and errors as `FrameReader.load`."""
        names: list[str] = []
        schemas: list[pa.Schema] = []
        frames: list[pd.DataFrame] = []
        errors: list[ParquetFileError] = []
        for path in paths:
            try:
                schema = read_schema(path)
                frames.append(read_file(path, columns))
            except ParquetFileError as error:
                if self.checks.on_error == "raise":
                    raise
                errors.append(error)
                continue
            names.append(os.fspath(path))
            schemas.append(schema)
        self.checks.note_skipped(errors)
        require_columns(columns, schemas)
        self.checks.compare(names, schemas, columns)
        return concat_frames(frames, columns)
