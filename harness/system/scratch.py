"""Scratch files of a command: all in one folder, so that none stay behind however it ends."""

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
"""The environment variable that names a child process its folder, which its parent removes."""
_PREFIX = "feedrate-scratch-"
_YOUNG_S = 60.0  # a folder that is younger may not have been locked yet


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is removed with the block, or else when its process has ended.

    Raises:
        OSError: it cannot be made.
    """
    folder = scratch_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scratch_folder() -> Path:
    """A new folder, for its user to remove; what is forgotten goes when the process has ended.

    Raises:
        OSError: it cannot be made.
    """
    return Path(tempfile.mkdtemp(dir=os.environ.get(VARIABLE) or _of_process(os.getpid())))


@cache
def _of_process(process: int) -> Path:
    """The folder of this process, locked as long as it lives; those of killed ones are removed."""
    # A signal waits: gettempdir() writes a file to see whether it can, and removes it.
    with finishing():
        root = Path(tempfile.gettempdir())
        _remove_orphans(root)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        _lock(folder)
        atexit.register(_remove_own, folder, process)
    return folder


def _remove_own(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not at the end of one that was forked
        shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans(root: Path) -> None:
    """Remove the folders of processes that were killed before they could."""
    for folder in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else removed it
            about = folder.lstat()
            if about.st_uid != os.getuid() or time.time() - about.st_mtime < _YOUNG_S:
                continue
            handle = _lock(folder)
            if handle is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)


def _lock(folder: Path) -> int | None:
    """The lock of a folder; None where its process lives, or the system has no locks.

    The system releases it when the process ends, however that is. It is on the folder itself, so
    that programs that clean up temporary folders respect it, as systemd-tmpfiles does.

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
