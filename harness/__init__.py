"""The harness: sweeps, tuning, recommendations; the CLI commands as functions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run.tuner import recommend, sweep, tune
    from .verify.verb import verify_loader

__all__ = ["recommend", "sweep", "tune", "verify_loader"]


def __getattr__(name: str) -> Any:
    # Child processes import this package too, and need none of these functions.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = ".verify.verb" if name == "verify_loader" else ".run.tuner"
    try:
        module = import_module(room, __package__)
    except ModuleNotFoundError as error:
        from ..loaders.base.errors import MissingBackendError

        raise MissingBackendError(
            f"feedrate.harness needs {error.name}, which is not installed; "
            'install it with: pip install "feedrate[harness]"'
        ) from error
    return getattr(module, name)
