"""The harness: sweeps, tuning, recommendations; the CLI commands as functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run.tuner import recommend, sweep, tune

__all__ = ["recommend", "sweep", "tune"]


def __getattr__(name: str) -> Any:
    # Child processes import this package too, and need none of these functions.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .run import tuner
    except ModuleNotFoundError as error:
        from ..loaders.base.errors import MissingBackendError

        raise MissingBackendError(
            f"feedrate.harness needs {error.name}, which is not installed; "
            'install it with: pip install "feedrate[harness]"'
        ) from error
    return getattr(tuner, name)
