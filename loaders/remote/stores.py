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

_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_SKIP_SIGNATURE",
    "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
)  # fmt: skip
"""Variables that a store reads when it is opened; it is opened again if one changes."""

_lock = threading.Lock()
_stores: dict[tuple[str, int], tuple[Options, int, Store]] = {}
"""By bucket and the id of the options, with the hash of the environment."""


def store_of(path: str) -> Store:
    """The store that holds an object; each process opens its own.

    Raises:
        InputError: no such scheme, or an invalid option.
        MissingBackendError: the package for the scheme is not installed.
    """
    url, options = split_url(path), options_for(path)
    environment = hash(tuple(map(os.environ.get, _ENVIRONMENT)))
    key = url.root, id(options)
    with _lock:
        known = _stores.get(key)
        if known is not None and known[1] == environment:
            return known[2]
        store = open_store(url.root, options)
        _stores[key] = options, environment, store
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
        _stores.pop((split_url(path).root, id(options_for(path))), None)


def _forget_after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it when the process forked
    _lock = threading.Lock()
    _stores.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
