"""Find the user's files: in a storage, one data type's folder, any folder, or by a glob."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ...loaders.base.dates import date_of, date_order
from ...loaders.base.errors import ColumnError, InputError, StorageError, unknown
from ...loaders.parquet.dataset import Dataset, describe
from ...loaders.parquet.reader import open_parquet, read_schema, reading
from ...loaders.parquet.schema import kind_of
from ...loaders.remote.ahead import map_paths
from ...loaders.remote.urls import RemotePath, checked_url, is_url, local_path, split_url
from ...loaders.storage import SUFFIX, ParquetStorage, walk_parquet
from ...loaders.training.numeric import is_numeric
from ..system.units import counted
from ..trial.work import Data
from .objects import find_objects, in_order
from .spec_file import SpecFile
from .tables import find_named

PLAIN_KINDS = ("number", "boolean", "decimal")
"""Kinds of columns that are features if none are named."""


@dataclass(frozen=True)
class Listing:
    """The files of one data type, still unopened."""

    folder: Path | RemotePath
    """The data type's folder."""
    files: list[str]
    """Paths; those of objects are `RemotePath`s, with size and version."""
    others: list[str]
    """The storage's other data types."""
    split: str | None = dataclasses.field(default=None, kw_only=True)
    """Of a dataset repository, whose splits are its data types."""
    snapshot: str | None = dataclasses.field(default=None, kw_only=True)
    """Of a table that names its files."""

    @property
    def base_dir(self) -> Path | RemotePath:
        """The storage's folder; the user's profile store is keyed by it."""
        is_bucket = isinstance(self.folder, RemotePath) and not split_url(self.folder).key
        return self.folder if is_bucket or self.split is not None else self.folder.parent

    @property
    def data_type(self) -> str:
        """The name of the data type."""
        return self.split or self.folder.name

    @property
    def of_objects(self) -> bool:
        """Whether the files are objects in a store."""
        return isinstance(self.folder, RemotePath)

    def name_in_type(self, path: str) -> str:
        """A file's path relative to the data type's folder, with slashes."""
        if isinstance(self.folder, RemotePath):
            return path[len(self.folder) + 1 :]
        return Path(path).absolute().relative_to(self.folder).as_posix()


@dataclass(frozen=True)
class Source(Listing):
    """The files of one data type, with a description of their dataset."""

    dataset: Dataset

    def check_columns(self, columns: list[str]) -> None:
        """Raise `ColumnError` for a column that no file has."""
        names = dict.fromkeys(_columns_of(self.files[0]))
        if names.keys() >= set(columns):  # most often the first file has them all
            return
        for in_file in map_paths(_columns_of, self.files[1:], 0):
            names |= dict.fromkeys(in_file)
            if names.keys() >= set(columns):
                return
        raise ColumnError(unknown("column", next(c for c in columns if c not in names), names))

    def check_rows(self) -> None:
        """Raise `StorageError` if no file has a row: nothing could be measured."""
        if not self.dataset.rows_per_file and not any(map_paths(_rows, self.files, 0)):
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
        return Data.of(self.files, columns, features, target)

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
    dataset = describe(listing.files, listing.data_type, listing.folder, listing.snapshot)
    return Source(
        listing.folder, listing.files, listing.others, dataset,
        split=listing.split, snapshot=listing.snapshot,
    )  # fmt: skip


def find_files(data: str, data_type: str | None = None) -> Listing:
    """Find the files, without opening any.

    Args:
        data: a storage's folder, one data type's folder, any folder of Parquet files, or a glob;
            or the URL of one, or of one object; or a table that names its files, or a repository
            of a dataset.
        data_type: which type of a storage; by default the one with the most bytes.

    Raises:
        StorageError: no such folder, no Parquet in it, or a store that refuses or does not answer.
        InputError: an unknown data type, or a URL with credentials in it.
    """
    if not data:
        raise InputError("DATA is empty; name a folder of Parquet files (an unset variable?)")
    if (named := find_named(data, data_type)) is not None:
        _check_type(data_type, [named.split or named.folder.name, *named.others])
        return Listing(
            named.folder, named.files, named.others, split=named.split, snapshot=named.snapshot
        )
    if is_url(data):
        return _from_store(checked_url(data), data_type)
    data = local_path(data)
    if any(sign in data for sign in "*?[") and not Path(data).exists():
        return _from_glob(data)
    folder = without_dots(Path(data))  # so that "." has a name and a parent
    if folder.is_file():
        return Listing(_type_folder(folder.parent), [str(folder)], [])
    if not folder.is_dir():
        raise StorageError(
            f"there is no folder {data}; give a folder of Parquet files, or make one with: "
            f"feedrate data flights {data}"
        )
    types = _data_types(_sizes(folder))
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
        _check_type(data_type, [folder.name])
        return Listing(folder, files, [])
    chosen = _chosen_type(data_type, types)
    files = [str(path) for path in ParquetStorage(folder).files(chosen)]
    return Listing(folder / chosen, files, sorted(set(types) - {chosen}))


def _from_store(url: str, data_type: str | None) -> Listing:
    """The objects that a URL names."""
    found = find_objects(url)
    folder, files = found.folder, found.files
    if found.is_named:
        folder = _type_folder_of_objects(folder)
        files = {path[len(folder) + 1 :]: path for path in files.values()}
        return Listing(folder, [*in_order(files.items())], [])
    types = _data_types((name, path.size or 0) for name, path in files.items())
    if not types:
        _check_type(data_type, [folder.name])
        return Listing(folder, [*in_order(files.items())], [])
    chosen = _chosen_type(data_type, types)
    prefix = f"{chosen}/"
    inside = [
        (name.removeprefix(prefix), path) for name, path in files.items() if name.startswith(prefix)
    ]
    return Listing(folder / chosen, [*in_order(inside)], sorted(set(types) - {chosen}))


def _check_type(data_type: str | None, types: Iterable[str]) -> None:
    if data_type is not None and data_type not in (known := list(types)):
        raise InputError(unknown("data type", data_type, known))


def _chosen_type(data_type: str | None, types: Mapping[str, int]) -> str:
    """The named data type, or the one with the most bytes."""
    _check_type(data_type, types)
    return data_type or max(types, key=lambda name: (types[name], name))


def _columns_of(path: str) -> list[str]:
    return list(read_schema(path).names)


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
    return Listing(folder, [path for _, path in dated], [])


def _type_folder(folder: Path) -> Path:
    """The data type's folder: the first, from `folder` upwards, whose name spells no date."""
    while _spells_date(folder.name) and folder.parent != folder:
        folder = folder.parent
    return folder


def _type_folder_of_objects(folder: RemotePath) -> RemotePath:
    """As `_type_folder`, up to the bucket."""
    while split_url(folder).key and _spells_date(folder.name):
        folder = folder.parent
    return folder


def _spells_date(name: str) -> bool:
    if "=" in name or name.replace("-", "").isdigit():
        return True
    return name.lower().endswith(SUFFIX) and date_of(f"{name}/part{SUFFIX}") is not None


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    """The Parquet files below a folder, with their sizes."""
    return ((name, (folder / name).stat().st_size) for name in walk_parquet(folder))


def _data_types(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The data types of a storage with the bytes of each; none if the folder is itself a type's.

    It is a type's own folder if it directly holds files, or folders that spell dates.

    Args:
        sizes: paths relative to the folder, with the sizes of the files.
    """
    types: dict[str, int] = {}
    for relative, size in sizes:
        first, _, rest = relative.partition("/")
        if not rest or (_spells_date(first) and date_of(relative) is not None):
            return {}
        types[first] = types.get(first, 0) + size
    return types
