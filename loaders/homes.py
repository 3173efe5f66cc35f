"""Where feedrate keeps what belongs to the user: caches and profiles."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

HOME_VARIABLE = "FEEDRATE_HOME"  # one folder in place of the platform's several


def cache_home() -> Path:
    """The folder for what can be made again."""
    return _own("cache") or platformdirs.user_cache_path("feedrate")


def profile_home() -> Path:
    """The folder of the user's profile store."""
    return _own("profiles") or platformdirs.user_data_path("feedrate") / "profiles"


def _own(name: str) -> Path | None:
    home = os.environ.get(HOME_VARIABLE)
    return Path(home, name) if home else None
