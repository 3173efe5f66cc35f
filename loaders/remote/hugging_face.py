"""Layouts of Hugging Face on disk: cloned dataset repositories, and folders of `save_to_disk`.

A cloned repository has several files per split, such as `data/train-00000-of-00004.parquet`
(https://huggingface.co/docs/hub/datasets-data-files-configuration). Its splits are known if its
README.md names their files, or if `data/` holds nothing but files named in this way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..base.errors import InputError, MissingBackendError, StorageError
from .urls import is_url, local_path

_SHARD = re.compile(r"(?P<split>\w+(?:\.\w+)*)-(?P<number>\d{5})-of-(?P<count>\d{5})[^/]*\.parquet")
_FRONT = re.compile(r"\A---\s*\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
_POINTER = b"version https://git-lfs"
_POINTER_BYTES = 1024  # a file in its place has about 130
_SUFFIX = ".parquet"
_ABOUT = ("README.md", "config.json", "dataset_info.json", "dataset_infos.json")
_OF_CLONES = ("README.md", ".gitattributes", ".git")
_SAVED = ("dataset_dict.json", "state.json")


def split_files(folder: str | os.PathLike[str]) -> dict[str, list[Path]]:
    """The Parquet files of each split of a cloned dataset repository.

    Args:
        folder: the repository, with its README.md and files.

    Returns:
        Files by split, such as `{"train": […], "test": […]}`, in the order of shards. Of several
        configurations those that are not the default have names such as `french.train`.

    Raises:
        InputError: its splits are not known, or its README.md cannot be used.
        StorageError: there is no such folder, a shard of a split is missing, files were not fetched
            from Git LFS, or it was written by `save_to_disk`, as Arrow.
        MissingBackendError: reading README.md takes `pip install "feedrate[tables]"`.
    """
    place = local_path(os.fspath(folder))
    if is_url(place):
        raise InputError(f"{place}: give the folder of a clone; repositories are read from disk")
    if not Path(place).is_dir():
        raise StorageError(f"there is no folder {place}")
    found = find_splits(Path(place), asked=True)
    if found is None:
        raise InputError(
            f"{place}: its splits are not known; name their files under configs: in README.md, or "
            "in data/ as SPLIT-00000-of-00004.parquet"
        )
    return found


def find_splits(folder: Path, *, asked: bool = False) -> dict[str, list[Path]] | None:
    """As `split_files`; None for a folder that is no repository with known splits.

    Args:
        folder: any folder.
        asked: whether the user says that it is a repository; else names of files count only beside
            a file that clones have.
    """
    if _was_saved(folder):
        raise StorageError(
            f"{folder} was written by save_to_disk, as Arrow and not Parquet; export each split: "
            f'datasets.load_from_disk("{folder}")["train"].to_parquet("train.parquet"), or without '
            '["train"] for a single dataset'
        )
    configs = _configs(folder)
    found = None
    if configs:
        found = _by_configs(folder, configs)
    elif asked or any((folder / name).exists() for name in _OF_CLONES):
        found = _by_names(folder)
    for files in (found or {}).values():
        _check_shards(files)
        _check_fetched(files)
    return found


def _was_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    if not any((folder / name).is_file() for name in _SAVED):
        return False
    has_arrow = any(True for pattern in ("*.arrow", "*/*.arrow") for _ in folder.glob(pattern))
    return has_arrow and next(_walk(folder), None) is None


def _by_names(folder: Path) -> dict[str, list[Path]] | None:
    """Splits by the names in `data/`, if all Parquet files of the folder are of that kind."""
    names = [entry.name for entry in _entries(folder / "data")]
    shards = list(filter(None, map(_SHARD.fullmatch, names)))
    if not shards or {str(folder / "data" / shard[0]) for shard in shards} != set(_walk(folder)):
        return None
    found: dict[str, list[Path]] = {}
    for shard in sorted(shards, key=lambda shard: shard[0]):
        found.setdefault(shard["split"], []).append(folder / "data" / shard[0])
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _walk(folder: Path) -> Iterator[str]:
    """The Parquet files below a folder that are not hidden."""
    for above, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        for name in files:
            if name.lower().endswith(_SUFFIX) and not name.startswith((".", "_")):
                yield os.path.join(above, name)  # noqa: PTH118 - many


def _configs(folder: Path) -> list[Mapping[str, Any]]:
    """The configurations in README.md that name files."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    front = _FRONT.match(text)
    if front is None or re.search(r"^configs:", front[1], re.MULTILINE) is None:
        return []
    try:
        import yaml
    except ImportError as error:
        raise MissingBackendError(
            f"{folder / 'README.md'} names files in YAML, which needs pyyaml; install it with: "
            'pip install "feedrate[tables]"'
        ) from error
    try:
        card = yaml.safe_load(front[1])
    except yaml.YAMLError as error:
        raise InputError(f"{folder / 'README.md'}: its YAML cannot be read: {error}") from error
    configs = card.get("configs") if isinstance(card, dict) else None
    return [one for one in configs or () if isinstance(one, dict) and "data_files" in one]


