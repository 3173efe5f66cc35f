"""The user's folders for caches and profiles, and a check of their owner and permissions."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import platformdirs

HOME_VARIABLE = "FEEDRATE_HOME"  # one folder to use instead of the platform's


def cache_home() -> Path:
    """The folder for files that can be regenerated."""
    return _within_home("cache") or platformdirs.user_cache_path("feedrate")


def profile_home() -> Path:
    """The folder of the user's profile store."""
    return _within_home("profiles") or platformdirs.user_data_path("feedrate") / "profiles"


def _within_home(name: str) -> Path | None:
    home = os.environ.get(HOME_VARIABLE)
    return Path(home, name) if home else None


def why_untrusted(path: Path) -> str | None:
    """Why not to trust a file or folder that the user did not name; None if trusted or missing.

    It must belong to this user or to root, and not be writable by everybody.

    Raises:
        OSError: its status cannot be read.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not hasattr(os, "geteuid"):  # on Windows, users' folders are private
        return None
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to another user (uid {status.st_uid})"
    if status.st_mode & stat.S_IWOTH:
        return "any user may write to it"
    return None
