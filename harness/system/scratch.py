"""Scratch files of a command: all in one folder, so that none are left however it ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .stopping import finishing

VARIABLE = "FEEDRATE_SCRATCH"
"""The environment variable with a child process's folder, which its parent removes."""
_PREFIX = "feedrate-scratch-"
_YOUNG_S = 60.0  # a younger folder may not be locked yet


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is removed at the end of the block, or else after its process has ended.

    Raises:
        OSError: the folder cannot be created.
    """
    folder = scratch_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scratch_folder() -> Path:
    """A new folder for the caller to remove; else it is removed after the process has ended.

    Raises:
        OSError: the folder cannot be created.
    """
    return Path(tempfile.mkdtemp(dir=os.environ.get(VARIABLE) or _of_process(os.getpid())))


@cache
def _of_process(process: int) -> Path:
    """Make this process's folder, locked while it lives; remove those of killed processes."""
    # Delay signals: gettempdir() writes a test file and removes it.
    with finishing():
        root = Path(tempfile.gettempdir())
        _remove_orphans(root)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        _lock(folder)
        atexit.register(_remove_at_exit, folder, process)
    return folder


def _remove_at_exit(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a forked child
        shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans(root: Path) -> None:
    """Remove the folders of processes that were killed before they could."""
    for folder in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another process removed it
            status = folder.lstat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _YOUNG_S:
                continue
            handle = _lock(folder)
            if handle is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)


def _lock(folder: Path) -> int | None:
    """Lock a folder; None if its process is alive, or the system has no locks.

    The system releases the lock however the process ends. It is on the folder itself, so that
    programs that clean up temporary folders, such as systemd-tmpfiles, respect it.

    Raises:
        OSError: the folder cannot be opened.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