def _by_configs(folder: Path, configs: list[Mapping[str, Any]]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for config in configs:
        name = str(config.get("config_name", "default"))
        is_default = len(configs) == 1 or config.get("default") is True or name == "default"
        for split, patterns in _data_files(folder, config["data_files"]):
            key = split if is_default else f"{name}.{split}"
            if key in found:
                raise InputError(f"{folder / 'README.md'} names the files of {key} twice")
            found[key] = _matching(folder, patterns)
    return found


def _data_files(folder: Path, given: Any) -> Iterator[tuple[str, list[str]]]:
    """The patterns of each split, from any of the forms that `data_files` may have."""
    if isinstance(given, str) or (
        isinstance(given, list) and all(isinstance(one, str) for one in given)
    ):
        yield "train", _texts(folder, given)
    elif isinstance(given, dict):
        for split, patterns in given.items():
            yield str(split), _texts(folder, patterns)
    elif isinstance(given, list) and all(
        isinstance(one, dict) and {"split", "path"} <= one.keys() for one in given
    ):
        for one in given:
            yield str(one["split"]), _texts(folder, one["path"])
    else:
        raise InputError(
            f"{folder / 'README.md'}: data_files is {given!r}; write a list of split: and path:"
        )


def _texts(folder: Path, patterns: Any) -> list[str]:
    texts = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"{folder / 'README.md'}: path: is {patterns!r}; write a pattern of files")
    if outside := [text for text in texts if "://" in text or ".." in text or text[0] == "/"]:
        raise InputError(
            f"{folder / 'README.md'} names {outside[0]!r}, which is outside of the repository"
        )
    return texts


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    files: dict[Path, None] = {}
    for pattern in patterns:
        every = f"{pattern}/*" if pattern.endswith("**") else pattern
        matches = sorted(path for path in folder.glob(every) if _is_data(path, folder))
        if not matches:
            raise StorageError(f"no file in {folder} matches {pattern}, which README.md names")
        if others := [path for path in matches if path.suffix.lower() != _SUFFIX]:
            raise InputError(f"{others[0]} is not Parquet; feedrate reads nothing else")
        files |= dict.fromkeys(matches)
    return list(files)


def _is_data(path: Path, folder: Path) -> bool:
    """Whether a pattern may match a path: a file, neither hidden nor about the repository."""
    hidden = any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    return path.is_file() and not hidden and path.name not in _ABOUT


def _check_shards(files: list[Path]) -> None:
    """Refuse a split of which a shard is missing, or that is there twice."""
    shards = [(path, found) for path in files if (found := _SHARD.fullmatch(path.name))]
    numbers: dict[tuple[Path, str], dict[str, set[int]]] = {}
    for path, shard in shards:
        counts = numbers.setdefault((path.parent, shard["split"]), {})
        counts.setdefault(shard["count"], set()).add(int(shard["number"]))
    for (folder, split), counts in numbers.items():
        if len(counts) > 1:
            raise StorageError(
                f"{folder} has several versions of {split}: of {' and of '.join(sorted(counts))} "
                "files; remove all but one"
            )
        for count, there in counts.items():
            if missing := sorted(set(range(int(count))) - there):
                raise StorageError(
                    f"{folder}: {split} has {len(there)} of {int(count)} files; the first missing "
                    f"one is {split}-{missing[0]:05}-of-{count}"
                )


def _check_fetched(files: list[Path]) -> None:
    for path in files:
        if path.stat().st_size <= _POINTER_BYTES and path.read_bytes().startswith(_POINTER):
            raise StorageError(
                f"{path} is a pointer of Git LFS; fetch the files with: git lfs pull"
            )
