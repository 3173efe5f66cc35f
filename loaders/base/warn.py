"""Warnings that point at the user's line of code."""

from __future__ import annotations

import sys
import threading
import warnings
from types import FrameType

from .errors import FeedrateWarning

_FEEDRATE = "feedrate"
_INTERMEDIATE = frozenset(
    [
        _FEEDRATE,
        "concurrent",
        "contextlib",
        "queue",
        "threading",
        "multiprocessing",
        "torch",
        "tensorflow",
        "keras",
    ]
)
"""Packages whose frames may lie between a warning and the user's line that caused it."""


def warn(message: str) -> None:
    """Issue a `FeedrateWarning` that points at the user's line rather than into this package.

    In a worker thread it is the line where the main thread waits for us. Without a user's line, as
    in a worker process, the warning points at the line that called `warn`.
    """
    caller = sys._getframe(1)  # noqa: SLF001 - Python has no public way to a caller's line
    frame = _user_frame(caller) or _user_frame(_main_thread_frame()) or caller
    warnings.warn_explicit(
        message,
        FeedrateWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        frame.f_globals.get("__name__"),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _main_thread_frame() -> FrameType | None:
    return sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - as above


def _user_frame(frame: FrameType | None) -> FrameType | None:
    """The user's innermost frame that called us, directly or through a framework."""
    called_us = False
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in _INTERMEDIATE:
            return frame if called_us else None
        called_us |= package == _FEEDRATE
        frame = frame.f_back
    return None
