"""End what nobody uses any more, in a thread of its own.

A finalizer runs in any thread, wherever that drops the last reference or happens to collect
garbage, with any lock held. If it waits for another thread there, both may wait forever: a thread
that submitted to an executor collected an iterator of tf.data, whose running functions had to
submit, too. So finalizers leave the work to this thread.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable

PATIENCE_S = 5.0  # of the interpreter's end for work that is left

log = logging.getLogger("feedrate.loaders")

_work: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()  # a finalizer may call `put`
_thread: threading.Thread | None = None
_starting = threading.Lock()
_of_parents: list[object] = []


def start_finishing() -> None:
    """Start the thread, unless it runs: before something is made whose finalizer needs it."""
    global _thread  # noqa: PLW0603 - one for the process
    with _starting:
        if _thread is None:
            _thread = threading.Thread(
                target=_serve, args=(_work,), name="feedrate-finishing", daemon=True
            )
            _thread.start()


def finish(work: Callable[[], object]) -> None:
    """Do this soon in the thread, which runs; a finalizer may call it."""
    _work.put(work)


def finish_after(owner: object, work: Callable[[], object]) -> None:
    """Do this in the thread once nobody holds `owner` any more."""
    start_finishing()
    weakref.finalize(owner, finish, work)


def _serve(work: queue.SimpleQueue[Callable[[], object]]) -> None:
    while True:
        try:
            work.get()()
        except Exception:  # a later one must not wait for ever
            log.exception("cannot end what nobody uses any more")


def _settle() -> None:
    """Wait for what is left, before threads that ask for the interpreter's lock are ended."""
    if _thread is not None:
        done = threading.Event()
        finish(done.set)
        done.wait(PATIENCE_S)


def _forget() -> None:
    """In a forked process: the thread is gone, and what it had to do is the parent's."""
    global _work, _thread, _starting
    _of_parents.append(_work)
    _work, _thread, _starting = queue.SimpleQueue(), None, threading.Lock()


atexit.register(_settle)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
