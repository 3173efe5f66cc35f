"""User-defined loaders as backends: a function, found by its name.

The function is `factory(settings, files, columns, target, job)`. For the job `frame` it returns a
DataFrame of the columns (None: all); for `batches` and `stream` an iterable of `(X, y)`, or `X`
without a target, per epoch. Its attribute `uses` may name the settings that it uses, so that no
others are swept: a set of names, or a dict of such sets by job.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pandas as pd

from ..base.errors import InputError, ParquetFileError, unknown
from ..base.settings import LoaderSettings
from ..caching.base import FileCache
from ..frames.reader import OnError, SchemaRule
from ..parquet.filters import Filters, takes_no_filters
from ..training.matrix import Columns
from .backend import TRAINING, Backend, Paths
from .profile import JOBS

GROUP = "feedrate.backends"
"""The group of entry points whose functions are backends, by the entry points' names."""

Factory = Callable[[LoaderSettings, list[str], list[str] | None, str | None, str], Any]

USES: Mapping[str, frozenset[str]] = {
    "frame": frozenset({"num_workers", "prefetch"}),
    "batches": TRAINING | {"num_workers", "prefetch"},
    "stream": TRAINING | {"num_workers", "prefetch", "shuffle_window"},
}
"""The settings that a function without the attribute `uses` is assumed to use."""


