"""The user's folders for caches and profiles, and a check of who may write to them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import platformdirs

HOME_VARIABLE = "FEEDRATE_HOME"  # one folder in place of the platform's several


def cache_home() -> Path:
    """The folder for files that can be made again."""
    return _own("cache") or platformdirs.user_cache_path("feedrate")


def profile_home() -> Path:
    """The folder of the user's profile store."""
    return _own("profiles") or platformdirs.user_data_path("feedrate") / "profiles"


def _own(name: str) -> Path | None:
    home = os.environ.get(HOME_VARIABLE)
    return Path(home, name) if home else None


def why_untrusted(path: Path) -> str | None:
    """Why a file or folder that the user did not name is not trusted; None if trusted or missing.

    It must belong to this user or to root, and not be writable by everybody.

    Raises:
        OSError: its status cannot be read.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not hasattr(os, "geteuid"):  # on Windows users' folders are private
        return None
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to another user (uid {status.st_uid})"
    if status.st_mode & stat.S_IWOTH:
        return "any user may write to it"
    return None
