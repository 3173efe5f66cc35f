"""Files of Python that Arrow's threads read, and Python's end.

Arrow may return a table while a thread of its own still frees what it read. To free what came from
a file of Python, the thread asks for the interpreter's lock, which the interpreter, once it ends,
answers by ending the thread; C++ then aborts the process ("terminate called without an active
exception"). So the end waits until such files are free.
"""

from __future__ import annotations

import atexit
import io
import os
import time
from weakref import WeakSet

MOST_S = 0.5  # an error that somebody keeps may hold a file

_files: WeakSet[io.IOBase] = WeakSet()


def free_before_exit(file: io.IOBase) -> None:
    """Let Python's end wait until nobody holds a file, which Arrow's threads will read."""
    _files.add(file)


def _wait() -> None:
    deadline = time.monotonic() + MOST_S
    while _files and time.monotonic() < deadline:
        time.sleep(0.001)


atexit.register(_wait)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_files.clear)  # Arrow's threads stay behind
