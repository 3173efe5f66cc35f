"""Signals that stop a command: Ctrl-C, and the SIGTERM of schedulers, CI servers and `timeout`.

Only the standard library is imported here: a signal may come while the rest is imported.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_BASE = 128  # plus the signal's number: the exit status that shells report


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""


def exit_status(stop: KeyboardInterrupt) -> int:
    """130 for Ctrl-C, 143 for SIGTERM."""
    return EXIT_BASE + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def end_at_once(number: int, _: FrameType | None = None) -> None:
    """End the process with one line on stderr: the handler while there is nothing to clean up."""
    with contextlib.suppress(OSError):
        os.write(2, b"feedrate: interrupted\n")
    os._exit(EXIT_BASE + number)


def interrupt(number: int, _: FrameType | None = None) -> None:
    """Raise `KeyboardInterrupt`, or `Terminated`, in the main thread: the handler of a command."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def handle(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, object]:
    """Install a handler for both signals, unless they are ignored (as after `nohup`).

    Returns:
        The previous handlers; empty outside the main thread, where Python installs no handler.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {
        number: signal.signal(number, handler)
        for number in SIGNALS
        if signal.getsignal(number) not in (signal.SIG_IGN, None)  # None: not installed by Python
    }


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle both signals with `handler` in the block, then restore the previous handlers.

    A handler that the block installed stays: the gate ignores signals from the first one on.
    """
    previous = handle(handler)
    try:
        yield
    finally:
        for number, old in previous.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, old)  # type: ignore[arg-type]  # signal.signal returned it


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """Delay signals until the block is done, so that no process is left behind."""
    received: list[int] = []
    try:
        with handling(lambda number, _: received.append(number)):
            yield
    finally:
        if received:
            signal.raise_signal(received[0])
