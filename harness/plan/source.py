"""Find the user's files: in a storage, one data type's folder, any folder, or by a glob."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ...loaders.base.dates import date_of, date_order
from ...loaders.base.errors import ColumnError, InputError, StorageError, unknown
from ...loaders.parquet.dataset import Dataset, describe
from ...loaders.parquet.reader import open_parquet, read_schema, reading
from ...loaders.parquet.schema import kind_of
from ...loaders.storage import SUFFIX, ParquetStorage, walk_parquet
from ...loaders.training.numeric import is_numeric
from ..system.units import counted
from ..trial.work import Data
from .spec_file import SpecFile

PLAIN_KINDS = ("number", "boolean", "decimal")
"""Kinds of columns that are features if none are named."""


@dataclass(frozen=True)
class Listing:
    """The files of one data type, still unopened."""

    base_dir: Path
    """The storage's folder; the user's profile store is keyed by it."""
    data_type: str
    files: list[str]
    others: list[str]
    """The storage's other data types."""


@dataclass(frozen=True)
class Source(Listing):
    """The files of one data type, with a description of their dataset."""

    dataset: Dataset

    def check_columns(self, columns: list[str]) -> None:
        """Raise `ColumnError` for a column that no file has."""
        missing = dict.fromkeys(columns)
        names: dict[str, None] = {}
        for path in self.files:  # most often the first file has them all
            if not missing:
                return
            in_file = read_schema(path).names
            names |= dict.fromkeys(in_file)
            missing = {name: None for name in missing if name not in in_file}
        for name in missing:
            raise ColumnError(unknown("column", name, names))

    def check_rows(self) -> None:
        """Raise `StorageError` if no file has a row: nothing could be measured."""
        if not self.dataset.rows_per_file and not any(map(_rows, self.files)):
            raise StorageError(
                f"no rows in the {counted(len(self.files), 'file')} of {self.data_type}; there is "
                "nothing to measure"
            )

    def check_numeric(self, columns: list[str]) -> None:
        """Raise `ColumnError` for a column that no file has, or that cannot become numbers.

        See the table of types in `loaders.training.numeric.numbers`.
        """
        self.check_columns(columns)
        schema = self._schema()
        usable = [field.name for field in schema if is_numeric(field.type)]
        for name in columns:
            if name in schema.names and name not in usable:
                kind = kind_of(schema.field(name).type) or schema.field(name).type
                raise ColumnError(
                    f"column {name!r} is {kind}, which does not become numbers; "
                    f"these do: {', '.join(usable) or '(none)'}"
                )

    def features(self, columns: list[str] | None, target: str | None) -> list[str]:
        """The feature columns: those named, or all numbers, booleans and decimals.

        The target is no feature; dates, times, durations and dictionaries are only if named.

        Raises:
            ColumnError: a named column is missing or cannot become numbers, or none is numeric.
        """
        self.check_numeric([*(columns or []), *([target] if target is not None else [])])
        chosen = columns or [name for name in _numeric(self._schema()) if name != target]
        if not chosen:
            raise ColumnError(
                f"{self.data_type} has no numeric or boolean column to train on; only the frame "
                "job can be measured on it"
            )
        return chosen

    def trial_data(
        self,
        jobs: Iterable[str],
        columns: list[str] | None,
        target: str | None,
        file: SpecFile,
    ) -> Data:
        """The files and columns for jobs, as passed to child processes.

        Args:
            jobs: those to measure.
            columns: of frames, and features of training jobs; None means all suitable ones.
            target: of training jobs.
            file: the spec that may contain them; errors name it.

        Raises:
            ColumnError: a column is missing, or does not suit the jobs.
        """
        training = any(job != "frame" for job in jobs)
        if target is not None:
            with file.at("target"):
                self.check_numeric([target])
        features: list[str] = []
        with file.at("columns"):
            if training or target is not None:
                features = self.features(columns, target)
            elif columns is not None:
                self.check_columns(columns)
        return Data(paths=self.files, columns=columns, features=features, target=target)

    def _schema(self) -> pa.Schema:
        """The columns of the first, middle and last file, by the first type that is not null."""
        positions = sorted({0, len(self.files) // 2, len(self.files) - 1})
        fields: dict[str, pa.Field] = {}
        for position in positions:
            for field in read_schema(self.files[position]):
                known = fields.setdefault(field.name, field)
                if pa.types.is_null(known.type):
                    fields[field.name] = field
        return pa.schema(fields.values())


def _numeric(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if kind_of(field.type) in PLAIN_KINDS]


def open_source(data: str, data_type: str | None = None) -> Source:
    """Find the files as `find_files` does, and describe them by three footers.

    Raises:
        StorageError: no such folder, or no Parquet in it.
        InputError: an unknown data type.
        ParquetFileError: one of the three files cannot be read.
    """
    listing = find_files(data, data_type)
    dataset = describe(listing.files, listing.data_type, listing.base_dir / listing.data_type)
    return Source(listing.base_dir, listing.data_type, listing.files, listing.others, dataset)


def find_files(data: str, data_type: str | None = None) -> Listing:
    """Find the files, without opening any.

    Args:
        data: a storage's folder, one data type's folder, any folder of Parquet files, or a glob.
        data_type: which type of a storage; by default the one with the most bytes.

    Raises:
        StorageError: no such folder, or no Parquet in it.
        InputError: an unknown data type.
    """
    if not data:
        raise InputError("DATA is empty; name a folder of Parquet files (an unset variable?)")
    if any(sign in data for sign in "*?[") and not Path(data).exists():
        return _from_glob(data)
    folder = without_dots(Path(data))  # so that "." has a name and a parent
    if folder.is_file():
        return _listing(_type_folder(folder.parent), [str(folder)], [])
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
        return _listing(folder, files, [])
    if data_type is not None and data_type not in types:
        raise InputError(unknown("data type", data_type, types))
    chosen = data_type or max(types, key=lambda name: (types[name], name))
    files = [str(path) for path in ParquetStorage(folder).files(chosen)]
    return _listing(folder / chosen, files, sorted(set(types) - {chosen}))


def _rows(path: str) -> int:
    with reading(path), open_parquet(path) as file:
        return int(file.metadata.num_rows)


def without_dots(path: Path) -> Path:
    """An absolute path without `..`; symbolic links are followed up to the last one.

    >>> print(without_dots(Path("/data/../logs/here")))
    /logs/here
    """
    parts = path.absolute().parts
    if ".." not in parts:
        return path.absolute()
    last = len(parts) - parts[::-1].index("..")
    return Path(*parts[:last]).resolve().joinpath(*parts[last:])


def _from_glob(pattern: str) -> Listing:
    files = sorted(
        path
        for path in glob.glob(pattern, recursive=True)  # noqa: PTH207 - patterns may be absolute
        if os.path.isfile(path)  # noqa: PTH113 - the same paths
    )
    if not files:
        raise StorageError(f"no file matches {pattern}; quote the pattern and check its folder")
    common = Path(os.path.commonpath([str(Path(path).absolute().parent) for path in files]))
    folder = _type_folder(common)
    dated = [
        (date_of(Path(path).absolute().relative_to(folder).as_posix()), path) for path in files
    ]
    dated.sort(key=lambda file: date_order(*file))
    return _listing(folder, [path for _, path in dated], [])


def _type_folder(folder: Path) -> Path:
    """The data type's folder: the first, from `folder` upwards, whose name spells no date."""
    while _spells_date(folder.name) and folder.parent != folder:
        folder = folder.parent
    return folder


def _spells_date(name: str) -> bool:
    if "=" in name or name.replace("-", "").isdigit():
        return True
    return name.lower().endswith(SUFFIX) and date_of(f"{name}/part{SUFFIX}") is not None


def _listing(folder: Path, files: list[str], others: list[str]) -> Listing:
    return Listing(folder.parent, folder.name, files, others)


def _data_types(folder: Path) -> dict[str, int]:
    """The data types of a storage with the bytes of each; none if `folder` is itself a type's.

    It is a type's own folder if it directly holds files, or folders that spell dates.
    """
    sizes: dict[str, int] = {}
    for relative in walk_parquet(folder):
        first, _, rest = relative.partition("/")
        if not rest or (_spells_date(first) and date_of(relative) is not None):
            return {}
        sizes[first] = sizes.get(first, 0) + (folder / relative).stat().st_size
    return sizes
