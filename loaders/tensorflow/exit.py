"""Let a process exit while a tf.data pipeline still reads ahead.

At shutdown the interpreter ends every thread that asks for its lock, even a TensorFlow thread in a
Python function; deleting the iterator then waits for that function forever. A plain
`Dataset.map(numpy_function).prefetch()` hung this way in some exits, ours in all. So before
shutdown the gate refuses new calls and waits for those that are running.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

QUIET_S = 0.05  # after this long without a call, pipelines' buffers are full of refused calls
PATIENCE_S = 5.0  # longest wait for files that are being decoded


class ExitGate:
    """Counts the running calls, and refuses new ones once it is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._running = 0
        self._latest_call_s = 0.0

    def through(self, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap `function`: its running calls are counted, and calls after `close` are refused."""

        @wraps(function)
        def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._lock:
                self._latest_call_s = time.monotonic()
                if self._closed:
                    raise RuntimeError("the process is ending")
                self._running += 1
            try:
                return function(*args, **kwargs)
            finally:
                with self._lock:
                    self._running -= 1
                    self._latest_call_s = time.monotonic()

        return counted

    def close(self) -> None:
        """Refuse calls from now on, and wait until no pipeline makes any."""
        with self._lock:
            self._closed = True
            was_used = self._latest_call_s > 0
        deadline = time.monotonic() + PATIENCE_S
        while was_used and time.monotonic() < deadline:
            with self._lock:
                if not self._running and time.monotonic() - self._latest_call_s > QUIET_S:
                    return
            time.sleep(QUIET_S / 5)


@lru_cache
def exit_gate() -> ExitGate:
    """The process's gate; it closes at exit, before TensorFlow's own clean-up."""
    gate = ExitGate()
    atexit.register(gate.close)
    return gate
