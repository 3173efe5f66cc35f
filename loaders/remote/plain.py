"""The file systems by which plain pandas reads objects."""

from __future__ import annotations

import pyarrow.fs as pafs

from .arrow_stores import filesystem
from .emulated import EmulatedStore
from .emulated_files import plain_emulated
from .emulation import SCHEME
from .options import options_for
from .stores import store_of
from .urls import split_url


def plain_file(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system and the path in it by which plain pandas reads an object."""
    url = split_url(path)
    if url.scheme == SCHEME and isinstance(store := store_of(path), EmulatedStore):
        return plain_emulated(store), url.key
    options = options_for(path)
    if url.scheme in {"hdfs", "viewfs"}:
        return filesystem(url.root, options), f"/{url.key}"
    if url.scheme in {"http", "https"}:
        return filesystem(url.root, options), path
    return filesystem(url.root, options), f"{url.place}/{url.key}"
