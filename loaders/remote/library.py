"""Import obstore, which reads objects; after a fork, a copy of it.

obstore runs its requests in threads of its own, one set per process. After a fork these are gone,
and each request would wait forever. A second copy of its library has its own state, and so starts
threads again. Copying 15 MB and loading it takes 15 ms.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from ..base.errors import MissingBackendError

_LIBRARY = "obstore._obstore"
_lock = threading.Lock()
_used_in: int | None = None
"""The process that has made requests; None before the first."""
_installed: str | None = None
"""The file of the library; a copy's own file is deleted once it is loaded."""


def obstore() -> Any:
    """The module `obstore`, with `obstore.store`, ready for requests of this process.

    Raises:
        MissingBackendError: it is not installed.
    """
    global _used_in  # noqa: PLW0603 - holds for the process
    with _lock:
        if _used_in not in {None, os.getpid()}:
            _import_copy()
        try:
            module = importlib.import_module("obstore")
            importlib.import_module("obstore.store")
        except ImportError as error:
            raise MissingBackendError(
                f"object stores need {error.name or 'obstore'}, which is not installed; install "
                'it with: pip install "feedrate[cloud]"'
            ) from error
        _used_in = os.getpid()
        return module


def is_loaded() -> bool:
    """Whether this process has made requests."""
    return _used_in == os.getpid()


def _import_copy() -> None:
    """Import obstore again, from a copy of its library."""
    global _installed  # noqa: PLW0603 - of the process that imported it first, and of its forks
    _installed = _installed or getattr(sys.modules.get(_LIBRARY), "__file__", None)
    if _installed is None:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "obstore"]:
        del sys.modules[name]
    with tempfile.TemporaryDirectory(prefix="feedrate-") as folder:
        # The loader compares files, so that a link would give the same library.
        copy = shutil.copyfile(_installed, Path(folder) / Path(_installed).name)
        with _found_at(copy):
            importlib.import_module("obstore")
            importlib.import_module("obstore.store")


@contextmanager
def _found_at(path: Path) -> Iterator[None]:
    """Let the library be imported from another file."""

    class Finder:
        @staticmethod
        def find_spec(
            name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
        ) -> ModuleSpec | None:
            if name != _LIBRARY:
                return None
            return importlib.util.spec_from_file_location(name, path)

    sys.meta_path.insert(0, Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(Finder)


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it when the process forked
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
