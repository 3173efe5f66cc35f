"""What the user points at: a storage, one data type's folder, any folder, or a glob."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ..loaders.dataset import Dataset, describe
from ..loaders.dates import date_of
from ..loaders.errors import ColumnError, InputError, StorageError, unknown
from ..loaders.reader import read_schema
from ..loaders.schema import kind_of
from ..loaders.storage import ParquetStorage, walk_parquet


@dataclass(frozen=True)
class Source:
    """The files of one data type."""

    base_dir: Path
    """The storage's folder; the user's profile store is keyed by it."""
    data_type: str
    files: list[str]
    dataset: Dataset
    others: list[str]
    """Data types there that were not chosen."""

    def check_columns(self, columns: list[str]) -> None:
        """Raise `ColumnError` for a column that the first file does not have."""
        names = read_schema(self.files[0]).names
        for name in columns:
            if name not in names:
                raise ColumnError(unknown("column", name, names))

    def features(self, columns: list[str] | None, target: str | None) -> list[str]:
        """The feature columns: those named, or all numeric and boolean ones but the target.

        Raises:
            ColumnError: a named column is missing or holds no numbers, or none is numeric.
        """
        schema: pa.Schema = read_schema(self.files[0])
        self.check_columns([*(columns or []), *([target] if target else [])])
        numeric = [field.name for field in schema if kind_of(field.type) in ("number", "boolean")]
        for name in [*(columns or []), *([target] if target else [])]:
            if name not in numeric:
                raise ColumnError(
                    f"column {name!r} is {kind_of(schema.field(name).type)}, not numeric; "
                    f"the numeric columns are: {', '.join(numeric)}"
                )
        chosen = columns or [name for name in numeric if name != target]
        if not chosen:
            raise ColumnError(
                f"{self.data_type} has no numeric or boolean column to train on; only the frame "
                "job can be measured on it"
            )
        return chosen


def open_source(data: str, data_type: str | None = None) -> Source:
    """Find the files.

    Args:
        data: a storage's folder, one data type's folder, any folder of Parquet files, or a glob.
        data_type: which type of a storage; by default the one with the most bytes.

    Raises:
        StorageError: no such folder, or no Parquet in it.
        InputError: an unknown data type.
    """
    if any(sign in data for sign in "*?[") and not Path(data).exists():
        return _from_glob(data)
    folder = Path(data)
    if folder.is_file():
        return _source(folder.parent, folder.stem, [str(folder)], [])
    if not folder.is_dir():
        raise StorageError(
            f"there is no folder {data}; give a folder of Parquet files, or make one with: "
            f"feedrate data flights {data}"
        )
    types = _data_types(folder)
    if not types:
        files = (
            [str(path) for path in ParquetStorage(folder.parent).files(folder.name)]
            if (not folder.name.startswith((".", "_")) and folder.name)
            else [str(folder / name) for name in sorted(walk_parquet(folder))]
        )
        if not files:
            raise StorageError(
                f"{data} holds no Parquet file; give a folder that does, or make data with: "
                f"feedrate data flights {data}"
            )
        if data_type not in (None, folder.name):
            raise InputError(unknown("data type", data_type, [folder.name]))
        return _source(folder.parent, folder.name, files, [])
    if data_type is not None and data_type not in types:
        raise InputError(unknown("data type", data_type, types))
    chosen = data_type or max(types, key=lambda name: (types[name], name))
    files = [str(path) for path in ParquetStorage(folder).files(chosen)]
    return _source(folder, chosen, files, sorted(set(types) - {chosen}))


def _from_glob(pattern: str) -> Source:
    files = sorted(
        path
        for path in glob.glob(pattern, recursive=True)  # noqa: PTH207 - patterns may be absolute
        if os.path.isfile(path)  # noqa: PTH113 - the same paths
    )
    if not files:
        raise StorageError(f"no file matches {pattern}; quote the pattern and check its folder")
    folder = Path(os.path.commonpath([str(Path(path).absolute().parent) for path in files]))
    return _source(folder.parent, folder.name, files, [])


def _source(base: Path, data_type: str, files: list[str], others: list[str]) -> Source:
    return Source(base, data_type, files, describe(files, data_type), others)


def _data_types(folder: Path) -> dict[str, int]:
    """The data types of a storage with the bytes of each; none if `folder` is itself a type's.

    It is a type's own folder if it holds files, or folders that spell dates.
    """
    sizes: dict[str, int] = {}
    for relative in walk_parquet(folder):
        first, _, rest = relative.partition("/")
        spells = rest and (
            "=" in first
            or (first.isdigit() and date_of(relative) is not None and date_of(rest) is None)
        )
        if not rest or spells:
            return {}
        sizes[first] = sizes.get(first, 0) + (folder / relative).stat().st_size
    return sizes
