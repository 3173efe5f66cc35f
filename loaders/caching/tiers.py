"""The tiers of the cache: memory and disk, behind one interface."""

from __future__ import annotations

import os

from ..base.settings import Cache
from .base import FileCache


def make_cache(
    kind: Cache, folder: str | os.PathLike[str] | None = None, max_bytes: int | None = None
) -> FileCache | None:
    """Make the cache for a setting; None for `none`.

    Args:
        kind: `none`, `memory` or `disk`.
        folder: folder of the disk cache; the user's cache folder by default.
        max_bytes: maximum bytes to hold; None: FEEDRATE_CACHE_BYTES, else the tier's default.

    Raises:
        InputError: FEEDRATE_CACHE_BYTES is not a size.
    """
    if kind == "memory":
        from .memory import MemoryCache

        return MemoryCache(max_bytes)
    if kind == "disk":
        from .disk import DiskCache

        return DiskCache(folder, max_bytes)
    return None
