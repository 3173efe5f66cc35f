"""Run cleanup that may block in a background thread.

A finalizer runs in the thread that drops the last reference or collects garbage, and that thread
may hold locks. If the cleanup waits for a thread that needs such a lock, both wait forever.
Example: a thread collected an iterator of tf.data inside `Executor.submit`; the iterator's
functions also had to submit.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable

MAX_EXIT_WAIT_S = 5.0  # as long as tf.data's functions may take to end at exit (`ExitGate`)

log = logging.getLogger("feedrate.loaders")

Work = Callable[[], object]

_all: list[Cleanup] = []


class Cleanup:
    """Runs cleanup of one kind, one after the other, in a thread.

    Args:
        name: of the thread.
    """

    _lock: threading.Lock
    _queue: queue.SimpleQueue[Work]
    _thread: threading.Thread | None

    def __init__(self, name: str) -> None:
        self._name = name
        self._parent_queues: list[object] = []  # freeing them in a fork would end what they hold
        self._reset()
        _all.append(self)

    def start(self) -> Callable[[Work], None]:
        """Start the thread unless it runs; return the function that queues work for it.

        Call it before making an object whose finalizer queues work. The function takes no lock. In
        a fork it queues for nobody: what is inherited waits for threads of the parent.
        """
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(
                    target=_serve, args=(self._queue,), name=self._name, daemon=True
                )
                thread.start()
                self._thread = thread
            return self._queue.put

    def run_after(self, owner: object, work: Work) -> None:
        """Run `work` in the thread after `owner` is freed, but not at exit."""
        weakref.finalize(owner, self.start(), work).atexit = False

    def wait(self, seconds: float) -> None:
        """Wait until the queued work is done."""
        if self._thread is not None:
            done = threading.Event()
            self._queue.put(done.set)
            done.wait(seconds)

    def reset_in_child(self) -> None:
        """Forget the thread and the queue of the process that this one was forked from."""
        self._parent_queues.append(self._queue)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._queue = queue.SimpleQueue()
        self._thread = None


def _serve(work: queue.SimpleQueue[Work]) -> None:
    while True:
        try:
            work.get()()
        except Exception:  # the thread must go on
            log.exception("cleanup of a dropped stream failed")


def _wait_at_exit() -> None:
    """Wait for queued work, before threads that ask for the GIL are ended."""
    deadline = time.monotonic() + MAX_EXIT_WAIT_S
    for cleanup in _all:
        cleanup.wait(max(0.0, deadline - time.monotonic()))


def _reset_in_child() -> None:
    for cleanup in _all:
        cleanup.reset_in_child()


CLOSING = Cleanup("feedrate-closing")
"""Closes what sends requests."""
ITERATORS = Cleanup("feedrate-iterators")
"""Frees iterators of tf.data, which may take until their functions have read what they read."""

atexit.register(_wait_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
