"""Errors of Python functions in a tf.data pipeline, raised with their own type in Python loops.

TensorFlow passes on only the text of such an error, as `tf.errors.UnknownError` or
`InvalidArgumentError`. So the functions record the errors that they raise, and the datasets raise
the recorded error in place of TensorFlow's, which becomes its cause unless it has one. Where
TensorFlow itself iterates (`model.fit`, a `tf.function`), its error contains the text of ours.
"""

from __future__ import annotations

import inspect
import threading
import traceback
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..base.deferred_cleanup import ITERATORS

if TYPE_CHECKING:
    import tensorflow as tf

P = ParamSpec("P")
R = TypeVar("R")

KEPT = 64  # distinct errors that workers may raise before the iterator raises one


class Failures:
    """The latest errors that the functions of a dataset raised, by their text."""

    def __init__(self) -> None:
        self._errors: dict[str, Exception] = {}
        self._lock = threading.Lock()

    def noted(self, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap `function` so that its errors are recorded."""

        @wraps(function)
        def recorded(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # they hold decoded data
                with self._lock:
                    if len(self._errors) >= KEPT:
                        self._errors.clear()
                    self._errors[f"{type(error).__name__}: {error}"] = error
                raise

        return recorded

    def behind(self, error: Exception) -> Exception:
        """The recorded error whose text `error` contains, or `error` if there is none."""
        with self._lock:
            text = next((text for text in self._errors if text in str(error)), None)
            recorded = error if text is None else self._errors.pop(text)
        if recorded is not error:
            recorded.__cause__ = recorded.__cause__ or error
        return recorded


def naming(dataset: tf.data.Dataset, failures: Failures) -> tf.data.Dataset:
    """A dataset whose iterators raise the recorded errors, as do datasets made from it."""
    wrapped: tf.data.Dataset = _dataset_class()(dataset, failures)
    return wrapped


@lru_cache
def _dataset_class() -> Any:
    """The class of datasets that raise recorded errors, made once TensorFlow is imported."""
    import tensorflow as tf

    class NamingDataset(tf.data.Dataset):  # type: ignore[misc]  # TensorFlow has no types
        """A dataset that raises the errors of its Python functions."""

        def __init__(self, dataset: tf.data.Dataset, failures: Failures) -> None:
            self._wrapped = dataset
            self.failures = failures
            super().__init__(tf.data.experimental.to_variant(dataset))

        def _inputs(self) -> list[tf.data.Dataset]:
            return [self._wrapped]

        @property
        def element_spec(self) -> Any:
            """The types of its elements."""
            return self._wrapped.element_spec

        def __iter__(self) -> Any:
            queue_cleanup = ITERATORS.start()
            iterator = super().__iter__()
            base: Any = type(iterator)
            # It stays a TensorFlow iterator, so that a `tf.function` accepts it.
            iterator.__class__ = _iterator_class(base)
            iterator.failures = self.failures
            iterator.queue_cleanup = queue_cleanup
            return iterator

    for name, function in list(vars(tf.data.Dataset).items()):
        if inspect.isfunction(function) and not name.startswith("_"):
            setattr(NamingDataset, name, _naming_method(function))
    return NamingDataset


def _naming_method(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a dataset method: it raises the recorded errors, as does a dataset that it returns."""
    import tensorflow as tf

    @wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            result = function(self, *args, **kwargs)
        except tf.errors.OpError as error:
            raise self.failures.behind(error)  # noqa: B904 - `behind` sets the cause
        plain = isinstance(result, tf.data.Dataset) and not isinstance(result, _dataset_class())
        return naming(result, self.failures) if plain else result

    return method


@lru_cache
def _iterator_class(base: Any) -> Any:
    """The iterator class of a `NamingDataset`, a subclass of TensorFlow's `base`."""
    import tensorflow as tf

    class NamingIterator(base):  # type: ignore[misc]  # TensorFlow has no types
        """An iterator that raises the errors of the dataset's Python functions.

        Its TensorFlow resource is freed in a background thread.
        """

        failures: Failures
        queue_cleanup: Callable[[Callable[[], object]], None]

        def __next__(self) -> Any:
            try:
                return super().__next__()
            except tf.errors.OpError as error:
                raise self.failures.behind(error)  # noqa: B904 - `behind` sets the cause

        def get_next(self) -> Any:
            """The next element; `tf.errors.OutOfRangeError` after the last."""
            try:
                return super().get_next()
            except tf.errors.OpError as error:
                raise self.failures.behind(error)  # noqa: B904 - `behind` sets the cause

        def __del__(self) -> None:
            # Freeing the resource waits for running functions, so a thread of its own does it.
            attributes: dict[str, Any] = self.__dict__
            held = attributes.copy()
            attributes.clear()
            held["queue_cleanup"](held.clear)

    return NamingIterator
