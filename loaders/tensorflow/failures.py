"""Errors of Python functions in a tf.data pipeline, raised with their own type in Python loops.

TensorFlow passes on only the text of such an error, as `tf.errors.UnknownError` or
`InvalidArgumentError`. So the functions record the errors that they raise, and the datasets raise
the recorded error in place of TensorFlow's, which becomes its cause unless it has another. Where
TensorFlow itself iterates (`model.fit`, a `tf.function`), its error contains the text of ours.
"""

from __future__ import annotations

import inspect
import threading
import traceback
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    import tensorflow as tf

P = ParamSpec("P")
R = TypeVar("R")

KEPT = 64  # distinct errors of workers that fail at once, before the iterator raises one


class Failures:
    """The latest errors that the functions of a dataset raised, by their text."""

    def __init__(self) -> None:
        self._raised: dict[str, Exception] = {}
        self._lock = threading.Lock()

    def noted(self, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap `function` so that its errors are recorded."""

        @wraps(function)
        def noting(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # they hold decoded data
                with self._lock:
                    if len(self._raised) >= KEPT:
                        self._raised.clear()
                    self._raised[f"{type(error).__name__}: {error}"] = error
                raise

        return noting

    def behind(self, error: Exception) -> Exception:
        """The recorded error whose text `error` contains, or `error` if there is none."""
        with self._lock:
            text = next((text for text in self._raised if text in str(error)), None)
            raised = error if text is None else self._raised.pop(text)
        if raised is not error:
            raised.__cause__ = raised.__cause__ or error
        return raised


def naming(dataset: tf.data.Dataset, failures: Failures) -> tf.data.Dataset:
    """A dataset whose iterators raise the recorded errors, as do datasets made from it."""
    found: tf.data.Dataset = _dataset_class()(dataset, failures)
    return found


@lru_cache
def _dataset_class() -> Any:
    """The class of datasets that raise recorded errors, made once TensorFlow is imported."""
    import tensorflow as tf

    class NamingDataset(tf.data.Dataset):  # type: ignore[misc]  # TensorFlow has no types
        """A dataset that raises the errors of its Python functions."""

        def __init__(self, dataset: tf.data.Dataset, failures: Failures) -> None:
            self._made_by = dataset
            self.failures = failures
            super().__init__(tf.data.experimental.to_variant(dataset))

        def _inputs(self) -> list[tf.data.Dataset]:
            return [self._made_by]

        @property
        def element_spec(self) -> Any:
            """The types of its elements."""
            return self._made_by.element_spec

        def __iter__(self) -> Any:
            iterator = super().__iter__()
            plain: Any = type(iterator)
            # It stays a TensorFlow iterator, so that a `tf.function` accepts it.
            iterator.__class__ = _iterator_class(plain)
            iterator.failures = self.failures
            return iterator

    for name, function in list(vars(tf.data.Dataset).items()):
        if inspect.isfunction(function) and not name.startswith("_"):
            setattr(NamingDataset, name, _method(function))
    return NamingDataset


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a dataset method: it raises the recorded errors, as does a dataset that it returns."""
    import tensorflow as tf

    @wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            made = function(self, *args, **kwargs)
        except tf.errors.OpError as error:
            raise self.failures.behind(error)  # noqa: B904 - it has its cause
        plain = isinstance(made, tf.data.Dataset) and not isinstance(made, _dataset_class())
        return naming(made, self.failures) if plain else made

    return method


@lru_cache
def _iterator_class(plain: Any) -> Any:
    """The iterator class of a `NamingDataset`, a subclass of TensorFlow's `plain`."""
    import tensorflow as tf

    class NamingIterator(plain):  # type: ignore[misc]  # TensorFlow has no types
        """An iterator that raises the errors of the dataset's Python functions."""

        failures: Failures

        def __next__(self) -> Any:
            try:
                return super().__next__()
            except tf.errors.OpError as error:
                raise self.failures.behind(error)  # noqa: B904 - it has its cause

        def get_next(self) -> Any:
            """The next element; `tf.errors.OutOfRangeError` after the last."""
            try:
                return super().get_next()
            except tf.errors.OpError as error:
                raise self.failures.behind(error)  # noqa: B904 - it has its cause

    return NamingIterator