def entry_point_names() -> list[str]:
    """The names of the backends in installed packages; none of them is imported."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def discover(name: str, *, named_by_caller: bool) -> Backend | None:
    """The backend of a name: an entry point, or `package.module:function`; None if there is none.

    Raises:
        InputError: the module or the function is missing, or cannot be imported or called.
    """
    if not named_by_caller and name not in entry_point_names():
        return None
    factory = load_factory(name)
    return None if factory is None else custom_backend(name, factory)


def load_factory(name: str) -> Any:
    """The function of an entry point's name, or of `package.module:function`; None for others.

    Raises:
        InputError: the module or the function is missing, or cannot be imported.
    """
    point = next((one for one in entry_points(group=GROUP) if one.name == name), None)
    if point is not None:
        return _load(point)
    return _import(name) if ":" in name else None


def custom_backend(name: str, factory: Factory) -> Backend:
    """Make a backend from a custom loader.

    Raises:
        InputError: `factory` is not a function, or its `uses` names settings that do not exist.
    """
    if not callable(factory):
        raise InputError(
            f"{name} is {type(factory).__name__} {factory!r}; it must be a function "
            "factory(settings, files, columns, target, job)"
        )

    return Backend(
        name=name,
        frame=partial(_frame, name, factory),
        batches=partial(_batches, name),
        stream=partial(_of_files, name, factory, "stream"),
        batches_of_files=partial(_of_files, name, factory, "batches"),
        uses=_uses(name, factory),
        is_custom=True,
        is_foreign=True,
    )


def _frame(
    name: str,
    factory: Factory,
    settings: LoaderSettings,
    cache: FileCache | None,
    schema: SchemaRule,
    on_error: OnError,
) -> CustomFrames:
    del cache  # the function may cache by itself
    if (schema, on_error) != ("concat", "raise"):
        raise InputError(
            f"{name} is a custom loader and supports neither schema={schema!r} nor "
            f"on_error={on_error!r}"
        )
    return CustomFrames(name, factory, settings)


def _batches(
    name: str, settings: LoaderSettings, frame: pd.DataFrame, columns: Columns
) -> Iterable[Any]:
    del settings, frame, columns
    raise InputError(f"{name} makes batches of files, not of a frame: pass the files' paths")


def _of_files(
    name: str,
    factory: Factory,
    job: str,
    settings: LoaderSettings,
    paths: Paths,
    columns: Columns,
    filters: Filters | None = None,
) -> Iterable[Any]:
    if filters is not None:
        raise takes_no_filters(name)
    if columns.null_value:
        raise InputError(
            f"{name} replaces nulls itself, so null_value must be 0; it is {columns.null_value}"
        )
    return CustomBatches(name, factory, settings, paths, columns, job)


@dataclass(frozen=True)
class CustomFrames:
    """The frame job of a custom loader."""

    name: str
    factory: Factory
    settings: LoaderSettings
    skipped: list[ParquetFileError] = field(default_factory=list)
    """Always empty: the function itself decides which files to leave out."""

    def load(
        self, paths: Iterable[str | os.PathLike[str]], columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """The function's frame.

        Raises:
            InputError: it returned something else.
        """
        files = [os.fspath(path) for path in paths]
        names = None if columns is None else list(columns)
        frame = self.factory(self.settings, files, names, None, "frame")
        if not isinstance(frame, pd.DataFrame):
            raise _wrong_result(self.name, frame, "frame", "a pandas DataFrame")
        return frame


@dataclass
class CustomBatches:
    """Epochs of a custom loader, called again if its result is an iterator."""

    name: str
    factory: Factory
    settings: LoaderSettings
    paths: Paths
    columns: Columns
    job: str
    _batches: Any = None

    def __iter__(self) -> Iterator[Any]:
        batches = self._batches if self._batches is not None else self._make()
        epoch: Iterator[Any] = iter(batches)
        # An iterator is used up after one epoch; anything else can be iterated again.
        self._batches = None if epoch is batches else batches
        return epoch

    def _make(self) -> Any:
        files = [os.fspath(path) for path in self.paths]
        features, target = list(self.columns.features), self.columns.target
        batches = self.factory(self.settings, files, features, target, self.job)  # type: ignore[arg-type]  # a caller may choose several targets
        if isinstance(batches, pd.DataFrame) or not hasattr(batches, "__iter__"):
            raise _wrong_result(self.name, batches, self.job, "an iterable of batches")
        return batches


def _wrong_result(name: str, result: object, job: str, expected: str) -> InputError:
    kind = "None" if result is None else f"a {type(result).__name__}"
    return InputError(f"{name} returned {kind} for the {job} job; it must return {expected}")


def _uses(name: str, factory: Factory) -> Mapping[str, frozenset[str]]:
    """The settings that a function uses, by job."""
    uses = getattr(factory, "uses", USES)
    by_job = uses if isinstance(uses, Mapping) else dict.fromkeys(JOBS, uses)
    fields = LoaderSettings.__struct_fields__
    for job, settings in by_job.items():
        if job not in JOBS:
            raise InputError(f"{name}.uses: {unknown('job', job, JOBS)}")
        for setting in settings:
            if setting not in fields or setting == "backend":
                raise InputError(f"{name}.uses: {unknown('setting', setting, fields)}")
    return {job: frozenset(settings) for job, settings in by_job.items()}


def _import(name: str) -> Any:
    module_name, _, path = name.partition(":")
    try:
        module = _import_module(module_name)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"cannot import {module_name!r} of loader {name!r}: {type(error).__name__}: {error}"
            + _remedy(error, module_name)
        ) from error
    found: Any = module
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            public = [
                known
                for known, value in vars(module).items()
                if not known.startswith("_") and not isinstance(value, ModuleType)
            ]
            raise InputError(f"loader {name!r}: {unknown('name', attribute, public)}")
        found = getattr(found, attribute)
    return found


def _remedy(error: BaseException, module: str) -> str:
    """Advice for a module that cannot be imported."""
    if isinstance(error, SystemExit):
        return "; it is a script that exits: move its code under if __name__ == '__main__'"
    if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
        return "; name it as package.module:function, and run where Python can import it"
    return "; fix the module"


def _import_module(name: str) -> Any:
    """Import a module, also from the current folder, which an installed program does not search.

    The current folder is searched last, and under `python -P` only if `look_in_current_folder`
    was called: runs of another revision must not import the revision that is checked out there.
    """
    if not name:
        raise ValueError("no module is named")
    folder = os.getcwd()  # noqa: PTH109 - sys.path holds text
    if folder not in sys.path and "" not in sys.path and _look_in_current_folder:
        sys.path.append(folder)
    return importlib.import_module(name)


_look_in_current_folder = not sys.flags.safe_path


def look_in_current_folder() -> None:
    """Allow loaders in the current folder, also under `python -P`."""
    global _look_in_current_folder  # noqa: PLW0603 - for the process, like sys.path
    _look_in_current_folder = True


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"cannot load backend {point.name!r} from {point.value}: {type(error).__name__}: "
            f"{error}; fix or remove the package that provides it"
        ) from error
