"""The harness: sweeps, tuning, recommendations; the CLI commands as functions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cluster.verb import sweep_on_ray, tune_on_ray
    from .run.tuner import recommend, sweep, tune
    from .verify.verb import verify_loader

__all__ = ["recommend", "sweep", "sweep_on_ray", "tune", "tune_on_ray", "verify_loader"]
_ROOMS = {
    "sweep_on_ray": ".cluster.verb",
    "tune_on_ray": ".cluster.verb",
    "verify_loader": ".verify.verb",
}


def __getattr__(name: str) -> Any:
    # Child processes import this package too, and need none of these functions.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_ROOMS.get(name, ".run.tuner"), __package__)
    except ModuleNotFoundError as error:
        from ..loaders.base.errors import MissingBackendError

        extra = "ray" if error.name == "ray" else "harness"
        raise MissingBackendError(
            f"feedrate.harness needs {error.name}, which is not installed; "
            f'install it with: pip install "feedrate[{extra}]"'
        ) from error
    return getattr(module, name)
