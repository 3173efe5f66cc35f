"""Warnings that point at the user's line."""

from __future__ import annotations

import sys
import threading
import warnings
from types import FrameType

from .errors import FeedrateWarning

_OURS = "feedrate"
_BETWEEN = frozenset(
    [
        _OURS,
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

    In a worker thread that is the line where the main thread waits for us. If there is none, as in
    a worker process, the warning points at the line that called `warn`.
    """
    here = sys._getframe(1)  # noqa: SLF001 - Python has no public way to a caller's line
    line = _users_line(here) or _users_line(_of_main_thread()) or here
    warnings.warn_explicit(
        message,
        FeedrateWarning,
        line.f_code.co_filename,
        line.f_lineno,
        line.f_globals.get("__name__"),
        line.f_globals.setdefault("__warningregistry__", {}),
    )


def _of_main_thread() -> FrameType | None:
    return sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - as above


def _users_line(frame: FrameType | None) -> FrameType | None:
    """The user's innermost frame that called us, directly or through a framework."""
    through_us = False
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in _BETWEEN:
            return frame if through_us else None
        through_us |= package == _OURS
        frame = frame.f_back
    return None
