"""Delay the interpreter's exit until Arrow's threads have freed files of Python.

Arrow may return a table before its own thread has freed the scanner and the file in it. Freeing the
file takes the GIL. Up to Python 3.13, a thread that asks for the GIL during finalization is ended,
and C++ aborts the process ("terminate called without an active exception").
"""

from __future__ import annotations

import atexit
import os
import time
from weakref import WeakSet

# Arrow's thread frees a file within milliseconds. An error that is kept or uncaught may hold one,
# and the exit then takes this much longer.
MAX_WAIT_S = 0.5

_files: WeakSet[object] = WeakSet()


def free_before_exit(file: object) -> None:
    """Wait at exit, at most `MAX_WAIT_S`, until a file is freed; call it before Arrow reads it."""
    _files.add(file)


def _wait() -> None:
    deadline = time.monotonic() + MAX_WAIT_S
    while _files and time.monotonic() < deadline:
        time.sleep(0.001)


atexit.register(_wait)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_files.clear)  # Arrow's threads stay behind
