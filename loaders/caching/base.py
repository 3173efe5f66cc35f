"""Shared by the cache tiers: the keys of files, and the interface of a cache."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, Self, TypeGuard

from ..base.settings import Decoder, DtypeBackend, LoaderSettings
from ..base.sizes import parse_size
from ..base.warn import warn
from ..remote.known import with_versions
from ..remote.urls import is_url
from .segments import PandasRows, Place, Segment, spanned

BYTES_VARIABLE = "FEEDRATE_CACHE_BYTES"
_MAX_PATHS = 1 << 17
_latest_keys: dict[str, Key] = {}  # by path, as given


class Key(NamedTuple):
    """Identity of a file. A replaced file differs in ctime, which `rsync -a` cannot restore."""

    path: str
    """With links to folders resolved; a link to a file counts as a separate file."""
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    version: str | None = None
    """Of an object: its ETag."""


class Form(NamedTuple):
    """How a file's rows are held."""

    columns: tuple[str, ...] | None
    dtype_backend: DtypeBackend = "numpy"
    decoder: Decoder = "auto"


Kept = Place | PandasRows


class FileCache(Protocol):
    """Rows by file. Changes to the frames made from them never reach the cache."""

    hits: int
    misses: int

    def takes(self, size: int) -> bool:
        """Whether rows of `size` bytes can be cached without a copy."""
        ...

    def find(self, form: Form, paths: Sequence[str]) -> tuple[dict[str, Key], dict[str, Kept]]:
        """The keys of the files that exist, and the rows that are cached, by path."""
        ...

    def keep(
        self, form: Form, keys: Mapping[str, Key], files: Mapping[str, Kept], new: Collection[str]
    ) -> Mapping[str, Kept]:
        """Keep the rows of a load's files, and join rows of several segments.

        Args:
            form: how their rows are held.
            keys: the key of each file, taken before it was read.
            files: their rows, by path, in the order of the load.
            new: the paths that were just read.

        Returns:
            The same files, with the present places of their rows.
        """
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


def are_places(files: Mapping[str, Kept]) -> TypeGuard[Mapping[str, Place]]:
    """Whether all files have their rows in segments."""
    return set(map(type, files.values())) <= {Place}


def written_to(files: Iterable[Kept]) -> list[Segment]:
    """The segments in which rows of these files changed after they were first returned."""
    return [segment for segment, *rows in spanned(files) if not segment.is_unchanged(*rows)]


def warn_of_writes() -> None:
    """Warn, at the line that loads, that the memory of an earlier frame was written to."""
    warn(
        "the memory of a cached frame was written to without pandas or numpy (for example through "
        "torch.from_numpy), so its rows are loaded again; other frames of these files may show the "
        "changed numbers: copy a frame's numbers before you change them in place"
    )


class Closing:
    """Releases memory at the end of a `with` block."""

    def close(self) -> None:
        """Release memory; the object may be used again."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HasCache(Closing):
    """A loader that owns a cache, which can be cleared."""

    _cache: FileCache | None
    _settings: LoaderSettings

    def clear_cache(self) -> None:
        """Forget all files that this loader keeps in memory; frames already returned do not change.

        Other processes use the disk cache: clear it with `feedrate cache clear`.
        """
        if self._cache is not None and self._settings.cache != "disk":
            self._cache.clear()

    def close(self) -> None:
        """Release memory; the loader may be used again."""
        self.clear_cache()


def bytes_of_user() -> int | None:
    """FEEDRATE_CACHE_BYTES, a number of bytes or a size such as `2GiB`; None if it is not set.

    Raises:
        InputError: it is not a size.
    """
    value = os.environ.get(BYTES_VARIABLE, "").strip()
    if not value:
        return None
    return parse_size(value, BYTES_VARIABLE, may_be_zero=True)


def keys_of(paths: Sequence[str]) -> dict[str, Key]:
    """The keys of the files that exist, by path, as they are now; objects need a version."""
    if len(_latest_keys) > _MAX_PATHS:
        _latest_keys.clear()
    keys: dict[str, Key] = {}
    folders: dict[str, str] = {}
    if any(map(is_url, paths)):
        for path, known in with_versions(paths).items():
            keys[path] = Key(str(path), known.size or 0, known.modified_ns, 0, 0, known.version)
        paths = [path for path in paths if not is_url(path)]
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path for each of many files costs more
        except OSError:
            continue  # reading it will raise the error
        key = _latest_keys.get(path)
        # If a link now leads to another file, the inode differs.
        if (
            key is None
            or key.inode != status.st_ino
            or key.ctime_ns != status.st_ctime_ns
            or key.mtime_ns != status.st_mtime_ns
            or key.size != status.st_size
        ):
            key = _latest_keys[path] = _new_key(path, status, folders)
        keys[path] = key
    return keys


def _new_key(path: str, status: os.stat_result, folders: dict[str, str]) -> Key:
    folder, _, name = path.rpartition(os.sep)
    if path.startswith(os.sep) and not folder:
        folder = os.sep
    real = folders.get(folder)
    if real is None:
        real = folders[folder] = os.path.realpath(folder)
    times = status.st_mtime_ns, status.st_ctime_ns
    return Key(os.path.join(real, name), status.st_size, *times, status.st_ino)  # noqa: PTH118
