"""What a node must have. Nodes get this file by value, so it imports nothing of feedrate."""

from __future__ import annotations

import platform
import socket


def facts() -> dict[str, str]:
    """The node's host name, and its versions of Python, Ray and feedrate ('' if missing)."""
    import ray

    try:
        from feedrate.loaders import __version__ as feedrate
    except ImportError:
        feedrate = ""
    return {
        "host": socket.gethostname(),
        "Python": platform.python_version(),
        "Ray": ray.__version__,
        "feedrate": feedrate,
    }
