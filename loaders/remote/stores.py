"""The stores that this process has opened."""

from __future__ import annotations

import os
import threading

from .arrow_stores import ArrowStore
from .emulated import EmulatedStore
from .emulation import SCHEME as EMULATED
from .obstore_store import ObstoreStore
from .options import Options, options_for
from .store import Store
from .urls import BY_OBSTORE, split_url

_lock = threading.Lock()
_stores: dict[str, tuple[Options, Store]] = {}


def store_of(path: str) -> Store:
    """The store that holds an object; each process opens its own.

    Raises:
        InputError: no such scheme, or an invalid option.
        MissingBackendError: the package for the scheme is not installed.
    """
    url, options = split_url(path), options_for(path)
    with _lock:
        known = _stores.get(url.root)
        if known is not None and known[0] is options:
            return known[1]
        store = open_store(url.root, options)
        _stores[url.root] = options, store
        return store


def open_store(root: str, options: Options) -> Store:
    """Open a bucket by its URL; raises as `store_of`."""
    scheme = split_url(root).scheme
    if scheme == EMULATED:
        return EmulatedStore.open(root)
    return ObstoreStore(root, options) if scheme in BY_OBSTORE else ArrowStore(root, options)


def reopen(path: str) -> None:
    """Forget a store, so that the next request opens it again with fresh credentials."""
    with _lock:
        _stores.pop(split_url(path).root, None)


def _forget_after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it when the process forked
    _lock = threading.Lock()
    _stores.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
