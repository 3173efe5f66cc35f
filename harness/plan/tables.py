"""Data whose files are named by more than a folder: tables, and repositories of datasets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ...loaders.base.errors import InputError, StorageError, unknown
from ...loaders.base.warn import warn
from ...loaders.remote.hugging_face import find_splits
from ...loaders.remote.table_urls import is_table
from ...loaders.remote.tables import table_files
from ...loaders.remote.urls import RemotePath, common_folder, is_url, local_path

_TABLES = {"_delta_log": "delta", "metadata/version-hint.text": "iceberg"}
"""What the folders of tables have, and the schemes of their URLs."""


class Named(NamedTuple):
    """The files of a table, or of a split of a repository."""

    folder: Path | RemotePath
    files: list[str]
    others: list[str]
    """The repository's other splits."""
    split: str | None = None
    snapshot: str | None = None


def find_named(data: str, data_type: str | None) -> Named | None:
    """The files of a table or a repository; None for other data.

    Args:
        data: a table's URL, or a folder.
        data_type: which split of a repository; by default the one with the most bytes.

    Raises:
        FeedrateError: as `table_files` and `split_files`.
        StorageError: the table has no files.
    """
    if is_table(data):
        return _of_table(data)
    if is_url(data) or not Path(local_path(data)).is_dir():
        return None
    folder = Path(os.path.abspath(local_path(data)))  # noqa: PTH100 - without ".."
    _warn_of_tables(folder)
    splits = find_splits(folder)
    if not splits:
        return None
    if data_type is not None and data_type not in splits:
        raise InputError(unknown("data type", data_type, splits))
    sizes = {name: sum(path.stat().st_size for path in files) for name, files in splits.items()}
    split = data_type or max(sizes, key=lambda name: (sizes[name], name))
    return Named(folder, list(map(str, splits[split])), sorted(splits.keys() - {split}), split)


def _warn_of_tables(folder: Path) -> None:
    """Warn of a table's folder, which also holds files of its earlier versions."""
    for name, form in _TABLES.items():
        if (folder / name).exists():
            warn(
                f"{folder} is a table, whose folder may also hold files of earlier versions; to "
                f"measure those of one version name it as {form}://{folder}"
            )


def _of_table(url: str) -> Named:
    table = table_files(url)
    if not table.files:
        raise StorageError(f"{table.url} has no files; there is nothing to measure")
    paths = [path if isinstance(path, RemotePath) else str(path) for path in table.files]
    return Named(_folder(table.folder, paths), paths, [], snapshot=table.snapshot)


def _folder(folder: Path | RemotePath, paths: Sequence[str]) -> Path | RemotePath:
    """The table's folder, or that of its files if some lie elsewhere."""
    if all(path.startswith(f"{folder}/") for path in paths):
        return folder
    if all(map(is_url, paths)):
        return RemotePath(common_folder(paths))
    return Path(os.path.commonpath([os.path.dirname(path) for path in paths]))  # noqa: PTH120 - Path has no commonpath
